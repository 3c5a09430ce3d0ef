"""NovoGrad: Adam with one second moment for each tensor (arXiv:1905.11286)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options, Traits, norm


class NvNovoGrad(Optimizer):
    """NovoGrad: the gradient over the mean of its norm, then momentum (arXiv:1905.11286, algorithm 1).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the momentum and of the squared norm.
        eps: Added to the root of the squared norm.
        weight_decay: Added to the divided gradient, unless decoupled.
        grad_averaging: Weigh the gradient by 1 - beta1 in the momentum.
        amsgrad: Divide by the largest norm so far.
        decoupled_decay: Decay as AdamW does.
        **options: See `foveal.optim.Options`.
    """

    traits: ClassVar = {'': Traits('rows')}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        decoupled_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        own |= dict(grad_averaging=grad_averaging, amsgrad=amsgrad, decoupled_decay=decoupled_decay)
        super().__init__(params, own, options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled' if group['decoupled_decay'] or group['corrected_weight_decay'] else 'own'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        # one number a tensor costs nothing in full precision; made from a norm, so that it is distributed as norms are
        zero = torch.zeros_like(norm(p.unsqueeze(0)).view(()), dtype=torch.float32)
        names = ('exp_avg_sq',) + (('max_exp_avg_sq',) if group['amsgrad'] else ())
        scalars = {name: zero.clone() for name in names}
        return {'exp_avg': torch.zeros_like(p), **scalars}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        coupled = self.decays(group) == 'own'
        return {
            'weight1': 1 - beta1 if group['grad_averaging'] else 1.0,
            'weight2': 1 - beta2 * (step > 1),
            'added': group['weight_decay'] if coupled else 0.0,
        }

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        lr: float,
        beta1: float,
        eps: float,
        weight1: float,
        weight2: float,
        added: float,
        max_exp_avg_sq: Tensor | None = None,
    ) -> Tensor:
        exp_avg_sq.lerp_(norm(g).square(), weight2)
        if max_exp_avg_sq is not None:
            exp_avg_sq = max_exp_avg_sq.copy_(torch.maximum(max_exp_avg_sq, exp_avg_sq))
        g = g / (exp_avg_sq.sqrt() + eps) + added * p
        exp_avg.mul_(beta1).add_(weight1 * g)
        return lr * exp_avg
