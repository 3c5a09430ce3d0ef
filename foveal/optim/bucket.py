"""Tensors that take their step together: small ones joined or stacked, large ones as they lie in memory."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from foveal.optim.program import Formula, Traits, compiled, program

SMALL = 16_384  # elements: below, a tensor costs more by its call than by its memory traffic
SMALL_CUDA = 1_048_576  # on a GPU a launch costs as much as more traffic
Member = tuple[Tensor, dict[str, Any]]  # a parameter and its state


def dense(t: Tensor) -> bool:
    """Whether the elements of a tensor fill one piece of memory, in whatever order of dimensions."""
    return torch.empty_like(t, device='meta').stride() == t.stride()  # which are kept just then


def local(t: Tensor) -> Tensor:
    """What a tensor, perhaps a distributed one, holds here."""
    t = t.detach()
    return t.to_local() if hasattr(t, 'to_local') else t


class Bucket:
    """Parameters that one call updates.

    Args:
        members: A parameter and its state, or several of one dtype, device and step count, of one shape too unless
            `sees` is 'elements'.
        names: Names of the state tensors that the update takes.
        kind, sees: The formula that they take, and how it sees them; see `Traits`.
        loose: One parameter taken in its own shape: not dense in memory, or distributed and with reductions.
    """

    def __init__(
        self, members: list[Member], names: tuple[str, ...], kind: str, sees: str, loose: bool = False
    ) -> None:
        params, states = [p for p, _ in members], [state for _, state in members]
        self.params, self.states = params, states
        self.names, self.kind, self.sees, self.loose = names, kind, sees, loose
        self.distributed = hasattr(params[0], 'to_local') and not loose
        self.pieces = [self.view(p, p) for p in params]
        assert params[0].grad is not None
        self.gradient_dtype = params[0].grad.dtype
        self.strides = [local(p).stride() for p in params]
        self.sizes = [t.numel() for t in self.pieces]
        self.lone = params[0] if len(params) == 1 and not loose and not self.distributed else None
        self.p = self.stack(self.pieces)
        self.layout = self.p.shape, self.p.stride()
        self.parts = list(self.split(self.p)) if len(members) > 1 else []
        self.tensors = [self.keep(name) for name in names]
        self.device = self.p.device
        self.small = max(self.sizes) <= SMALL_CUDA and not loose and not self.distributed
        self.compiles = self.records = False
        self.formula: Formula | None = None
        self.advance: Callable[..., None] | None = None

    def view(self, t: Tensor, p: Tensor) -> Tensor:
        """A parameter or one of its states as the update sees it before stacking, in the same memory."""
        if self.loose:
            return t.detach()
        t = local(t)
        return t.as_strided((t.numel(),), (1,)) if self.sees != 'tensors' and t.shape == local(p).shape else t

    def gradients(self) -> Tensor:
        """The gradients as the update gets them."""
        if self.lone is not None:  # in fewer operations: there are many such buckets
            g = self.ordered(self.lone.grad, self.strides[0])  # type: ignore[arg-type]
            # of one tensor in its shape the first dimension is left out, since a view takes time
            return g if self.sees == 'tensors' else g.as_strided(*self.layout)
        parts: list[Tensor] = [p.grad for p in self.params]  # type: ignore[misc]
        if self.distributed:
            parts = [local(g) for g in parts]
        if self.loose:
            return self.stack(parts)
        parts = [self.ordered(g, stride) for g, stride in zip(parts, self.strides, strict=True)]
        if self.sees != 'tensors':
            flat = zip(parts, self.sizes, strict=True)
            parts = [g if g.ndim == 1 else g.as_strided((size,), (1,)) for g, size in flat]
        return self.stack(parts)

    def ordered(self, g: Tensor, stride: tuple[int, ...]) -> Tensor:
        """A gradient in its parameter's order of memory, and in the dtype that kernels were made for."""
        if g.stride() == stride and g.dtype == self.gradient_dtype:
            return g
        return torch.empty_strided(g.shape, stride, dtype=self.gradient_dtype, device=g.device).copy_(g)

    def stack(self, tensors: list[Tensor], out: Tensor | None = None) -> Tensor:
        """Views as the one tensor that the update gets; shares the memory of a single one."""
        if self.sees == 'elements' and not self.loose:
            return tensors[0] if len(tensors) == 1 else torch.cat(tensors, out=out)
        return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors, out=out)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The other way round: views of the single tensors."""
        return x.split(self.sizes) if self.sees == 'elements' and not self.loose else x.unbind()

    def keep(self, name: str) -> Tensor:
        """A state of all as the update gets it, which the single states become views of: nothing is moved in a step."""
        whole = [state[name] for state in self.states]
        x = self.stack([self.view(t, p) for t, p in zip(whole, self.params, strict=True)])
        if len(whole) > 1:
            for state, t, part in zip(self.states, whole, self.split(x), strict=True):
                state[name] = part.as_strided(t.shape, t.stride()) if part.shape != t.shape else part
        return x.view(-1, *[1] * (self.p.ndim - 1)) if x.ndim == 1 and self.p.ndim > 1 else x

    def run(self, formula: Formula, numbers: Any, g: Tensor) -> None:
        """Takes a step by a formula and its floats of now, in order; they are one tensor where it is compiled."""
        if self.parts:
            self.stack(self.pieces, self.p)
        given = self.p, g, numbers, *self.tensors
        if self.formula is not formula:
            self.formula, self.advance = formula, compiled(formula, *given) if self.compiles else program(formula)
        assert self.advance
        self.advance(*given)
        if self.parts:
            torch._foreach_copy_(self.pieces, self.parts)


def buckets(
    params: Iterable[tuple[Tensor, dict[str, Any], tuple[str, ...], str, Traits]], join: bool = True
) -> list[Bucket]:
    """Sorts parameters into as few buckets as pay; `join` lets small ones go together.

    Args:
        params: Each with its state, the names of its state tensors, its kind and the traits of that.
    """
    alone, together = [], {}  # type: list[Bucket], dict[Any, list[Member]]
    for p, state, names, kind, traits in params:
        distributed, sees = hasattr(p, 'to_local'), traits.sees
        loose = distributed and sees != 'elements'
        if sees != 'tensors' and not loose:
            alike = (state[n].stride() == p.stride() for n in names if state[n].shape == p.shape)
            loose = not dense(local(p)) or not all(alike)
        limit = traits.stack if traits.stack is not None else SMALL_CUDA if p.device.type == 'cuda' else SMALL
        if loose or distributed or not join or p.numel() > limit:
            alone.append(Bucket([(p, state)], names, kind, sees, loose))
            continue
        assert p.grad is not None
        shape = None if sees == 'elements' else p.shape
        dtypes = (p.dtype, p.grad.dtype, *(state[n].dtype for n in names))
        key = (kind, sees, names, p.device, dtypes, shape, float(state['step']))
        together.setdefault(key, []).append((p, state))
    joined = [Bucket(members, names, kind, sees) for (kind, sees, names, *_), members in together.items()]
    # a kernel is made by its first tensors, and what does for large ones does for smaller ones
    return alone + sorted(joined, key=lambda bucket: -max(bucket.sizes))
