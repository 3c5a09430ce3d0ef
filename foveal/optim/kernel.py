"""The step of a formula as one kernel for tensors of any size on a CPU; `Bucket.plain` says which tensors it fits."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from foveal.traced import Traced

aten = torch.ops.aten


class Kernel(Traced):
    """A `foveal.optim.program.program` compiled by examples of what it gets."""

    def __init__(self, advance: Callable[..., None], p: Tensor, g: Tensor, states: Sequence[Tensor], numbers: Tensor):
        def flat(p: Tensor, g: Tensor, numbers: Tensor, *states: Tensor) -> None:
            advance(p, g, states, numbers)

        def change(graph: fx.GraphModule) -> None:
            self.prepare = hoist(graph, 2, torch.promote_types(p.dtype, torch.float32))

        super().__init__(flat, (p, g, numbers, *states), {2}, change)
        self.last: tuple[Any, Any] = None, None

    def __call__(self, p: Tensor, g: Tensor, states: Sequence[Tensor], numbers: Tensor) -> None:
        if self.last[0] is not numbers:
            self.last = numbers, self.prepare(numbers)
        self.run([p, g, self.last[1], *states])


def inverse(x: float) -> float:
    """1 / x, as tensors have it."""
    return 1 / x if x else math.copysign(math.inf, x)


def ratio(x: float, y: float) -> float:
    """x / y, as tensors have it."""
    return x * inverse(y)


def less(x: float, y: float) -> float:
    """y - x."""
    return y - x


# what numbers of Python do at a tenth of the time that tensors of one element take
SCALARS: dict[Any, Callable[..., Any]] = {
    aten.unbind.int: list,
    operator.getitem: operator.getitem,
    aten.neg.default: operator.neg,
    aten.add.Tensor: operator.add,
    aten.mul.Tensor: operator.mul,
    aten.div.Tensor: ratio,
    aten.rsub.Scalar: less,
    aten.reciprocal.default: inverse,
}


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
                factor = graph.call_function(aten.reciprocal.default, (node.args[1],))
            single[factor] = None
            node.target, node.args = aten.mul.Tensor, (node.args[0], factor)
    used = [node for node in single if any(user not in single for user in node.users)]
    of_python = all(node is numbers or (node.target in SCALARS and not node.kwargs) for node in single)

    before = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in single:
            copies[node] = before.node_copy(node, copies.__getitem__)
            copies[node].target = SCALARS[node.target] if of_python and node is not numbers else node.target
    before.output([copies[node] for node in used])

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
    run = fx.GraphModule(module, before)

    def prepare(numbers: Tensor) -> Tensor:
        if of_python:
            return torch.tensor(run(numbers.tolist()), dtype=dtype, device=numbers.device)
        return torch.stack(run(numbers)).to(dtype)

    return prepare
