"""SGD with momentum and decoupled decay, and Lion, which takes its sign."""

from typing import Any, ClassVar

from torch import Tensor

from foveal.optim.engine import Optimizer


class SGDW(Optimizer):
    """SGDW: SGD with momentum, decay decoupled (arXiv:1711.05101, algorithm 1)."""

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    zeros_if: ClassVar = {'momentum': 'momentum_buffer'}
    decay = 'decoupled'

    def complete(self, values: dict[str, Any]) -> None:
        momentum, dampening = values['momentum'], values['dampening']
        if values['nesterov'] and (momentum <= 0 or dampening != 0):
            raise ValueError(f'nesterov needs momentum above 0 and dampening 0; they are {momentum} and {dampening}')

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        return {'weight': 1 - group['dampening'] * (step > 1)}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        if s.momentum_buffer is None:
            return h.lr * g
        s.momentum_buffer.mul_(h.momentum).add_(h.weight * g)
        return h.lr * (g + h.momentum * s.momentum_buffer if h.nesterov else s.momentum_buffer)


class Lion(Optimizer):
    """Lion: the sign of the momentum, interpolated towards the gradient (arXiv:2302.06675, algorithm 2)."""

    lr: float = 1e-4  # learning rate; a third to a tenth of AdamW's
    betas: tuple[float, float] = (0.9, 0.99)  # of the step, and of the momentum that is kept
    weight_decay: float = 0.0
    zeros = ('exp_avg',)
    decay = 'decoupled'

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        d = s.exp_avg.lerp(g, 1 - h.beta1).sign()
        s.exp_avg.lerp_(g, 1 - h.beta2)
        return h.lr * d
