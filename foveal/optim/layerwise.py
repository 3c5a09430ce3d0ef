"""One rate for each tensor, by its norm or its gradient's: LAMB, LARS, NovoGrad."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Traits, largest, norm
from foveal.optim.sgd import SGDW


class Lamb(Optimizer):
    """LAMB: Adam's step, scaled by the ratio of the tensor's norm to the step's (arXiv:1904.00962)."""

    lr: float = 1e-3
    bias_correction: bool = True  # correct the means for their start at zero
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01  # added to the step before its norm is taken, unless decoupled
    grad_averaging: bool = True  # weigh the gradient by 1 - beta1 in its mean
    max_grad_norm: float | None = 1.0  # of the gradients of all parameters, which are scaled down to it; None: as large
    trust_clip: bool = False  # keep the ratio of norms at most 1 (LAMBC)
    always_adapt: bool = False  # scale by the ratio of norms also where there is no decay
    decoupled_decay: bool = False
    zeros = ('exp_avg', 'exp_avg_sq')
    decay = 'added'
    traits: ClassVar = {'': Traits('rows')}

    def begin(self) -> None:
        gradients = [p.grad for group in self.param_groups for p in group['params'] if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients, foreach=True)

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        clip = group['max_grad_norm']
        return {
            **({} if group['bias_correction'] else {'correction1': 1.0, 'correction2': 1.0}),
            'weight1': 1 - group['betas'][0] if group['grad_averaging'] else 1.0,
            'clip': 1.0 if clip is None else (clip / self.grad_norm).clamp(max=1.0),
            'adapts': group['weight_decay'] != 0 or group['always_adapt'],
        }

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        g = g * h.clip
        s.exp_avg.mul_(h.beta1).add_(g * h.weight1)
        s.exp_avg_sq.lerp_(g * g, 1 - h.beta2)
        return s.exp_avg / h.correction1 / ((s.exp_avg_sq / h.correction2).sqrt() + h.eps)

    @staticmethod
    def finish(p: Tensor, d: Tensor, h: Any) -> Tensor:
        if h.adds:
            d = d + h.decay * p
        if not h.adapts:
            return h.lr * d
        p_norm, d_norm = norm(p), norm(d)
        ratio = torch.where((p_norm > 0) & (d_norm > 0), p_norm / d_norm, 1.0)
        return h.lr * d * (ratio.clamp(max=1.0) if h.trust_clip else ratio)


class Lars(SGDW):
    """LARS: a rate for each tensor, by the ratio of its norm to its gradient's (arXiv:1708.03888, algorithm 1)."""

    lr: float = 1.0
    weight_decay: float = 0.0  # added to the gradient, and counted in its norm
    trust_coeff: float = 0.001  # of the ratio of norms
    eps: float = 1e-8  # added to the gradient's norm
    trust_clip: bool = False  # keep the tensor's rate at most `lr` (LARC)
    always_adapt: bool = False  # scale by the ratio of norms also where there is no decay
    decay = 'added'
    traits: ClassVar = {'': Traits('rows')}

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        return {**super().scalars(group, step, kind), 'adapts': group['weight_decay'] != 0 or group['always_adapt']}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        if h.adapts:
            p_norm, g_norm, added = norm(p), norm(g), h.decay if h.adds else 0.0
            trust = h.trust_coeff * p_norm / (g_norm + added * p_norm + h.eps)
            trust = torch.where((p_norm > 0) & (g_norm > 0), trust, 1.0)
            if h.trust_clip:
                trust = (trust / h.lr).clamp(max=1.0)
            g = (g + added * p) * trust
        return SGDW.update(p, g, s, h)


class NvNovoGrad(Optimizer):
    """NovoGrad: the gradient over the mean of its norm, then momentum (arXiv:1905.11286, algorithm 1)."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.95, 0.98)  # of the momentum and of the squared norm
    eps: float = 1e-8  # added to the root of the squared norm
    weight_decay: float = 0.0  # added to the divided gradient, unless decoupled
    grad_averaging: bool = False  # weigh the gradient by 1 - beta1 in the momentum
    amsgrad: bool = False
    decoupled_decay: bool = False
    zeros = ('exp_avg',)
    zeros_if: ClassVar = {'amsgrad': 'max_exp_avg_sq'}
    decay = 'added'
    traits: ClassVar = {'': Traits('rows')}

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        # one number a tensor costs nothing in full precision; made from a norm, so that it is distributed as norms are
        zero = torch.zeros_like(norm(p.unsqueeze(0)).view(()), dtype=torch.float32)
        names = ('exp_avg_sq', 'max_exp_avg_sq') if group['amsgrad'] else ('exp_avg_sq',)
        return {'exp_avg': torch.zeros_like(p), **{name: zero.clone() for name in names}}

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        return {'weight1': 1 - beta1 if group['grad_averaging'] else 1.0, 'weight2': 1 - beta2 * (step > 1)}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg_sq.lerp_(norm(g).square(), h.weight2)
        g = g / (largest(s.exp_avg_sq, s.max_exp_avg_sq).sqrt() + h.eps)
        s.exp_avg.mul_(h.beta1).add_(h.weight1 * (g + h.decay * p if h.adds else g))
        return h.lr * s.exp_avg
