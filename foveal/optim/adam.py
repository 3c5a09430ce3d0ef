"""Adam and its kin: a mean of the gradient over the root of a mean of its square (arXiv:1412.6980)."""

from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Traits, largest, mean


class Moments(Optimizer):
    """Base of the algorithms that keep both means."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    zeros = ('exp_avg', 'exp_avg_sq')
    decay = 'decoupled'


def step_of(g: Tensor, s: Any, h: Any, ahead: bool = False) -> Tensor:
    """Adam's step before the rate; with `ahead`, one step of the momentum further on. Moves both means."""
    s.exp_avg.lerp_(g, 1 - h.beta1)
    s.exp_avg_sq.lerp_(g * g, 1 - h.beta2)
    d = s.exp_avg.lerp(g, 1 - h.beta1) if ahead else s.exp_avg
    return d / h.correction1 / ((s.exp_avg_sq / h.correction2).sqrt() + h.eps)


class AdamWLegacy(Moments):
    """AdamW (arXiv:1711.05101) with what torch's lacks: caution, corrected decay, update clipping."""

    weight_decay: float = 1e-2
    amsgrad: bool = False
    clipping_threshold: float | None = None  # clip updates by their root mean square (arXiv:2304.13013); None: do not
    zeros_if: ClassVar = {'amsgrad': 'max_exp_avg_sq'}
    traits: ClassVar = {'': Traits(), 'clipped': Traits('rows')}
    constants: ClassVar = {'ahead': False}

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return '' if group['clipping_threshold'] is None else 'clipped'

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        s.exp_avg_sq.lerp_(g * g, 1 - h.beta2)
        denominator = (largest(s.exp_avg_sq, s.max_exp_avg_sq) / h.correction2).sqrt() + h.eps
        d = (s.exp_avg.lerp(g, 1 - h.beta1) if h.ahead else s.exp_avg) / denominator * (h.lr / h.correction1)
        if h.clipping_threshold is not None:
            d = d / (mean((g / denominator).square()).sqrt() / h.clipping_threshold).clamp(min=1.0)
        return d


class NAdamW(AdamWLegacy):
    """AdamW whose step looks ahead by one step of the momentum (Dozat 2016, as in MLCommons' AlgoPerf)."""

    constants: ClassVar = {'ahead': True}


class Scheduled(Moments):
    """NAdam, whose momentum has a schedule (Dozat 2016, section 3.1), in both of its forms."""

    lr: float = 2e-3
    weight_decay: float = 0.0  # added to the gradient
    decay = 'coupled'
    branches_on_step = True
    pace: ClassVar[str]

    def scalars(self, group: dict[str, Any], step: int, kind: str) -> dict[str, Any]:
        now, product = momentum_schedule(group['betas'][0], group[self.pace], step)
        then, product_then = momentum_schedule(group['betas'][0], group[self.pace], step + 1)
        return {'of_gradient': (1 - now) / (1 - product), 'of_momentum': then / (1 - product_then)}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        s.exp_avg_sq.lerp_(g * g, 1 - h.beta2)
        d = h.of_gradient * g + h.of_momentum * s.exp_avg
        return d * (h.lr / ((s.exp_avg_sq / h.correction2).sqrt() + h.eps))


class NAdamLegacy(Scheduled):
    """NAdam as it was before it came to torch."""

    schedule_decay: float = 4e-3  # how fast the momentum comes up to beta1
    pace = 'schedule_decay'


class NAdam(Scheduled):
    """NAdam as torch has it."""

    momentum_decay: float = 4e-3  # how fast the momentum comes up to beta1
    decoupled_weight_decay: bool = False  # decay as AdamW does
    pace = 'momentum_decay'
    aside = ('mu_product',)  # torch's, in its saved states


@lru_cache(maxsize=16)
def momentum_schedule(beta1: float, decay: float, step: int) -> tuple[float, float]:
    """NAdam's momentum at a step, and the product of all up to it."""

    def momentum(i: int) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (i * decay))

    product = 1.0
    for i in range(1, step + 1):
        product *= momentum(i)
        if product < 1e-18:  # 1 - product is 1 in float64, whatever follows
            break
    return momentum(step), product


def rectification(beta1: float, beta2: float, step: Any) -> tuple[Any, Any]:
    """Whether the second moment can be relied upon at a step, 1.0 or 0.0, and a factor (arXiv:1908.03265, sec. 3).

    The latter is of what is divided by the root of the uncorrected second moment, or of the momentum alone.
    """
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    reliable = (length >= 5) * 1.0
    safe = reliable * length + (1 - reliable) * 5.0  # below 4 the root has no real value
    variance = (safe - 4) / (longest - 4) * (safe - 2) / safe * longest / (longest - 2) if longest > 4 else 1.0
    root = ((1 - beta2**step) * variance) ** 0.5
    return reliable, (reliable * root + 1 - reliable) / (1 - beta1**step)


class RAdamLegacy(Moments):
    """RAdam as first published: eps beside the uncorrected root, decay decoupled (arXiv:1908.03265)."""

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        reliable, factor = rectification(beta1, beta2, step)
        return {'reliable': reliable, 'rate': group['lr'] * factor}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        s.exp_avg_sq.lerp_(g * g, 1 - h.beta2)
        return h.rate * s.exp_avg / (h.reliable * (s.exp_avg_sq.sqrt() + h.eps) + (1 - h.reliable))


