"""AdaBelief: Adam by the deviation of the gradient from what was expected (arXiv:2010.07468)."""

from typing import Any, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options
from foveal.optim.radam import rectification


class AdaBelief(Optimizer):
    """AdaBelief (arXiv:2010.07468, algorithm 2), also rectified as RAdam is.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the mean gradient and of the mean squared deviation from it.
        eps: Added to the deviation at each step, and to its root.
        weight_decay: Decoupled, unless told otherwise.
        amsgrad: Divide by the largest deviation so far.
        decoupled_decay: Decay as AdamW does; else it is added to the gradient.
        fixed_decay: Decoupled decay that does not depend on the learning rate.
        rectify: Rectify the variance of the first steps (arXiv:1908.03265).
        degenerated_to_sgd: Move by the momentum alone while rectification cannot rely on the deviation; else stay.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        decoupled_decay: bool = True,
        fixed_decay: bool = False,
        rectify: bool = True,
        degenerated_to_sgd: bool = True,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        own |= dict(decoupled_decay=decoupled_decay, fixed_decay=fixed_decay)
        super().__init__(params, own | dict(rectify=rectify, degenerated_to_sgd=degenerated_to_sgd), options)

    def decays(self, group: dict[str, Any]) -> str:
        if group['decoupled_decay'] or group['corrected_weight_decay']:
            return 'fixed' if group['fixed_decay'] else 'decoupled'
        return 'coupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        names = ('exp_avg', 'exp_avg_var') + (('max_exp_avg_var',) if group['amsgrad'] else ())
        return {name: torch.zeros_like(p) for name in names}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        if not group['rectify']:
            root = (1 - beta2**step) ** 0.5
            return {'reliable': 1.0, 'correction2': root, 'rate': group['lr'] / (1 - beta1**step)}
        reliable, factor = rectification(beta1, beta2, step)
        moves = 1.0 if group['degenerated_to_sgd'] else reliable
        return {'reliable': reliable, 'correction2': 1.0, 'rate': group['lr'] * factor * moves}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_var: Tensor,
        beta1: float,
        beta2: float,
        eps: float,
        reliable: float,
        correction2: float,
        rate: float,
        max_exp_avg_var: Tensor | None = None,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        exp_avg_var.lerp_((g - exp_avg).square(), 1 - beta2).add_(eps)
        if max_exp_avg_var is not None:
            exp_avg_var = max_exp_avg_var.copy_(torch.maximum(max_exp_avg_var, exp_avg_var))
        root = exp_avg_var.sqrt() / correction2 + eps
        return rate * exp_avg / (reliable * root + (1 - reliable))
