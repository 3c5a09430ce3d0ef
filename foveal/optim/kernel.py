"""The step of a formula as one kernel for tensors of any size."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from foveal.hoist import hoist
from foveal.traced import Traced


class Kernel(Traced):
    """A `foveal.optim.program.program` compiled by examples of what it gets."""

    def __init__(self, advance: Callable[..., None], examples: Sequence[Tensor], **options: Any) -> None:
        self.prepare: Callable[[Tensor], Tensor] = lambda numbers: numbers
        self.last: tuple[Any, Any] = None, None

        def change(graph: fx.GraphModule) -> None:
            if examples[0].device.type == 'cpu':
                self.prepare = hoist(graph, 2, torch.promote_types(examples[0].dtype, torch.float32))

        super().__init__(advance, examples, {2}, change, **options)

    def __call__(self, p: Tensor, g: Tensor, numbers: Tensor, *states: Tensor) -> None:  # type: ignore[override]
        if self.last[0] is not numbers:
            self.last = numbers, self.prepare(numbers)
        self.run([p, g, self.last[1], *states])
