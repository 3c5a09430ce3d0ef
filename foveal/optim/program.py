"""An algorithm's update of one tensor as a function over stored tensors: precision, decay, caution, compilation."""

import importlib.util
import inspect
import os
import shutil
import types
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Advance = Callable[[Tensor, Tensor, Sequence[Tensor], Any], None]


class Traits(NamedTuple):
    """How tensors are handed to `update`.

    Attributes:
        sees: 'elements', 'rows' or 'tensors'; see `foveal.optim.engine`.
        compile: Whether compilation pays (not for matrix products and Python over the tensors).
        stack: Tensors of at most so many elements are joined or stacked; None takes the device's.
    """

    sees: Literal['elements', 'rows', 'tensors'] = 'elements'
    compile: bool = True
    stack: int | None = None


class Formula(NamedTuple):
    """What decides the code of a step, as a key: equal formulas share a compiled kernel.

    Attributes:
        algorithm: The class whose `update` and `finish` are run.
        states: Names of the state tensors, in order.
        floats: Names of the numbers that come with each step, in order.
        constants: Names and values of what is compiled in.
        decay: 'coupled', 'decoupled' or 'own'.
        caution, maximize, stochastic: The engine's options.
    """

    algorithm: type
    states: tuple[str, ...]
    floats: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    decay: str
    caution: bool
    maximize: bool
    stochastic: bool


def mean(x: Tensor) -> Tensor:
    """Mean of each tensor of a stack (k, ...), as (k, 1, ...)."""
    return x.mean(tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else x


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each tensor of a stack (k, ...), as (k, 1, ...)."""
    return x.square().sum(tuple(range(1, x.ndim)), keepdim=True).sqrt() if x.ndim > 1 else x.abs()


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
def wanted(algorithm: Any, name: str) -> dict[str, Any]:
    """Arguments by name of an algorithm's `update` or `finish`, with their defaults."""
    parameters = list(inspect.signature(getattr(algorithm, name)).parameters.values())
    return {p.name: p.default for p in parameters[2:]}


@cache
def program(formula: Formula) -> Advance:
    """The step of a formula: `advance(p, g, states, floats)` changes p and the states in place."""
    algorithm, states, floats = formula.algorithm, formula.states, formula.floats
    constants, rate = dict(formula.constants), floats.index('decay')
    update, finish = algorithm.update, algorithm.finish  # type: ignore[attr-defined]

    def sources(name: str) -> list[tuple[str, Any, Any]]:
        rows: list[tuple[str, Any, Any]] = []
        for argument, default in wanted(algorithm, name).items():
            if argument in states:
                rows.append((argument, 'state', states.index(argument)))
            elif argument in floats:
                rows.append((argument, 'float', floats.index(argument)))
            elif argument in constants:
                rows.append((argument, 'constant', constants[argument]))
            elif default is inspect.Parameter.empty:
                raise TypeError(f'{algorithm.__name__}.{name} wants {argument!r}: no state, option or scalar has it')
        return rows

    for_update, for_finish = sources('update'), sources('finish')

    def pick(rows: list[tuple[str, Any, Any]], tensors: list[Tensor], numbers: Any) -> dict[str, Any]:
        kept = {'state': tensors, 'float': numbers}
        return {name: at if source == 'constant' else kept[source][at] for name, source, at in rows}

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
        d = update(x, g, **pick(for_update, tensors, numbers))
        if formula.caution:
            d = cautious(d, g)
        x.sub_(finish(x, d, **pick(for_finish, tensors, numbers)))
        if p.dtype != work:
            p.copy_(round_randomly(x) if formula.stochastic and p.dtype == torch.bfloat16 else x)
        for t, changed in zip(stored, tensors, strict=True):
            if t.dtype != work:
                t.copy_(changed)

    return advance


@cache
def compiled(formula: Formula, plain: bool, variant: tuple[Any, ...]) -> Advance:  # noqa: ARG001
    """`program` in kernels; one a variant (dtypes, rank), so that none meets dynamo's limit of versions.

    Args:
        formula: What to compile.
        plain: Whether one kernel serves all tensors of the variant: dynamo's guards, which take as long as the rest
            of a call, are left out then.
        variant: What tensors differ in that share no kernel.
    """
    advance = program(formula)
    assert isinstance(advance, types.FunctionType)
    # dynamo keeps its versions by code object, and all formulas would share one
    code = advance.__code__.replace(co_name=f'{formula.algorithm.__name__}_{len(_names)}')
    _names.append(code.co_name)
    copy = types.FunctionType(code, advance.__globals__, code.co_name, advance.__defaults__, advance.__closure__)
    unguarded = getattr(torch.compiler, 'skip_all_guards_unsafe', None) if plain else None  # torch 2.8 and later
    options = {'guard_filter_fn': unguarded} if unguarded else {}
    fast = torch.compile(copy, dynamic=True, fullgraph=True, options=options)

    def run(p: Tensor, g: Tensor, stored: Sequence[Tensor], numbers: Any) -> None:
        nonlocal fast
        try:
            fast(p, g, stored, numbers)
        except torch._dynamo.exc.BackendCompilerFailed as error:  # before anything ran
            warnings.warn(f'optimizer runs uncompiled: {str(error).splitlines()[0]}', stacklevel=2)
            fast = advance
            advance(p, g, stored, numbers)

    return run


_names: list[str] = []


@cache
def can_compile(device: str) -> bool:
    """Whether `torch.compile` finds what it needs for a device: a C++ compiler for the CPU, Triton for CUDA."""
    if device == 'cuda':
        return importlib.util.find_spec('triton') is not None
    names = (os.environ.get('CXX', ''), 'g++', 'clang++', 'cl')
    return device == 'cpu' and any(name and shutil.which(name) for name in names)
