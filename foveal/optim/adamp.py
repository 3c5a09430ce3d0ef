"""AdamP and SGDP: momentum that does not grow scale-invariant weights (arXiv:2006.08217)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.adamw import AdamWLegacy
from foveal.optim.engine import Optimizer, Options, Traits
from foveal.optim.program import cautious


def project(
    p: Tensor, g: Tensor, d: Tensor, delta: float, wd_ratio: float, eps: float, caution: bool
) -> tuple[Tensor, Tensor]:
    """Takes the radial part out of a step where the weight looks scale-invariant (arXiv:2006.08217, algorithm 1).

    It does where it is orthogonal to its gradient: by channel, or else as a whole.

    Args:
        p, g, d: Weights, gradients and steps, (k, channels, ...).
        delta: The cosine that counts as orthogonal, times the root of the number of elements.
        wd_ratio: Share of the decay that is left where it is.
        eps: Least norm.
        caution: Mask the step; where there is no radial part, by the gradient without its radial part.

    Returns:
        The step, and the share of the decay (k, 1, ...).
    """
    one = (-1, *[1] * (p.ndim - 1))
    result, ratio = cautious(d, g) if caution else d, torch.ones_like(p.flatten(1)[:, 0]).view(one)
    for start in (1, 2):  # as a whole; by channel, which counts where both hold
        x, y = p.flatten(start), g.flatten(start)
        size, slope = (t.square().sum(-1, keepdim=True).sqrt() for t in (x, y))
        cosine = (x * y).sum(-1, keepdim=True).abs() / (size.clamp(min=eps) * slope.clamp(min=eps))
        orthogonal = (cosine.flatten(1).amax(1) < delta / x.shape[-1] ** 0.5).view(one)
        unit = x / (size + eps)
        step = tangent(unit, d.flatten(start))
        if caution:
            step = tangent(unit, cautious(step, tangent(unit, y)))
        result = torch.where(orthogonal, step.view_as(d), result)
        ratio = torch.where(orthogonal, wd_ratio, ratio)
    return result, ratio


def tangent(unit: Tensor, step: Tensor) -> Tensor:
    """What of a step is at right angles to unit vectors, (..., n)."""
    return step - unit * (unit * step).sum(-1, keepdim=True)


def eager(options: Options) -> Options:
    """Options without compilation for masked projections, where inductor 2.15 fails or gains nothing."""
    return {**options, 'compile': False} if options.get('caution') else options


class AdamP(Optimizer):
    """AdamP: Adam without the step's radial part where weights are scale-invariant (arXiv:2006.08217, algorithm 3).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the means of the gradient and of its square.
        eps: Added to the root of the second.
        weight_decay: Decoupled.
        delta: How orthogonal to its gradient a weight must be to count as scale-invariant.
        wd_ratio: Share of the decay that such a weight gets.
        nesterov: Look ahead by one step of the momentum.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'exp_avg_sq')
    traits: ClassVar = {'': Traits('rows'), 'projected': Traits('tensors')}
    masks = True
    scalars = AdamWLegacy.scalars

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, own | dict(delta=delta, wd_ratio=wd_ratio, nesterov=nesterov), eager(options))

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return 'projected' if p.ndim > 1 else ''

    def decays(self, group: dict[str, Any]) -> str:
        return 'own'

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        correction1: float,
        correction2: float,
        decay: Any,
        delta: float,
        wd_ratio: float,
        nesterov: bool,
        caution: bool,
        kind: str,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        exp_avg_sq.lerp_(g * g, 1 - beta2)
        d = exp_avg.lerp(g, 1 - beta1) if nesterov else exp_avg
        d = d / (exp_avg_sq.sqrt() / correction2 + eps)
        if kind:
            d, ratio = project(p, g, d, delta, wd_ratio, eps, caution)
            decay = decay * ratio
        elif caution:
            d = cautious(d, g)
        return lr * (d / correction1 + decay * p)


class SGDP(Optimizer):
    """SGDP: SGD without the step's radial part where weights are scale-invariant (arXiv:2006.08217, algorithm 2).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Share of the last step that is kept.
        dampening: Share of the gradient that does not enter the momentum.
        weight_decay: Decoupled, and multiplied by 1 / (1 - momentum), as coupled decay would add up to.
        nesterov: Look ahead by one step of the momentum.
        eps: Least norm.
        delta, wd_ratio: See `AdamP`.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('momentum',)
    traits = AdamP.traits
    masks = True
    kind = AdamP.kind
    decays = AdamP.decays

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        super().__init__(params, own | dict(eps=eps, delta=delta, wd_ratio=wd_ratio), eager(options))

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        momentum = group['momentum']
        return {'kept': momentum, 'share': 1 / (1 - momentum)}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        momentum: Tensor,
        lr: float,
        kept: float,
        dampening: float,
        decay: Any,
        share: float,
        eps: float,
        delta: float,
        wd_ratio: float,
        nesterov: bool,
        caution: bool,
        kind: str,
    ) -> Tensor:
        momentum.mul_(kept).add_((1 - dampening) * g)
        d = g + kept * momentum if nesterov else momentum
        if kind:
            d, ratio = project(p, g, d, delta, wd_ratio, eps, caution)
            decay = decay * ratio
        elif caution:
            d = cautious(d, g)
        return lr * (d + share * decay * p)
