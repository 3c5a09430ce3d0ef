"""LAMB: Adam scaled to each tensor's norm (arXiv:1904.00962)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options, Traits, norm


class Lamb(Optimizer):
    """LAMB: Adam's step, scaled by the ratio of the tensor's norm to the step's (arXiv:1904.00962).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        bias_correction: Whether the means are corrected for their start at zero.
        betas: Of the means of the gradient and of its square.
        eps: Added to the root of the second.
        weight_decay: Added to the step before its norm is taken, unless decoupled.
        grad_averaging: Weigh the gradient by 1 - beta1 in its mean.
        max_grad_norm: The gradients are scaled down where their norm over all parameters is above it; None leaves them.
        trust_clip: Keep the ratio of norms at most 1 (LAMBC).
        always_adapt: Scale by the ratio of norms also where there is no decay.
        decoupled_decay: Decay as AdamW does.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'exp_avg_sq')
    traits: ClassVar = {'': Traits('rows')}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        grad_averaging: bool = True,
        max_grad_norm: float | None = 1.0,
        trust_clip: bool = False,
        always_adapt: bool = False,
        decoupled_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, bias_correction=bias_correction, betas=betas, eps=eps, weight_decay=weight_decay)
        own |= dict(grad_averaging=grad_averaging, max_grad_norm=max_grad_norm, trust_clip=trust_clip)
        super().__init__(params, own | dict(always_adapt=always_adapt, decoupled_decay=decoupled_decay), options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled' if group['decoupled_decay'] or group['corrected_weight_decay'] else 'own'

    def begin(self) -> None:
        gradients = [p.grad for group in self.param_groups for p in group['params'] if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients, foreach=True)

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        corrects = group['bias_correction']
        clip = group['max_grad_norm']
        return {
            'correction1': 1 - beta1**step if corrects else 1.0,
            'correction2': (1 - beta2**step) ** 0.5 if corrects else 1.0,
            'weight1': 1 - beta1 if group['grad_averaging'] else 1.0,
            'clip': 1.0 if clip is None else (clip / self.grad_norm).clamp(max=1.0),
            'adds': self.decays(group) == 'own',
            'adapts': group['weight_decay'] != 0 or group['always_adapt'],
        }

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        beta1: float,
        beta2: float,
        eps: float,
        correction1: float,
        correction2: float,
        weight1: float,
        clip: float,
    ) -> Tensor:
        g = g * clip
        exp_avg.mul_(beta1).add_(g * weight1)
        exp_avg_sq.lerp_(g * g, 1 - beta2)
        return exp_avg / correction1 / (exp_avg_sq.sqrt() / correction2 + eps)

    @staticmethod
    def finish(p: Tensor, d: Tensor, lr: float, decay: float, adds: bool, adapts: bool, trust_clip: bool) -> Tensor:
        if adds:
            d = d + decay * p
        if not adapts:
            return lr * d
        p_norm, d_norm = norm(p), norm(d)
        ratio = torch.where((p_norm > 0) & (d_norm > 0), p_norm / d_norm, 1.0)
        return lr * d * (ratio.clamp(max=1.0) if trust_clip else ratio)
