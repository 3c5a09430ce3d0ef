"""The step of a formula as one kernel for tensors of any size on a CPU, called without a compiler's wrappers.

`torch.compile` looks at what it is called with, which costs as much as the step of a small tensor. Here the step is
traced over tensors of symbolic size, and what inductor makes of it is called as it is: `Bucket.plain` says which
tensors it fits.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
ONE_THREAD = 16_384  # elements: up to here, more threads do not pay


def between(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    """`torch.lerp` in three operations; torch's own also chooses the end from which it rounds better."""
    return start + weight * (end - start)


def threads(p: Tensor) -> int:
    """Threads of a kernel: compiled into it, since torch's cache on disk takes no account of their number or of sizes.

    So a kernel of small tensors is never taken for large ones, nor that of one processor for several.
    """
    return torch.get_num_threads() if p.numel() > ONE_THREAD else 1


class Kernel:
    """A `foveal.optim.program.program` compiled by examples of what it gets.

    It is for all tensors of their rank, dtypes and order of memory whose sizes take the same course through it.
    """

    def __init__(self, advance: Callable[..., None], p: Tensor, g: Tensor, states: Sequence[Tensor], numbers: Tensor):
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        def flat(p: Tensor, g: Tensor, numbers: Tensor, *states: Tensor) -> None:
            advance(p, g, states, numbers)

        sizes = ShapeEnv(duck_shape=False)  # those that happen to be equal here stay two
        mode = FakeTensorMode(shape_env=sizes)
        # own memory each, so that none of these counts as a view of another
        examples = [mode.from_tensor(torch.empty_like(t), static_shapes=t is numbers) for t in (p, g, numbers, *states)]
        several: Any = (size for t in (*examples[:2], *examples[3:]) for size in t.shape if type(size) is torch.SymInt)
        self.symbols = [size.node.expr for size in several]
        decompositions = {aten.lerp.Tensor: between}
        graph = make_fx(torch.func.functionalize(flat), decompositions, tracing_mode='symbolic')(*examples)
        self.prepare = hoist(graph, 2, torch.promote_types(p.dtype, torch.float32))
        inputs = [node.meta['val'] for node in graph.graph.nodes if node.op == 'placeholder']
        made: list[Any] = []

        def keep(*args: Any, **options: Any) -> Any:  # what inductor makes, without what is made around it
            made.append(compile_fx_inner(*args, **options))
            return made[-1]

        compile_fx(graph, inputs, keep, {'cpp.threads': threads(p)})
        (self.run,) = (code.current_callable for code in made)
        if any(size.is_number for size in sizes.replacements.values()):
            raise ValueError('the formula depends on the sizes it was traced with')
        self.conditions = [guard.expr for guard in sizes.guards]
        self.last: tuple[Any, Any] = None, None

    def fits(self, p: Tensor, states: Sequence[Tensor]) -> bool:
        """Whether the kernel is right for these sizes too."""
        values = dict(zip(self.symbols, (size for t in (p, p, *states) for size in t.shape if size != 1), strict=True))
        return all(condition.subs(values) for condition in self.conditions)

    def __call__(self, p: Tensor, g: Tensor, states: Sequence[Tensor], numbers: Tensor) -> None:
        if self.last[0] is not numbers:
            self.last = numbers, self.prepare(numbers)
        self.run([p, g, self.last[1], *states])
        torch.autograd.graph.increment_version(p)


def hoist(module: fx.GraphModule, index: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Takes the arithmetic of single numbers out of a graph, which inductor would repeat for every few elements.

    Returns:
        What turns the numbers, so far its input at `index`, into what is its input there now, in `dtype`.
    """
    graph = module.graph
    numbers = [node for node in graph.nodes if node.op == 'placeholder'][index]
    single = {numbers: None}  # an ordered set
    for node in list(graph.nodes):
        if node.all_input_nodes and node.op == 'call_function' and all(n in single for n in node.all_input_nodes):
            single[node] = None
        elif node.target is aten.div.Tensor and node.args[1] in single:  # a product takes a quarter of the time
            with graph.inserting_before(node):
                inverse = graph.call_function(aten.reciprocal.default, (node.args[1],))
            single[inverse] = None
            node.target, node.args = aten.mul.Tensor, (node.args[0], inverse)
    used = [node for node in single if any(user not in single for user in node.users)]

    before = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in single:
            copies[node] = before.node_copy(node, copies.__getitem__)
    before.output(before.call_method('to', (before.call_function(torch.stack, ([copies[n] for n in used],)), dtype)))

    with graph.inserting_after(numbers):
        parts = graph.call_function(aten.unbind.int, (numbers,))
    for i, node in enumerate(used):
        with graph.inserting_after(parts):
            part = graph.call_function(operator.getitem, (parts, i))
        node.replace_all_uses_with(part, lambda user: user not in single)
    for node in reversed(single):
        if node is not numbers:
            graph.erase_node(node)
    with numbers.meta['val'].fake_mode:
        numbers.meta['val'] = torch.empty(len(used), dtype=dtype)
    module.recompile()
    return fx.GraphModule(module, before)
