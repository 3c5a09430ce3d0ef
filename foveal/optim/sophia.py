"""Sophia: momentum over the Hessian's diagonal, clipped (arXiv:2305.14342)."""

from typing import Any, Unpack

from torch import Tensor

from foveal.optim.engine import Options
from foveal.optim.hessian import HessianOptimizer


class Sophia(HessianOptimizer):
    """Sophia-H (arXiv:2305.14342, algorithm 3, with Hutchinson's estimate of the Hessian's diagonal).

    Args:
        params: Parameters or groups, with gradients of `loss.backward(create_graph=True)`.
        lr: Learning rate: the largest step of an element.
        betas: Of the momentum and of the diagonal.
        gamma: The diagonal is divided by after this factor: less clips more.
        eps: Least divisor.
        weight_decay: Decoupled.
        update_each: Steps from one estimate of the diagonal to the next.
        n_samples: Random directions an estimate.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'hessian')

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.96, 0.99),
        gamma: float = 0.01,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        update_each: int = 10,
        n_samples: int = 1,
        **options: Unpack[Options],
    ) -> None:
        defaults = dict(lr=lr, betas=betas, gamma=gamma, eps=eps, weight_decay=weight_decay)
        super().__init__(params, defaults, options, update_each, n_samples)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled'

    def measured(self, p: Tensor, diagonal: Tensor, group: dict[str, Any]) -> None:
        hessian = self.state[p]['hessian']
        hessian.lerp_(diagonal.to(hessian.dtype), 1 - group['betas'][1])

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        hessian: Tensor,
        lr: float,
        beta1: float,
        gamma: float,
        eps: float,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        return lr * (exp_avg / (gamma * hessian).clamp(min=eps)).clamp(-1, 1)
