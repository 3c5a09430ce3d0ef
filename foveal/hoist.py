"""Numbers of a traced function computed by Python, apart from its tensors."""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


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
        if node.target in SCALARS and not node.kwargs and all(n in single for n in node.all_input_nodes):
            single[node] = None
        elif node.target is aten.div.Tensor and node.args[1] in single:  # a product takes a quarter of the time
            with graph.inserting_before(node):
                factor = graph.call_function(aten.reciprocal.default, (node.args[1],))
            single[factor] = None
            node.target, node.args = aten.mul.Tensor, (node.args[0], factor)
    used = [node for node in single if any(user not in single for user in node.users)]

    before = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in single:
            copies[node] = before.node_copy(node, copies.__getitem__)
            copies[node].target = SCALARS.get(node.target, node.target)
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
    return lambda numbers: torch.tensor(run(numbers.tolist()), dtype=dtype)
