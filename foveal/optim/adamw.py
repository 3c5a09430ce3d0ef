"""Adam with decoupled decay, also cautious, corrected and clipped (arXiv:1711.05101)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options, mean


def clip_rms(g: Tensor, denominator: Tensor, threshold: float) -> Tensor:
    """What to divide a step by so that each tensor's stays below a threshold, as StableAdamW does (arXiv:2304.13013).

    Args:
        g: The gradient, (k, ...).
        denominator: What the step's momentum is divided by.
        threshold: The largest root mean square of `g / denominator` that is left alone.

    Returns:
        At least 1, (k, 1, ...).
    """
    return (mean((g / denominator).square()).sqrt() / threshold).clamp(min=1.0)


class AdamWLegacy(Optimizer):
    """AdamW (arXiv:1711.05101) with what torch's lacks: caution, corrected decay, update clipping.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the means of the gradient and of its square.
        eps: Added to the root of the second.
        weight_decay: Decoupled.
        amsgrad: Divide by the largest mean square so far.
        clipping_threshold: Clip each tensor's update by its root mean square, as StableAdamW does
            (arXiv:2304.13013); None leaves it.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        clipping_threshold: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        super().__init__(params, own | dict(clipping_threshold=clipping_threshold), options)

    traits: ClassVar = Optimizer.traits | {'clipped': Optimizer.traits['']._replace(sees='rows')}

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return '' if group['clipping_threshold'] is None else 'clipped'

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        names = ('exp_avg', 'exp_avg_sq') + (('max_exp_avg_sq',) if group['amsgrad'] else ())
        return {name: torch.zeros_like(p) for name in names}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        return {'correction1': 1 - beta1**step, 'correction2': (1 - beta2**step) ** 0.5}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        correction1: float,
        correction2: float,
        max_exp_avg_sq: Tensor | None = None,
        clipping_threshold: float | None = None,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        exp_avg_sq.lerp_(g * g, 1 - beta2)
        square = exp_avg_sq
        if max_exp_avg_sq is not None:
            square = max_exp_avg_sq.copy_(torch.maximum(max_exp_avg_sq, exp_avg_sq))
        denominator = square.sqrt() / correction2 + eps
        d = exp_avg / denominator * (lr / correction1)
        return d if clipping_threshold is None else d / clip_rms(g, denominator, clipping_threshold)
