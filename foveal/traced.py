"""Functions of tensors as kernels, for any size and called without a compiler's wrappers.

`torch.compile` looks at what it is called with, which costs as much as the work on a small tensor. Here a function is
traced over tensors of symbolic size, and what inductor makes of it is called as it is.
"""

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
ONE_THREAD = 16_384  # elements: up to here, more threads do not pay
FEWER_FUSIONS = {'max_fusion_size': 3}  # where inductor (torch 2.14) fails with a KeyError, it does not with these
UNSPLIT = 8192  # elements of a row: up to here, inductor gives its sum to one block of a GPU


@cache
def can_compile(device: str) -> bool:
    """Whether `torch.compile` finds what it needs for a device: a C++ compiler for the CPU, Triton for CUDA.

    TORCH_COMPILE_DISABLE=1 in the environment says no to everything that compiles by itself.
    """
    if os.environ.get('TORCH_COMPILE_DISABLE') == '1':
        return False
    if device == 'cuda':
        return importlib.util.find_spec('triton') is not None
    names = (os.environ.get('CXX', ''), 'g++', 'clang++', 'cl')
    return device == 'cpu' and any(name and shutil.which(name) for name in names)


def tuning(t: Tensor) -> dict[str, Any]:
    """Options of inductor that go by size: torch's cache on disk, which takes no account of sizes, tells by them.

    So a kernel of small tensors is never taken for large ones, nor that of one processor for several.
    """
    if t.device.type == 'cuda':
        return {'split_reductions': t.numel() > UNSPLIT * len(t)}
    return {'cpp.threads': torch.get_num_threads() if t.numel() > ONE_THREAD else 1}


def order(t: Tensor) -> list[int]:
    """The dimensions of more than one element, from the innermost in memory."""
    return sorted((i for i in range(t.ndim) if t.shape[i] != 1), key=t.stride)


def like(t: Tensor) -> Tensor:
    """Memory of its own, with the dimensions in the same order; strides of single elements follow from the others."""
    inner = order(t)
    dims = [i for i in range(t.ndim) if i not in inner] + inner[::-1]
    fresh = torch.empty([t.shape[i] for i in dims], dtype=t.dtype, device=t.device)
    return fresh.permute([dims.index(i) for i in range(t.ndim)])


def between(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    """`torch.lerp` in three operations; torch's own also chooses the end from which it rounds better."""
    return start + weight * (end - start)


class Traced:
    """A function of tensors, compiled by examples of them.

    It is for all tensors of their ranks, dtypes and order of memory whose sizes take the same course through it; sizes
    of 1 are constants. Autograd does not see it.

    Args:
        function: Takes tensors, which it may change, and returns none or several.
        examples: Such tensors, dense and without shared memory.
        fixed: Numbers of those whose sizes are constants.
        change: Changes the graph before it is compiled.
        options: Of inductor, besides `tuning`'s.

    Raises:
        ValueError: The function takes a size that is not 1 for a constant.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        examples: Sequence[Tensor],
        fixed: Collection[int] = (),
        change: Callable[[fx.GraphModule], None] = lambda graph: None,
        **options: Any,
    ) -> None:
        from torch._functorch import config
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        sizes = ShapeEnv(duck_shape=False)  # those that happen to be equal here stay two
        mode = FakeTensorMode(shape_env=sizes)
        # own memory each, so that none of these counts as a view of another
        fakes = [mode.from_tensor(like(t), static_shapes=i in fixed) for i, t in enumerate(examples)]
        several: Any = (size for t in fakes for size in t.shape if type(size) is torch.SymInt)
        self.symbols = [size.node.expr for size in several]
        self.free = [i for i in range(len(examples)) if i not in fixed]
        trace = make_fx(torch.func.functionalize(function), {aten.lerp.Tensor: between}, tracing_mode='symbolic')
        graph = trace(*fakes)
        change(graph)
        inputs = [node.meta['val'] for node in graph.graph.nodes if node.op == 'placeholder']
        made: list[Any] = []

        def keep(*args: Any, **options: Any) -> Any:  # what inductor makes, without what is made around it
            made.append(compile_fx_inner(*args, **options))
            return made[-1]

        with config.patch(enable_autograd_cache=False):  # inductor's own cache is what serves here
            compile_fx(graph, inputs, keep, tuning(examples[0]) | options)
        (self.run,) = (code.current_callable for code in made)
        self.conditions = [guard.expr for guard in sizes.guards]
        if any(size.is_number for size in sizes.replacements.values()) or not all(
            condition.free_symbols <= {*self.symbols} for condition in self.conditions
        ):
            raise ValueError('the function depends on the sizes it was traced with')

    def __call__(self, *tensors: Tensor) -> Any:
        return self.run(list(tensors))

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the kernel is right for the sizes of these tensors too."""
        values = (size for i in self.free for size in tensors[i].shape if size != 1)
        known = dict(zip(self.symbols, values, strict=True))
        return all(condition.subs(known) for condition in self.conditions)


class Kernels:
    """A function of tensors, compiled anew for what takes another course; as it is where that fails, which a warning
    tells. `make` compiles it by examples, with options of inductor."""

    def __init__(self, function: Callable[..., Any], make: Callable[..., Traced] = Traced) -> None:
        self.function, self.make = function, make
        self.made: dict[Any, list[Traced]] = {}
        self.chosen: dict[Any, Traced | None] = {}

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        key = tuple([(t.shape, t.dtype) for t in tensors])
        if key not in self.chosen:
            self.chosen[key] = self.choose(tensors)
        chosen = self.chosen[key]
        return self.function(*tensors) if chosen is None else chosen(*tensors)

    def choose(self, tensors: Sequence[Tensor]) -> Traced | None:
        """A kernel for such tensors; None where there can be none."""
        kinds = [(t.device, t.dtype, tuple(n == 1 for n in t.shape), tuple(order(t))) for t in tensors]
        made = self.made.setdefault((*kinds, *tuning(tensors[0]).items()), [])
        for known in made:
            if known.fits(tensors):
                return known
        for options in {}, FEWER_FUSIONS:
            try:
                made.append(self.make(self.function, tensors, **options))
                return made[-1]
            except Exception as error:  # of whatever kind: the function itself is right as well
                reason = str(error).splitlines()[0]
        name = getattr(self.function, '__qualname__', self.function)
        warnings.warn(f'{name} runs uncompiled: {reason}', stacklevel=3)
        return None
