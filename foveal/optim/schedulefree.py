"""Schedule-Free AdamW and SGD: averaging in place of a learning rate schedule (arXiv:2405.15682)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class ScheduleFree(Optimizer):
    """What both have: the parameters hold the point y of the gradients in training, the average x in evaluation.

    Call `train()` before training steps and `eval()` before evaluating or saving the model; it begins in training.
    """

    branches_on_step: ClassVar[bool] = True

    def __init__(self, params: Any, defaults: dict[str, Any], options: Options) -> None:
        shared = dict(training=True, lr_max=0.0, weight_sum=0.0, updates=0, share=1.0, rate=0.0)
        super().__init__(params, {**defaults, **shared}, options)

    @staticmethod
    def interpolation(group: dict[str, Any]) -> float:
        """Where y is between z (0) and x (1)."""
        return group['betas'][0]

    def eval(self) -> None:
        """Sets the parameters to the average x."""
        self._move(False)

    def train(self) -> None:
        """Sets the parameters to y, where gradients are taken."""
        self._move(True)

    @torch.no_grad()
    def _move(self, training: bool) -> None:
        for group in self.param_groups:
            beta = self.interpolation(group)
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

    def decays(self, group: dict[str, Any]) -> str:
        return 'own'


def advance(y: Tensor, z: Tensor, step: Tensor, share: float, beta: float) -> Tensor:
    """Steps z in place, and gives what y goes down by: y' = (1 - beta) z' + beta x', x' = (1 - share) x + share z'."""
    d = share * (y - z) + (1 - beta * (1 - share)) * step
    z.sub_(step)
    return d


class AdamWScheduleFree(ScheduleFree):
    """Schedule-Free AdamW (arXiv:2405.15682, algorithm 1).

    Args:
        params: Parameters or groups.
        lr: Learning rate; one to ten times that of AdamW with a schedule.
        betas: Of the interpolation between average and newest point, and of the squares.
        eps: Added to the root of the squares.
        weight_decay: Decoupled, at y.
        warmup_steps: Steps of linear warm-up.
        r: Weight of a step in the average grows with its number to this power.
        weight_lr_power: ... and with the largest learning rate so far to this one.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        defaults |= dict(warmup_steps=warmup_steps, r=r, weight_lr_power=weight_lr_power)
        super().__init__(params, defaults, options)

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {'z': p.clone(), 'exp_avg_sq': torch.zeros_like(p)}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        return {'correction': 1 - group['betas'][1] ** step}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        z: Tensor,
        exp_avg_sq: Tensor,
        beta1: float,
        beta2: float,
        eps: float,
        decay: float,
        rate: float,
        share: float,
        correction: float,
    ) -> Tensor:
        exp_avg_sq.lerp_(g.square(), 1 - beta2)
        step = rate * (g / ((exp_avg_sq / correction).sqrt() + eps) + decay * p)
        return advance(p, z, step, share, beta1)


class SGDScheduleFree(ScheduleFree):
    """Schedule-Free SGD (arXiv:2405.15682, section 3).

    Args:
        params: Parameters or groups.
        lr: Learning rate; ten to fifty times that of SGD with a schedule.
        momentum: Of the interpolation between average and newest point, in (0, 1).
        weight_decay: At y.
        warmup_steps: Steps of linear warm-up.
        r: Weight of a step in the average grows with its number to this power.
        weight_lr_power: ... and with the largest learning rate so far to this one.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        defaults |= dict(warmup_steps=warmup_steps, r=r, weight_lr_power=weight_lr_power)
        super().__init__(params, defaults, options)

    @staticmethod
    def interpolation(group: dict[str, Any]) -> float:
        return group['momentum']

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {'z': p.clone()}

    @staticmethod
    def update(p: Tensor, g: Tensor, z: Tensor, momentum: float, decay: float, rate: float, share: float) -> Tensor:
        return advance(p, z, rate * (g + decay * p), share, momentum)
