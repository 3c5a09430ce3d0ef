"""Functions of tensors as kernels for a CPU, for any size and called without a compiler's wrappers.

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


def threads(elements: int) -> int:
    """Threads of a kernel: compiled into it, since torch's cache on disk takes no account of their number or of sizes.

    So a kernel of small tensors is never taken for large ones, nor that of one processor for several.
    """
    return torch.get_num_threads() if elements > ONE_THREAD else 1


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
        options: Of inductor.

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
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        sizes = ShapeEnv(duck_shape=False)  # those that happen to be equal here stay two
        mode = FakeTensorMode(shape_env=sizes)
        # own memory each, so that none of these counts as a view of another
        fakes = [mode.from_tensor(torch.empty_like(t), static_shapes=i in fixed) for i, t in enumerate(examples)]
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

        compile_fx(graph, inputs, keep, {'cpp.threads': threads(examples[0].numel()), **options})
        (self.run,) = (code.current_callable for code in made)
        if any(size.is_number for size in sizes.replacements.values()):
            raise ValueError('the function depends on the sizes it was traced with')
        self.conditions = [guard.expr for guard in sizes.guards]

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the kernel is right for the sizes of these tensors too."""
        values = (size for i in self.free for size in tensors[i].shape if size != 1)
        known = dict(zip(self.symbols, values, strict=True))
        return all(condition.subs(known) for condition in self.conditions)


class Kernels:
    """A function of tensors that returns tensors, compiled anew for what takes another course; as it is where that
    fails, which a warning tells."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self.function = function
        self.made: dict[Any, list[Traced]] = {}
        self.chosen: dict[Any, Traced | None] = {}

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        key = tuple([(t.shape, t.dtype) for t in tensors])
        if key not in self.chosen:
            self.chosen[key] = self.choose(tensors)
        chosen = self.chosen[key]
        return self.function(*tensors) if chosen is None else chosen.run(list(tensors))

    def choose(self, tensors: Sequence[Tensor]) -> Traced | None:
        """A kernel for such tensors; None where there can be none."""
        dtypes, ones = (tuple(t.dtype for t in tensors)), tuple(tuple(n == 1 for n in t.shape) for t in tensors)
        made = self.made.setdefault((dtypes, ones, threads(tensors[0].numel())), [])
        for known in made:
            if known.fits(tensors):
                return known
        try:
            # what several results are made of is made again for each: it would else be kept, in float32
            made.append(Traced(self.function, tensors, realize_reads_threshold=16))
        except Exception as error:  # of whatever kind: the function itself is right as well
            warnings.warn(f'{self.function} runs uncompiled: {str(error).splitlines()[0]}', stacklevel=3)
            return None
        return made[-1]
