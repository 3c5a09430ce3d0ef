"""AdamP and SGDP: momentum that does not grow scale-invariant weights (arXiv:2006.08217)."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.adam import Moments, step_of
from foveal.optim.engine import Optimizer, Traits
from foveal.optim.program import cautious

total = partial(torch.sum, dim=1, keepdim=True)  # over the channels, (k, channels, 1) to (k, 1, 1)


def project(p: Tensor, g: Tensor, d: Tensor, h: Any) -> tuple[Tensor, Any]:
    """Takes the radial part out of a step where the weight looks scale-invariant (arXiv:2006.08217, algorithm 1).

    It does where it is orthogonal to its gradient: by channel, or else as a whole. A cautious mask is applied on the
    way; where there is no radial part, by the gradient without its radial part.

    Args:
        p, g, d: Weights, gradients and steps, (k, channels, ...), or (k, n) of vectors, which keep theirs.
        h: Has `kind` and `caution`; `delta`, the cosine that counts as orthogonal, times the root of the number of
            elements; `wd_ratio`, the share of the decay that is left where it is; `eps`, the least norm; `decay`.

    Returns:
        The step, and the decay: a number, or (k, 1, ...).
    """
    if not h.kind:
        return cautious(d, g) if h.caution else d, h.decay
    x, y, z = p.flatten(2), g.flatten(2), d.flatten(2)
    # sums by channel are all that has to be known of the tensors: those of the whole follow
    xx, xy, yy = dot(x, x), dot(x, y), dot(y, y)
    by_channel = orthogonal(xx, xy, yy, x[0, 0].numel(), h)
    as_whole = orthogonal(total(xx), total(xy), total(yy), x[0].numel(), h)

    def tangent(t: Tensor) -> Tensor:
        along = dot(x, t)
        one, all_ = along / (xx.sqrt() + h.eps) ** 2, total(along) / (total(xx).sqrt() + h.eps) ** 2
        return t - torch.where(by_channel, one, torch.where(as_whole, all_, 0.0)) * x

    z = tangent(z)
    if h.caution:
        z = tangent(cautious(z, tangent(y)))
    ratio = torch.where(by_channel | as_whole, h.wd_ratio, 1.0)
    return z.view_as(d), h.decay * ratio.view(-1, *[1] * (p.ndim - 1))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Scalar products over the last dimension, which stays."""
    return (x * y).sum(-1, keepdim=True)


def orthogonal(xx: Tensor, xy: Tensor, yy: Tensor, n: Any, h: Any) -> Tensor:
    """Whether, in all channels, vectors of n elements are orthogonal, by their scalar products, (k, channels, 1)."""
    cosine = xy.abs() / (xx.sqrt().clamp(min=h.eps) * yy.sqrt().clamp(min=h.eps))
    return cosine.amax(1, keepdim=True) < h.delta / n**0.5


class AdamP(Moments):
    """AdamP: Adam without the step's radial part where weights are scale-invariant (arXiv:2006.08217, algorithm 3)."""

    delta: float = 0.1  # how orthogonal to its gradient a weight must be to count as scale-invariant
    wd_ratio: float = 0.1  # share of the decay that such a weight gets
    nesterov: bool = False
    decay = 'own'
    traits: ClassVar = {'': Traits('rows'), 'projected': Traits('tensors')}
    masks = True

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return 'projected' if p.ndim > 1 else ''

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        d, decay = project(p, g, step_of(g, s, h, ahead=h.nesterov), h)
        return h.lr * (d + decay * p)


class SGDP(Optimizer):
    """SGDP: SGD without the step's radial part where weights are scale-invariant (arXiv:2006.08217, algorithm 2)."""

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0  # share of the gradient that does not enter the momentum
    weight_decay: float = 0.0  # decoupled, and multiplied by 1 / (1 - momentum), as coupled decay would add up to
    nesterov: bool = False
    eps: float = 1e-8  # least norm
    delta: float = 0.1  # as AdamP's
    wd_ratio: float = 0.1  # as AdamP's
    zeros = ('momentum',)
    decay = 'own'
    traits = AdamP.traits
    masks = True
    kind = AdamP.kind

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        return {'share': 1 / (1 - group['momentum'])}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.momentum.mul_(h.momentum).add_((1 - h.dampening) * g)
        d, decay = project(p, g, g + h.momentum * s.momentum if h.nesterov else s.momentum, h)
        return h.lr * (d + h.share * decay * p)
