"""Steps by means or sums of squared gradients: RMSprop of torch and of TensorFlow, Adadelta, Adagrad, MADGRAD."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer


class RMSprop(Optimizer):
    """RMSprop as torch has it: eps outside the root, squares that start at zero."""

    lr: float = 1e-2
    alpha: float = 0.99  # of the mean squared gradient
    eps: float = 1e-8  # added to its root
    weight_decay: float = 0.0  # added to the gradient, unless decoupled
    momentum: float = 0.0
    centered: bool = False  # divide by the standard deviation instead
    zeros = ('square_avg',)
    zeros_if: ClassVar = {'momentum': 'momentum_buffer', 'centered': 'grad_avg'}
    constants: ClassVar = {'eps_inside': False, 'lr_in_momentum': False}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        variance = s.square_avg.lerp_(g * g, 1 - h.alpha)
        if h.centered:
            variance = s.square_avg - s.grad_avg.lerp_(g, 1 - h.alpha).square()
        d = g / ((variance + h.eps).sqrt() if h.eps_inside else variance.sqrt() + h.eps)
        if s.momentum_buffer is None:
            return h.lr * d
        s.momentum_buffer.mul_(h.momentum).add_(h.lr * d if h.lr_in_momentum else d)
        return s.momentum_buffer if h.lr_in_momentum else h.lr * s.momentum_buffer


class RMSpropTF(RMSprop):
    """RMSprop with eps inside the root, squares that start at one, and the rate inside the momentum."""

    alpha: float = 0.9
    eps: float = 1e-10  # added before the root
    decoupled_decay: bool = False
    lr_in_momentum: bool = True  # keep steps in the momentum, not divided gradients: rates then change gradually
    constants: ClassVar = {'eps_inside': True}

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {**super().init(p, group), 'square_avg': torch.ones_like(p)}


class Adadelta(Optimizer):
    """Adadelta: steps as large as the last ones were, without a unit (arXiv:1212.5701)."""

    lr: float = 1.0
    rho: float = 0.9  # of the mean squares of gradient and step
    eps: float = 1e-6  # added to both before the root
    weight_decay: float = 0.0  # added to the gradient
    zeros = ('square_avg', 'acc_delta')

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.square_avg.lerp_(g * g, 1 - h.rho)
        d = ((s.acc_delta + h.eps) / (s.square_avg + h.eps)).sqrt() * g
        s.acc_delta.lerp_(d * d, 1 - h.rho)
        return h.lr * d


class Adagrad(Optimizer):
    """Adagrad as torch has it: by the sum of all squared gradients (jmlr.org/papers/v12/duchi11a.html)."""

    lr: float = 1e-2
    lr_decay: float = 0.0  # the rate is divided by 1 + (step - 1) lr_decay
    weight_decay: float = 0.0  # added to the gradient
    initial_accumulator_value: float = 0.0  # what the sums begin with
    eps: float = 1e-10  # added to the root of the sum

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {'sum': torch.full_like(p, group['initial_accumulator_value'])}

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        return {'lr': group['lr'] / (1 + (step - 1) * group['lr_decay'])}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        return h.lr * g / (s.sum.add_(g * g).sqrt() + h.eps)


def cube_root(x: Tensor) -> Tensor:
    """Of numbers from 0 on; exp and log take many elements at a time, pow one after the other."""
    return (x.log() / 3).exp()


class MADGRAD(Optimizer):
    """MADGRAD (arXiv:2101.11075, algorithm 1): every step is taken from the starting point."""

    lr: float = 1e-2
    momentum: float = 0.9  # in [0, 1)
    weight_decay: float = 0.0  # added to the gradient, or decoupled
    eps: float = 1e-6  # added to the cube root of the squares, and to the learning rate
    decoupled_decay: bool = False
    zeros = ('grad_sum_sq', 's')
    zeros_if: ClassVar = {'momentum': 'x0'}

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = super().init(p, group)
        return state | {'x0': p.clone()} if group['momentum'] else state

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        return {'rate': (group['lr'] + group['eps']) * step**0.5}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        # without momentum the start can be told from p
        start = p + s.s / (cube_root(s.grad_sum_sq) + h.eps) if s.x0 is None else s.x0
        s.s.add_(h.rate * g)
        s.grad_sum_sq.add_(h.rate * g.square())
        return (1 - h.momentum) * (p - start + s.s / (cube_root(s.grad_sum_sq) + h.eps))
