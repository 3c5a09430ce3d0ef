"""Adan: Adam with a momentum of the gradient's change (arXiv:2208.06677)."""

from typing import Any, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class Adan(Optimizer):
    """Adan: Nesterov momentum by the change of the gradient (arXiv:2208.06677, algorithm 1).

    Args:
        params: Parameters or groups.
        lr: Learning rate; five to ten times AdamW's.
        betas: Of the gradient, of its change, and of the squares.
        eps: Added to the root of the squares.
        weight_decay: As a proximal step, p / (1 + lr weight_decay) after the update, or as decoupled decay.
        no_prox: Decoupled decay, as AdamW's.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        no_prox: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, no_prox=no_prox), options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled' if group['no_prox'] else 'own'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        names = ('exp_avg', 'exp_avg_diff', 'exp_avg_sq', 'last_grad')
        return {name: torch.zeros_like(p) for name in names}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        corrections = {f'correction{i}': 1 - beta**step for i, beta in enumerate(group['betas'], 1)}
        # the gradient before the first is the first
        return {**corrections, 'seen': (step > 1) * 1.0, 'pull': 0.0 if group['no_prox'] else group['weight_decay']}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_diff: Tensor,
        exp_avg_sq: Tensor,
        last_grad: Tensor,
        lr: float,
        beta1: float,
        beta2: float,
        beta3: float,
        eps: float,
        correction1: float,
        correction2: float,
        correction3: float,
        seen: float,
    ) -> Tensor:
        change = seen * (g - last_grad)
        last_grad.copy_(g)
        exp_avg.lerp_(g, 1 - beta1)
        exp_avg_diff.lerp_(change, 1 - beta2)
        exp_avg_sq.lerp_((g + beta2 * change).square(), 1 - beta3)
        denominator = (exp_avg_sq / correction3).sqrt() + eps
        return lr * (exp_avg / correction1 + beta2 / correction2 * exp_avg_diff) / denominator

    @staticmethod
    def finish(p: Tensor, d: Tensor, lr: float, pull: float) -> Tensor:
        return (d + lr * pull * p) / (1 + lr * pull)
