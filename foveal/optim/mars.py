"""MARS: variance reduction for adaptive optimizers (arXiv:2411.10438)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.errors import near
from foveal.optim.engine import Optimizer, Options, Traits, norm


class Mars(Optimizer):
    """MARS: AdamW or Lion on a gradient corrected by its change (arXiv:2411.10438, algorithms 2 and 3, approximate).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the momentum and of the squares.
        eps: Added to the root of the squares.
        weight_decay: Decoupled.
        gamma: How much of the change is added.
        mars_type: 'adamw' or 'lion'.
        optimize_1d: Treat vectors like matrices; else they get plain AdamW.
        lr_1d_factor: Learning rate of the vectors, of lr.
        betas_1d: Of the vectors; None takes `betas`.
        **options: See `foveal.optim.Options`.
    """

    traits: ClassVar[dict[str, Traits]] = {'': Traits('rows'), 'vector': Traits()}

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        mars_type: str = 'adamw',
        optimize_1d: bool = False,
        lr_1d_factor: float = 1.0,
        betas_1d: tuple[float, float] | None = None,
        **options: Unpack[Options],
    ) -> None:
        if mars_type not in ('adamw', 'lion'):
            raise ValueError(f'mars_type {mars_type!r} is unknown{near(mars_type, ("adamw", "lion"))}')
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            gamma=gamma,
            mars_type=mars_type,
            optimize_1d=optimize_1d,
            lr_1d_factor=lr_1d_factor,
            betas_1d=betas_1d or betas,
        )
        super().__init__(params, defaults, options)

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return 'vector' if p.ndim < 2 and not group['optimize_1d'] else ''

    def decays(self, group: dict[str, Any]) -> str:
        return 'own'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        vector = self.kind(p, group) == 'vector'
        names = ['exp_avg']
        if vector or group['mars_type'] == 'adamw':
            names.append('exp_avg_sq')
        if not vector:
            names.append('last_grad')
        return {name: torch.zeros_like(p) for name in names}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        (a1, a2), (b1, b2) = group['betas'], group['betas_1d']
        matrix = {
            'change': (step > 1) * 1.0 * group['gamma'] * a1 / (1 - a1)
        }  # the gradient before the first is the first
        numbers = {'correction1': 1 - a1**step, 'correction2': 1 - a2**step, 'vector1': b1, 'vector2': b2}
        return {**matrix, **numbers, 'vector_correction1': 1 - b1**step, 'vector_correction2': 1 - b2**step}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        lr: float,
        eps: float,
        beta1: float,
        beta2: float,
        change: float,
        correction1: float,
        correction2: float,
        vector1: float,
        vector2: float,
        vector_correction1: float,
        vector_correction2: float,
        lr_1d_factor: float,
        mars_type: str,
        kind: str,
        exp_avg_sq: Tensor | None = None,
        last_grad: Tensor | None = None,
    ) -> Tensor:
        if last_grad is None:  # a vector
            lr, beta1, beta2 = lr * lr_1d_factor, vector1, vector2
            correction1, correction2 = vector_correction1, vector_correction2
            c = g
        else:
            c = g + change * (g - last_grad)
            c = c / norm(c).clamp(min=1)
            last_grad.copy_(g)
        exp_avg.lerp_(c, 1 - beta1)
        if exp_avg_sq is None:  # Lion
            return lr * exp_avg.sign()
        exp_avg_sq.lerp_(c.square(), 1 - beta2)
        return lr * (exp_avg / correction1) / ((exp_avg_sq / correction2).sqrt() + eps)

    @staticmethod
    def finish(p: Tensor, d: Tensor, lr: float, decay: float, lr_1d_factor: float, kind: str) -> Tensor:
        return d + lr * (lr_1d_factor if kind == 'vector' else 1.0) * decay * p
