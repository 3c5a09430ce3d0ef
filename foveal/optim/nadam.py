"""Adam with Nesterov momentum: as in torch's beginnings, and decoupled (openreview OM0jvwB8jIp57ZJjtNEZ)."""

from functools import lru_cache
from typing import Any, Unpack

from torch import Tensor

from foveal.optim.adamw import AdamWLegacy, clip_rms
from foveal.optim.engine import Optimizer, Options


class NAdamW(Optimizer):
    """AdamW whose step looks ahead by one step of the momentum (Dozat 2016; as in MLCommons' algorithmic efficiency).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the means of the gradient and of its square.
        eps: Added to the root of the second.
        weight_decay: Decoupled.
        clipping_threshold: See `AdamWLegacy`.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'exp_avg_sq')

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        clipping_threshold: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, clipping_threshold=clipping_threshold)
        super().__init__(params, own, options)

    traits = AdamWLegacy.traits
    kind = AdamWLegacy.kind
    decays = AdamWLegacy.decays
    scalars = AdamWLegacy.scalars

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
        clipping_threshold: float | None = None,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        exp_avg_sq.lerp_(g * g, 1 - beta2)
        denominator = exp_avg_sq.sqrt() / correction2 + eps
        d = exp_avg.lerp(g, 1 - beta1) / denominator * (lr / correction1)
        return d if clipping_threshold is None else d / clip_rms(g, denominator, clipping_threshold)


class NAdamLegacy(Optimizer):
    """NAdam with the momentum schedule of its paper (Dozat 2016, section 3.1), coupled decay.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the means of the gradient and of its square.
        eps: Added to the root of the second.
        weight_decay: Added to the gradient.
        schedule_decay: How fast the momentum comes up to beta1.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'exp_avg_sq')

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        schedule_decay: float = 4e-3,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, schedule_decay=schedule_decay)
        super().__init__(params, own, options)

    branches_on_step = True

    def scalars(self, group: dict[str, Any], step: int) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        now, product = schedule(beta1, group['schedule_decay'], step)
        then, product_then = schedule(beta1, group['schedule_decay'], step + 1)
        return {
            'of_gradient': (1 - now) / (1 - product),
            'of_momentum': then / (1 - product_then),
            'correction2': (1 - beta2**step) ** 0.5,
        }

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
        of_gradient: float,
        of_momentum: float,
        correction2: float,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        exp_avg_sq.lerp_(g * g, 1 - beta2)
        return (of_gradient * g + of_momentum * exp_avg) * (lr / (exp_avg_sq.sqrt() / correction2 + eps))


@lru_cache(maxsize=16)
def schedule(beta1: float, decay: float, step: int) -> tuple[float, float]:
    """The momentum at a step, and the product of all up to it."""

    def momentum(i: int) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (i * decay))

    product = 1.0
    for i in range(1, step + 1):
        product *= momentum(i)
        if product < 1e-18:  # 1 - product is 1 in float64, whatever follows
            break
    return momentum(step), product
