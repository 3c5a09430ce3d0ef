"""Keeping gradients from growing."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from foveal.engine.config import CLIP_MODES
from foveal.errors import near


def clip_gradients(parameters: Iterable[Tensor], limit: float, mode: str = 'norm') -> None:
    """Clips the gradients in place.

    Args:
        parameters: Whose gradients; those without one are passed over.
        limit: Greatest norm over all (norm), greatest size of an element (value), or greatest ratio of a unit's
            gradient to its weights (agc).
        mode: norm, value or agc.

    Raises:
        ValueError: An unknown mode.
    """
    if mode == 'norm':
        nn.utils.clip_grad_norm_(parameters, limit)
    elif mode == 'value':
        nn.utils.clip_grad_value_(parameters, limit)
    elif mode == 'agc':
        adaptive_clip_grad(parameters, limit)
    else:
        raise ValueError(f'clip_mode {mode!r} is unknown{near(mode, CLIP_MODES)}')


@torch.no_grad()
def adaptive_clip_grad(parameters: Iterable[Tensor], clip_factor: float = 0.01, eps: float = 1e-3) -> None:
    """Adaptive gradient clipping: by the ratio of a unit's gradient to its weights (arXiv:2102.06171, equation 3).

    A unit is an output channel: one index of dimension 0; a vector or a number is one unit. The paper leaves the
    classifier out: pass the other parameters.

    Args:
        parameters: Whose gradients.
        clip_factor: Greatest ratio of the norms.
        eps: Least norm of weights, so that those at zero can grow.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            most = unit_norm(parameter).clamp(min=eps) * clip_factor
            norm = unit_norm(parameter.grad)
            parameter.grad.mul_((most / norm.clamp(min=1e-6)).clamp(max=1.0))


def unit_norm(x: Tensor) -> Tensor:
    """Norm of each unit, shaped to multiply the tensor."""
    if x.ndim <= 1:
        return torch.linalg.vector_norm(x)
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
