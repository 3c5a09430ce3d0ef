"""RMSprop as TensorFlow has it, which EfficientNets and MobileNets were trained with."""

from typing import Any, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class RMSpropTF(Optimizer):
    """RMSprop with eps inside the root, squares that start at one, and the rate inside the momentum.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        alpha: Of the mean squared gradient.
        eps: Added to that before the root.
        weight_decay: Added to the gradient, unless decoupled.
        momentum: Share of the last step that is kept.
        centered: Divide by the standard deviation instead.
        decoupled_decay: Decay as AdamW does.
        lr_in_momentum: Keep steps in the momentum, not divided gradients: a change of rate then comes gradually.
        **options: See `foveal.optim.Options`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.9,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        decoupled_decay: bool = False,
        lr_in_momentum: bool = True,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered)
        super().__init__(params, own | dict(decoupled_decay=decoupled_decay, lr_in_momentum=lr_in_momentum), options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled' if group['decoupled_decay'] or group['corrected_weight_decay'] else 'coupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = {'square_avg': torch.ones_like(p)}
        if group['momentum']:
            state['momentum_buffer'] = torch.zeros_like(p)
        if group['centered']:
            state['grad_avg'] = torch.zeros_like(p)
        return state

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        square_avg: Tensor,
        lr: float,
        alpha: float,
        eps: float,
        momentum: float,
        lr_in_momentum: bool,
        momentum_buffer: Tensor | None = None,
        grad_avg: Tensor | None = None,
    ) -> Tensor:
        variance = square_avg.lerp_(g * g, 1 - alpha)
        if grad_avg is not None:
            variance = square_avg - grad_avg.lerp_(g, 1 - alpha).square()
        d = g / (variance + eps).sqrt()
        if momentum_buffer is None:
            return lr * d
        momentum_buffer.mul_(momentum).add_(lr * d if lr_in_momentum else d)
        return momentum_buffer if lr_in_momentum else lr * momentum_buffer
