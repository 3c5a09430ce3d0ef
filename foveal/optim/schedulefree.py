"""Schedule-Free AdamW and SGD: averaging in place of a learning rate schedule (arXiv:2405.15682)."""

from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer


class ScheduleFree(Optimizer):
    """What both have: the parameters hold the point y of the gradients in training, the average x in evaluation.

    Call `train()` before training steps and `eval()` before evaluating or saving the model; it begins in training.
    """

    _: KW_ONLY
    warmup_steps: int = 0  # steps of linear warm-up
    r: float = 0.0  # the weight of a step in the average grows with its number to this power
    weight_lr_power: float = 2.0  # ... and with the largest learning rate so far to this one
    decay = 'own'
    branches_on_step = True

    def complete(self, values: dict[str, Any]) -> None:
        values |= dict(training=True, lr_max=0.0, weight_sum=0.0, updates=0, share=1.0, rate=0.0)

    def eval(self) -> None:
        """Sets the parameters to the average x."""
        self._move(False)

    def train(self) -> None:
        """Sets the parameters to y, where gradients are taken."""
        self._move(True)

    @torch.no_grad()
    def _move(self, training: bool) -> None:
        for group in self.param_groups:
            beta = group['betas'][0] if 'betas' in group else group['momentum']
            for p in group['params'] if group['training'] != training else ():
                if 'z' in self.state.get(p, ()):
                    p.lerp_(self.state[p]['z'].to(p.dtype), 1 - beta if training else 1 - 1 / beta)
            group['training'] = training

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if not group['training']:
            raise RuntimeError(f'{type(self).__name__} is in evaluation: call its train() before step()')
        group['updates'] += 1
        group['rate'] = group['lr'] * min(1.0, group['updates'] / max(group['warmup_steps'], 1))
        group['lr_max'] = max(group['lr_max'], group['rate'])
        weight = group['updates'] ** group['r'] * group['lr_max'] ** group['weight_lr_power']
        group['weight_sum'] += weight
        group['share'] = weight / group['weight_sum'] if group['weight_sum'] else 0.0

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        return {'rate': group['rate'], 'share': group['share']}


def advance(y: Tensor, z: Tensor, step: Tensor, share: float, beta: float) -> Tensor:
    """Steps z in place, and gives what y goes down by: y' = (1 - beta) z' + beta x', x' = (1 - share) x + share z'."""
    d = share * (y - z) + (1 - beta * (1 - share)) * step
    z.sub_(step)
    return d


class AdamWScheduleFree(ScheduleFree):
    """Schedule-Free AdamW (arXiv:2405.15682, algorithm 1)."""

    lr: float = 2.5e-3  # learning rate; one to ten times that of AdamW with a schedule
    betas: tuple[float, float] = (0.9, 0.999)  # of the interpolation of average and newest point, and of the squares
    eps: float = 1e-8
    weight_decay: float = 0.0  # decoupled, at y

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {'z': p.clone(), 'exp_avg_sq': torch.zeros_like(p)}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg_sq.lerp_(g.square(), 1 - h.beta2)
        step = h.rate * (g / ((s.exp_avg_sq / h.correction2).sqrt() + h.eps) + h.decay * p)
        return advance(p, s.z, step, h.share, h.beta1)


class SGDScheduleFree(ScheduleFree):
    """Schedule-Free SGD (arXiv:2405.15682, section 3)."""

    lr: float = 1.0  # learning rate; ten to fifty times that of SGD with a schedule
    momentum: float = 0.9  # of the interpolation between average and newest point, in (0, 1)
    weight_decay: float = 0.0  # at y

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {'z': p.clone()}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        return advance(p, s.z, h.rate * (g + h.decay * p), h.share, h.momentum)
