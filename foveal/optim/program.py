"""An algorithm's update of one tensor as a function over stored tensors: precision, decay, caution, compilation."""

from collections import namedtuple
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from foveal.optim.kernel import Kernel
from foveal.traced import Kernels

Advance = Callable[..., None]  # takes a parameter, its gradient, the formula's numbers, and its states


class Traits(NamedTuple):
    """How tensors are handed to `update`.

    `sees` is what `p` holds. 'elements': a run of numbers in one dimension, many tensors joined, for purely elementwise
    formulas, whose states have the parameter's shape. 'rows', (k, n): k tensors of n elements, for reductions over
    whole tensors; `norm(x)` and `mean(x)` reduce each. 'tensors', (k, *shape): k tensors of one shape, for formulas
    with structure. In the latter two a state of another shape comes as (k, *its shape), or (k, 1, ...) if it has none.
    """

    sees: Literal['elements', 'rows', 'tensors'] = 'elements'
    compile: bool = True  # whether that pays (not for matrix products and Python over the tensors)
    record: bool = False  # whether the formula could be a CUDA graph uncompiled: no draws, nothing decided by values
    stack: int | None = None  # tensors of at most so many elements are joined or stacked; None takes the device's


class Formula(NamedTuple):
    """What decides the code of a step, as a key: equal formulas share a compiled kernel."""

    algorithm: type  # whose `update` and `finish` are run
    states: tuple[str, ...]  # names, in order
    floats: tuple[str, ...]  # names of the numbers that come with each step, in order
    constants: tuple[tuple[str, Any], ...]  # names and values of what is compiled in
    decay: str  # 'coupled', 'decoupled', or another where the update does it
    caution: bool
    maximize: bool
    stochastic: bool


def mean(x: Tensor) -> Tensor:
    """Mean of each tensor of a stack (k, ...), as (k, 1, ...)."""
    return x.mean(tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else x


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each tensor of a stack (k, ...), as (k, 1, ...)."""
    return x.square().sum(tuple(range(1, x.ndim)), keepdim=True).sqrt() if x.ndim > 1 else x.abs()


def largest(x: Tensor, before: Tensor | None) -> Tensor:
    """The larger of a tensor and what was the largest so far, kept there; where that is not kept, the tensor itself."""
    return x if before is None else before.copy_(torch.maximum(before, x))


def cautious(d: Tensor, g: Tensor) -> Tensor:
    """The step `d` without the elements that go against the gradient, scaled up for them (arXiv:2411.16085)."""
    mask = (d * g > 0).to(d.dtype)
    return d * mask / mean(mask).clamp(min=1e-3)


def round_randomly(x: Tensor) -> Tensor:
    """float32 to bfloat16, up or down in proportion to the distance: right on average."""
    noise = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32, device=x.device)
    rounded = ((x.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).bfloat16()


@cache
def program(formula: Formula) -> Advance:
    """The step of a formula: `advance(p, g, numbers, *states)` changes p and the states in place."""
    algorithm: Any = formula.algorithm
    update, finish = algorithm.update, algorithm.finish
    absent = [name for name in algorithm.zeros_if.values() if name not in formula.states]
    make: Any = namedtuple  # of names that mypy cannot know
    State = make('State', [*formula.states, *absent], defaults=[None] * len(absent))
    Hyper = make('Hyper', [*formula.floats, *(name for name, _ in formula.constants)])
    constants, rate = [value for _, value in formula.constants], formula.floats.index('decay')

    def advance(p: Tensor, g: Tensor, numbers: Any, *stored: Tensor) -> None:
        work = torch.promote_types(p.dtype, torch.float32)
        if isinstance(numbers, Tensor):
            numbers = numbers.unbind()
        x, g = p.to(work), (g if g.ndim == p.ndim else g.unsqueeze(0)).to(work)
        tensors = [t.to(work) for t in stored]
        if formula.maximize:
            g = -g
        decay = numbers[rate]
        if isinstance(decay, Tensor) or decay:
            if formula.decay == 'coupled':
                g = g + decay * x
            elif formula.decay == 'decoupled':
                x.mul_(1 - decay)
        s, h = State(*tensors), Hyper(*numbers, *constants)
        d = update(x, g, s, h)
        if formula.caution:
            d = cautious(d, g)
        x.sub_(finish(x, d, h))
        if p.dtype != work:
            p.copy_(round_randomly(x) if formula.stochastic and p.dtype == torch.bfloat16 else x)
        for t, changed in zip(stored, tensors, strict=True):
            if t.dtype != work:
                t.copy_(changed)

    advance.__qualname__ = f'a step of {algorithm.__name__}'
    return advance


@cache
def kernels(formula: Formula) -> Kernels:
    """The kernels of a formula."""
    return Kernels(program(formula), Kernel)


def compiled(formula: Formula, *example: Tensor) -> Advance:
    """`program` for such tensors as it would get."""
    advance = program(formula)

    def as_it_is(p: Tensor, g: Tensor, numbers: Tensor, *states: Tensor) -> None:
        advance(p, g, numbers.tolist(), *states)

    return kernels(formula).choose(example) or as_it_is
