"""AdaHessian: Adam by the diagonal of the Hessian (arXiv:2006.00719)."""

from typing import Any, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Options
from foveal.optim.hessian import HessianOptimizer


class Adahessian(HessianOptimizer):
    """AdaHessian: Adam whose squares are those of the Hessian's diagonal (arXiv:2006.00719, algorithm 1).

    Args:
        params: Parameters or groups, with gradients of `loss.backward(create_graph=True)`.
        lr: Learning rate.
        betas: Of the momentum and of the squares.
        eps: Added to the root of the squares.
        weight_decay: Decoupled.
        hessian_power: 1 divides by the root of the squares, less by less.
        update_each: Steps from one estimate to the next.
        n_samples: Random directions an estimate.
        avg_conv_kernel: Average over the positions of a kernel (out, in, height, width).
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        hessian_power: float = 1.0,
        update_each: int = 1,
        n_samples: int = 1,
        avg_conv_kernel: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, hessian_power=hessian_power)
        self.avg_conv_kernel = avg_conv_kernel
        super().__init__(params, defaults, options, update_each, n_samples)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {name: torch.zeros_like(p) for name in ('exp_avg', 'exp_hessian_diag_sq', 'hessian')}

    def measured(self, p: Tensor, diagonal: Tensor, group: dict[str, Any]) -> None:
        if self.avg_conv_kernel and p.ndim == 4:
            diagonal = diagonal.abs().mean((2, 3), keepdim=True).expand_as(p)
        self.state[p]['hessian'].copy_(diagonal)

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        return {f'correction{i}': 1 - beta**step for i, beta in enumerate(group['betas'], 1)}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_hessian_diag_sq: Tensor,
        hessian: Tensor,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        hessian_power: float,
        correction1: float,
        correction2: float,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        exp_hessian_diag_sq.lerp_(hessian.square(), 1 - beta2)
        return lr * (exp_avg / correction1) / ((exp_hessian_diag_sq / correction2).pow(hessian_power / 2) + eps)
