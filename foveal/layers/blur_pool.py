"""Downsampling of maps that does not alias, and the average pooling of residual shortcuts."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers.conv import pad_same


class BlurPool2d(nn.Module):
    """Blur with a binomial filter, then take every `stride`-th position (arXiv:1904.11486).

    Args:
        filt_size: side of the filter, at least 2.
        stride: step; 1 blurs alone.
        pad_mode: how `torch.nn.functional.pad` fills the border: 'reflect', 'constant' or 'replicate'.
    """

    kernel: Tensor

    def __init__(self, filt_size: int = 3, stride: int = 2, pad_mode: str = 'reflect') -> None:
        super().__init__()
        if filt_size < 2:
            raise ValueError(f'filt_size must be at least 2, got {filt_size}')
        self.filt_size, self.stride, self.pad_mode = filt_size, stride, pad_mode
        self.padding = (stride + filt_size - 2) // 2
        self.register_buffer('kernel', torch.empty(1, 1, filt_size, filt_size), persistent=False)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Fill the filter in, which no checkpoint holds."""
        row = torch.tensor([math.comb(self.filt_size - 1, i) for i in range(self.filt_size)], dtype=torch.float64)
        row /= row.sum()
        self.kernel.copy_(torch.outer(row, row))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, channels, height / stride, width / stride), rounded up."""
        channels = x.shape[1]
        x = F.pad(x, (self.padding,) * 4, mode=self.pad_mode)
        return F.conv2d(x, self.kernel.expand(channels, -1, -1, -1), stride=self.stride, groups=channels)

    def extra_repr(self) -> str:
        return f'filt_size={self.filt_size}, stride={self.stride}, pad_mode={self.pad_mode!r}'


class AvgPool2dSame(nn.AvgPool2d):
    """Average pooling with TensorFlow's 'SAME' padding by zeros, so that a stride of 1 keeps the size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size, self.stride))


def average(stride: int) -> nn.AvgPool2d:
    """Mean of squares of side `stride`; those that the border cuts are the mean of what is left of them."""
    return nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)


AA_LAYERS = ('avg', 'avgpool', 'blur', 'blurpc')


def anti_alias(name: str | Callable[..., nn.Module], stride: int = 2) -> nn.Module:
    """A layer that reduces a map (batch, channels, height, width) by `stride` without aliasing.

    Args:
        name: 'avg' or 'avgpool' for the mean of squares, 'blur' for `BlurPool2d`, 'blurpc' for it with zeros around
            the map; or a class that takes `stride`.
        stride: step.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(name, str):
        return name(stride=stride)
    if name not in AA_LAYERS:
        raise ValueError(f'aa_layer {name!r} is unknown{near(name, AA_LAYERS)}')
    if name.startswith('avg'):
        return average(stride)
    return BlurPool2d(stride=stride, pad_mode='constant' if name == 'blurpc' else 'reflect')
