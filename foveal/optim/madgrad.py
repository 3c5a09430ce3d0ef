"""MADGRAD: dual averaging with momentum and cube-root scaling (arXiv:2101.11075)."""

from typing import Any, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class MADGRAD(Optimizer):
    """MADGRAD (arXiv:2101.11075, algorithm 1): every step is taken from the starting point.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: In [0, 1).
        weight_decay: Added to the gradient, or decoupled.
        eps: Added to the cube root of the squares, and to the learning rate.
        decoupled_decay: Decoupled decay.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eps: float = 1e-6,
        decoupled_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, eps=eps, decoupled_decay=decoupled_decay)
        super().__init__(params, defaults, options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled' if group['decoupled_decay'] or group['corrected_weight_decay'] else 'coupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = {'grad_sum_sq': torch.zeros_like(p), 's': torch.zeros_like(p)}
        return {**state, 'x0': p.clone()} if group['momentum'] else state

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        return {'rate': (group['lr'] + group['eps']) * step**0.5}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        grad_sum_sq: Tensor,
        s: Tensor,
        momentum: float,
        eps: float,
        rate: float,
        x0: Tensor | None = None,
    ) -> Tensor:
        start = p + s / (grad_sum_sq.pow(1 / 3) + eps) if x0 is None else x0  # without momentum it can be told from p
        s.add_(rate * g)
        grad_sum_sq.add_(rate * g.square())
        return (1 - momentum) * (p - start + s / (grad_sum_sq.pow(1 / 3) + eps))
