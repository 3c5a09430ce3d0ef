"""Adaptive steps that also look at how the gradient changes: Adan, MARS."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from foveal.optim.adam import Moments, step_of
from foveal.optim.engine import Optimizer, Traits, norm


class Adan(Optimizer):
    """Adan: Nesterov momentum by the change of the gradient (arXiv:2208.06677, algorithm 1)."""

    lr: float = 1e-3  # learning rate; five to ten times AdamW's
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99)  # of the gradient, of its change, and of the squares
    eps: float = 1e-8
    weight_decay: float = 0.0  # a proximal step, p / (1 + lr weight_decay) after the update, or decoupled decay
    no_prox: bool = False  # decoupled decay, as AdamW's
    zeros = ('exp_avg', 'exp_avg_diff', 'exp_avg_sq', 'last_grad')

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled' if group['no_prox'] else 'own'

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        pull = 0.0 if group['no_prox'] else group['lr'] * group['weight_decay']
        return {'seen': (step > 1) * 1.0, 'pull': pull}  # the gradient before the first is the first

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        change = h.seen * (g - s.last_grad)
        s.last_grad.copy_(g)
        s.exp_avg.lerp_(g, 1 - h.beta1)
        s.exp_avg_diff.lerp_(change, 1 - h.beta2)
        s.exp_avg_sq.lerp_((g + h.beta2 * change).square(), 1 - h.beta3)
        momentum = s.exp_avg / h.correction1 + h.beta2 / h.correction2 * s.exp_avg_diff
        return h.lr * momentum / ((s.exp_avg_sq / h.correction3).sqrt() + h.eps)

    @staticmethod
    def finish(p: Tensor, d: Tensor, h: Any) -> Tensor:
        return (d + h.pull * p) / (1 + h.pull)


class Mars(Moments):
    """MARS: AdamW or Lion on a gradient corrected by its change (arXiv:2411.10438, algorithms 2 and 3, approximate)."""

    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.99)  # of the momentum and of the squares
    gamma: float = 0.025  # how much of the change is added
    mars_type: Literal['adamw', 'lion'] = 'adamw'  # what is done with the corrected gradient
    optimize_1d: bool = False  # treat vectors like matrices; else they get plain AdamW
    lr_1d_factor: float = 1.0  # learning rate of the vectors, of lr
    betas_1d: tuple[float, float] | None = None  # of the vectors; None takes `betas`
    traits: ClassVar = {'': Traits('rows'), 'vector': Traits()}

    def complete(self, values: dict[str, Any]) -> None:
        values['betas_1d'] = values['betas_1d'] or values['betas']

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return 'vector' if p.ndim < 2 and not group['optimize_1d'] else ''

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        vector = self.kind(p, group) == 'vector'
        second = ['exp_avg_sq'] * (vector or group['mars_type'] == 'adamw')
        return {name: torch.zeros_like(p) for name in ('exp_avg', *second, *['last_grad'] * (not vector))}

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        if kind != 'vector':
            beta = group['betas'][0]
            return {'change': (step > 1) * group['gamma'] * beta / (1 - beta)}  # the one before the first is the first
        rate, (beta1, beta2) = group['lr'] * group['lr_1d_factor'], group['betas_1d']
        return dict(lr=rate, beta1=beta1, beta2=beta2, correction1=1 - beta1**step, correction2=1 - beta2**step)

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        if h.kind == 'vector':
            return h.lr * step_of(g, s, h)
        c = g + h.change * (g - s.last_grad)
        c = c / norm(c).clamp(min=1)
        s.last_grad.copy_(g)
        return h.lr * (step_of(c, s, h) if h.mars_type == 'adamw' else s.exp_avg.lerp_(c, 1 - h.beta1).sign())
