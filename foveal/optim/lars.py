"""LARS: SGD scaled to each tensor's norm (arXiv:1708.03888)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options, Traits, norm


class Lars(Optimizer):
    """LARS: a rate for each tensor, by the ratio of its norm to its gradient's (arXiv:1708.03888, algorithm 1).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Share of the last step that is kept.
        dampening: Share of the gradient that does not enter the momentum, from the second step on.
        weight_decay: Added to the gradient, and counted in its norm.
        nesterov: Look ahead by one step of the momentum.
        trust_coeff: Of the ratio of norms.
        eps: Added to the gradient's norm.
        trust_clip: Keep the tensor's rate at most `lr` (LARC).
        always_adapt: Scale by the ratio of norms also where there is no decay.
        **options: See `foveal.optim.Options`.
    """

    traits: ClassVar = {'': Traits('rows')}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coeff: float = 0.001,
        eps: float = 1e-8,
        trust_clip: bool = False,
        always_adapt: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f'nesterov needs momentum above 0 and dampening 0; they are {momentum} and {dampening}')
        own = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        own |= dict(trust_coeff=trust_coeff, eps=eps, trust_clip=trust_clip, always_adapt=always_adapt)
        super().__init__(params, own, options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled' if group['corrected_weight_decay'] else 'own'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {'momentum_buffer': torch.zeros_like(p)} if group['momentum'] else {}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        coupled = self.decays(group) == 'own'
        return {
            'weight': 1 - group['dampening'] * (step > 1),
            'adapts': group['weight_decay'] != 0 or group['always_adapt'],
            'added': group['weight_decay'] if coupled else 0.0,
        }

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        lr: float,
        momentum: float,
        weight: float,
        added: float,
        nesterov: bool,
        adapts: bool,
        trust_coeff: float,
        trust_clip: bool,
        eps: float,
        momentum_buffer: Tensor | None = None,
    ) -> Tensor:
        if adapts:
            p_norm, g_norm = norm(p), norm(g)
            trust = trust_coeff * p_norm / (g_norm + added * p_norm + eps)
            trust = torch.where((p_norm > 0) & (g_norm > 0), trust, 1.0)
            if trust_clip:
                trust = (trust / lr).clamp(max=1.0)
            g = (g + added * p) * trust
        if momentum_buffer is None:
            return lr * g
        momentum_buffer.mul_(momentum).add_(weight * g)
        return lr * (g + momentum * momentum_buffer if nesterov else momentum_buffer)
