"""An algorithm's update of one tensor as a function over stored tensors: precision, decay, caution, compilation."""

import contextlib
import types
import warnings
from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from foveal.optim.kernel import Kernel

Advance = Callable[[Tensor, Tensor, Sequence[Tensor], Any], None]


class Traits(NamedTuple):
    """How tensors are handed to `update`.

    `sees` is what `p` holds. 'elements': a run of numbers in one dimension, many tensors joined, for purely elementwise
    formulas, whose states have the parameter's shape. 'rows', (k, n): k tensors of n elements, for reductions over
    whole tensors; `norm(x)` and `mean(x)` reduce each. 'tensors', (k, *shape): k tensors of one shape, for formulas
    with structure. In the latter two a state of another shape comes as (k, *its shape), or (k, 1, ...) if it has none.
    """

    sees: Literal['elements', 'rows', 'tensors'] = 'elements'
    compile: bool = True  # whether that pays (not for matrix products and Python over the tensors)
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
    """The step of a formula: `advance(p, g, states, floats)` changes p and the states in place."""
    algorithm: Any = formula.algorithm
    update, finish = algorithm.update, algorithm.finish
    absent = [name for name in algorithm.zeros_if.values() if name not in formula.states]
    make: Any = namedtuple  # of names that mypy cannot know
    State = make('State', [*formula.states, *absent], defaults=[None] * len(absent))
    Hyper = make('Hyper', [*formula.floats, *(name for name, _ in formula.constants)])
    constants, rate = [value for _, value in formula.constants], formula.floats.index('decay')

    def advance(p: Tensor, g: Tensor, stored: Sequence[Tensor], numbers: Any) -> None:
        work = torch.promote_types(p.dtype, torch.float32)
        if isinstance(numbers, Tensor):
            numbers = numbers.unbind()
        x, g = p.to(work), g.to(work)
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

    return advance


@cache
def compiled(formula: Formula, plain: bool, variant: tuple[Any, ...]) -> Callable[..., Advance]:  # noqa: ARG001
    """Finds what of `program` compiled is for some tensors, given as it takes them.

    `variant` is what tensors differ in that share no kernel (dtypes, rank), so that none meets dynamo's limit of
    versions; where it is `plain`, a kernel serves all sizes that take the same course.
    """
    advance = program(formula)
    assert isinstance(advance, types.FunctionType)
    # dynamo keeps its versions by code object, and all formulas would share one
    code = advance.__code__.replace(co_name=f'{formula.algorithm.__name__}_{len(_names)}')
    _names.append(code.co_name)
    copy = types.FunctionType(code, advance.__globals__, code.co_name, advance.__defaults__, advance.__closure__)
    made: Advance = torch.compile(copy, dynamic=True, fullgraph=True)
    kernels: list[Kernel] = []
    chosen: dict[Any, Advance] = {}

    def general(p: Tensor, g: Tensor, stored: Sequence[Tensor], numbers: Any) -> None:
        nonlocal made
        try:
            made(p, g, stored, numbers)
        except torch._dynamo.exc.BackendCompilerFailed as error:  # before anything ran
            warnings.warn(f'optimizer runs uncompiled: {str(error).splitlines()[0]}', stacklevel=2)
            made = advance
            advance(p, g, stored, numbers)

    def choose(p: Tensor, g: Tensor, stored: Sequence[Tensor], numbers: Any) -> Advance:
        if p.shape not in chosen:
            chosen[p.shape] = next((known for known in kernels if known.fits((p, g, numbers, *stored))), general)
            if plain and chosen[p.shape] is general:
                with contextlib.suppress(Exception):  # whatever it is, the slower way meets it too, or manages
                    kernels.append(Kernel(advance, p, g, stored, numbers))
                    chosen[p.shape] = kernels[-1]
        return chosen[p.shape]

    return choose


_names: list[str] = []
