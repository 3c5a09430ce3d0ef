"""Normalisation layers by name and layout."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers.batch_norm import BatchNorm2d


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map (batch, channels, height, width) (arXiv:1607.06450)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class RmsNorm(nn.Module):
    """Divide by the root mean square of the last dimension, times a learned weight (arXiv:1910.07467)."""

    def __init__(self, dim: int, eps: float = 1e-6, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.dim,), self.weight, self.eps)

    def extra_repr(self) -> str:
        return f'{self.dim}, eps={self.eps}'


class SimpleNorm(RmsNorm):
    """Divide by the standard deviation of the last dimension without subtracting the mean, times a learned weight."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.var(dim=-1, keepdim=True) + self.eps)
        return x if self.weight is None else x * self.weight


class RmsNorm2d(RmsNorm):
    """`RmsNorm` over the channels of a map (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleNorm2d(SimpleNorm):
    """`SimpleNorm` over the channels of a map (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupNorm1(nn.GroupNorm):
    """Group norm with one group: over all channels and positions of a sample (arXiv:1803.08494)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__(1, dim, eps=eps)


# name -> (over maps NCHW, over the last dimension)
NORMS: dict[str, tuple[Callable[..., nn.Module] | None, Callable[..., nn.Module] | None]] = {
    'batchnorm': (BatchNorm2d, nn.BatchNorm1d),
    'groupnorm': (partial(nn.GroupNorm, 32), None),
    'groupnorm1': (GroupNorm1, None),
    'layernorm': (LayerNorm2d, nn.LayerNorm),
    'rmsnorm': (RmsNorm2d, RmsNorm),
    'simplenorm': (SimpleNorm2d, SimpleNorm),
}
NORMS |= {f'{name}2d': NORMS[name] for name in ('batchnorm', 'layernorm', 'rmsnorm', 'simplenorm')}


def normalization(name: str | Callable[..., nn.Module], dim: int, layout: str = 'NHWC', **options: Any) -> nn.Module:
    """A normalisation over `dim` channels.

    Args:
        name: a name of `NORMS`, or a class that takes the channels.
        dim: channels.
        layout: 'NCHW' where the channels are dimension 1 of a map; 'NHWC' or 'NLC' where they are the last dimension.
        options: arguments of the layer, such as `eps`.

    Raises:
        ValueError: an unknown name, or one that does not exist for the layout.
    """
    if not isinstance(name, str):
        return name(dim, **options)
    if name not in NORMS:
        raise ValueError(f'norm_layer {name!r} is unknown{near(name, NORMS)}')
    layer = NORMS[name][layout != 'NCHW']
    if layer is None:
        raise ValueError(f'norm_layer {name!r} works on NCHW maps only, not on {layout}')
    return layer(dim, **options)
