"""SGD with momentum and decoupled decay (arXiv:1711.05101)."""

from typing import Any, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class SGDW(Optimizer):
    """SGDW: SGD with momentum, decay decoupled (arXiv:1711.05101, algorithm 1).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Share of the last step that is kept.
        dampening: Share of the gradient that does not enter the momentum, from the second step on.
        weight_decay: Decoupled.
        nesterov: Look ahead by one step of the momentum.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f'nesterov needs momentum above 0 and dampening 0; they are {momentum} and {dampening}')
        own = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        super().__init__(params, own, options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {'momentum_buffer': torch.zeros_like(p)} if group['momentum'] else {}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        return {'weight': 1 - group['dampening'] * (step > 1)}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        lr: float,
        momentum: float,
        weight: float,
        nesterov: bool,
        momentum_buffer: Tensor | None = None,
    ) -> Tensor:
        if momentum_buffer is None:
            return lr * g
        momentum_buffer.mul_(momentum).add_(weight * g)
        return lr * (g + momentum * momentum_buffer if nesterov else momentum_buffer)