class RAdam(RAdamLegacy):
    """RAdam as torch has it: decay coupled, unless asked for otherwise."""

    weight_decay: float = 0.0  # added to the gradient, unless decoupled
    decoupled_weight_decay: bool = False  # decay as AdamW does
    decay = 'coupled'


class Adamax(Moments):
    """Adamax: by the largest gradient so far, which fades (arXiv:1412.6980, algorithm 2)."""

    lr: float = 2e-3
    eps: float = 1e-8  # added to the size of the gradient
    weight_decay: float = 0.0  # added to the gradient
    zeros = ('exp_avg', 'exp_inf')
    decay = 'coupled'

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        s.exp_inf.copy_(torch.maximum(s.exp_inf * h.beta2, g.abs() + h.eps))
        return s.exp_avg / s.exp_inf * (h.lr / h.correction1)


class AdaBelief(Moments):
    """AdaBelief: by the deviation from the expected gradient, also rectified (arXiv:2010.07468, algorithm 2)."""

    betas: tuple[float, float] = (0.9, 0.999)  # of the mean gradient and of the mean squared deviation from it
    eps: float = 1e-16  # added to the deviation at each step, and to its root
    amsgrad: bool = False
    decoupled_decay: bool = True
    fixed_decay: bool = False  # decoupled decay that does not depend on the learning rate
    rectify: bool = True  # rectify the variance of the first steps (arXiv:1908.03265)
    degenerated_to_sgd: bool = True  # move by the momentum while rectification cannot rely on the deviation; else stay
    zeros = ('exp_avg', 'exp_avg_var')
    zeros_if: ClassVar = {'amsgrad': 'max_exp_avg_var'}
    decay = 'coupled'

    def decays(self, group: dict[str, Any]) -> str:
        decays = super().decays(group)
        return 'fixed' if decays == 'decoupled' and group['fixed_decay'] else decays

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        if not group['rectify']:
            return {'reliable': 1.0, 'root': (1 - beta2**step) ** 0.5, 'rate': group['lr'] / (1 - beta1**step)}
        reliable, factor = rectification(beta1, beta2, step)
        moves = 1.0 if group['degenerated_to_sgd'] else reliable
        return {'reliable': reliable, 'root': 1.0, 'rate': group['lr'] * factor * moves}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        s.exp_avg_var.lerp_((g - s.exp_avg).square(), 1 - h.beta2).add_(h.eps)
        denominator = largest(s.exp_avg_var, s.max_exp_avg_var).sqrt() / h.root + h.eps
        return h.rate * s.exp_avg / (h.reliable * denominator + (1 - h.reliable))


class Adopt(Optimizer):
    """ADOPT: converges with any beta2, by dividing by the past second moment (arXiv:2411.02853, algorithm 2).

    The first step measures the second moment and moves nothing.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.9999)
    eps: float = 1e-6  # least root of the second moment
    clip_exp: float | None = 0.333  # the divided gradient is held within (step - 1) ** clip_exp; None does not
    weight_decay: float = 0.0  # added to the gradient, or decoupled
    decoupled: bool = False  # decoupled decay
    zeros = ('exp_avg', 'exp_avg_sq')

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        moves, clip = 1 - (step == 1) * 1.0, group['clip_exp']
        limit = None if clip is None else (step - 1.0) ** clip
        return {'lr': group['lr'] * moves, 'limit': limit, 'moves': moves, 'kept': group['betas'][1] * moves}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        d = g / s.exp_avg_sq.sqrt().clamp(min=h.eps)
        if h.limit is not None:
            d = d.clamp(-h.limit, h.limit)
        s.exp_avg.lerp_(d, h.moves * (1 - h.beta1))
        s.exp_avg_sq.lerp_(g.square(), 1 - h.kept)
        return h.lr * s.exp_avg


class LaProp(Moments):
    """LaProp: Adam with the division before the momentum (arXiv:2002.04839, algorithm 1).

    The momentum holds steps, learning rate included, so its bias correction is by the average of the rates.
    """

    lr: float = 4e-4
    eps: float = 1e-15
    weight_decay: float = 0.0  # decoupled, and of the parameters after the step
    decay = 'own'
    branches_on_step = True

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta, average = group['betas'][0], group.get('lr_mean', 0.0)
        weight = (1 - beta) / (1 - beta ** self.state[params[0]]['step'])
        group['lr_mean'] = average + weight * (group['lr'] - average)

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        seen = 1 - group['betas'][0] ** step
        return {'correction1': seen * group['lr_mean'] / group['lr'] if group['lr'] else 1.0}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg_sq.lerp_(g.square(), 1 - h.beta2)
        s.exp_avg.lerp_(h.lr * g / ((s.exp_avg_sq / h.correction2).sqrt() + h.eps), 1 - h.beta1)
        return s.exp_avg / h.correction1

    @staticmethod
    def finish(p: Tensor, d: Tensor, h: Any) -> Tensor:
        return d + h.lr * h.decay * (p - d)
