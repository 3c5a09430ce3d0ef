"""Rectified Adam as its authors published it (arXiv:1908.03265)."""

from typing import Any, Unpack

from torch import Tensor

from foveal.optim.engine import Optimizer, Options


def rectification(beta1: float, beta2: float, step: Any) -> tuple[Any, Any]:
    """Whether the second moment can be relied upon at a step, and the factor of the step (arXiv:1908.03265, sec. 3).

    Args:
        beta1, beta2: Adam's.
        step: From 1; a tensor where the step is captured.

    Returns:
        1.0 or 0.0, and the factor for what is divided by the root of the uncorrected second moment, or for the
        momentum alone.
    """
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    reliable = (length >= 5) * 1.0
    safe = reliable * length + (1 - reliable) * 5.0  # below 4 the root has no real value
    variance = (safe - 4) / (longest - 4) * (safe - 2) / safe * longest / (longest - 2) if longest > 4 else 1.0
    root = ((1 - beta2**step) * variance) ** 0.5
    return reliable, (reliable * root + 1 - reliable) / (1 - beta1**step)


class RAdamLegacy(Optimizer):
    """RAdam as first published: eps beside the uncorrected root, decay decoupled (arXiv:1908.03265).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the means of the gradient and of its square.
        eps: Added to the root of the second.
        weight_decay: Decoupled.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'exp_avg_sq')

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled'

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        reliable, factor = rectification(beta1, beta2, step)
        return {'reliable': reliable, 'rate': group['lr'] * factor}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        beta1: float,
        beta2: float,
        eps: float,
        reliable: float,
        rate: float,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        exp_avg_sq.lerp_(g * g, 1 - beta2)
        return rate * exp_avg / (reliable * (exp_avg_sq.sqrt() + eps) + (1 - reliable))
