"""Convolutions whose kernel is mixed anew for every sample."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers.conv import pad_same


class CondConv2d(nn.Module):
    """Convolve every sample with its own mixture of expert kernels (CondConv, arXiv:1904.04971, eq. 1).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel.
        stride: step of the kernel.
        dilation: distance between kernel elements.
        groups: groups of channels that do not mix.
        num_experts: kernels to mix.
        padding: '' pads both sides alike; 'same' pads as TensorFlow does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        num_experts: int = 4,
        padding: str = '',
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation, self.groups = kernel_size, stride, dilation, groups
        self.padding, self.out_channels = padding, out_channels
        self.shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.zeros(num_experts, math.prod(self.shape)))

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        """Convolve a map (batch, channels, height, width) under routing weights (batch, experts)."""
        if self.padding == 'same':
            x, padding = pad_same(x, self.kernel_size, self.stride, self.dilation), 0
        else:
            padding = (self.stride - 1 + self.dilation * (self.kernel_size - 1)) // 2
        batch, channels = x.shape[:2]
        # the samples as groups of one convolution
        kernels = (routing @ self.weight).reshape(batch * self.out_channels, *self.shape[1:])
        x = x.reshape(1, batch * channels, *x.shape[2:])
        y = F.conv2d(x, kernels, None, self.stride, padding, self.dilation, self.groups * batch)
        return y.reshape(batch, self.out_channels, *y.shape[2:])

    def extra_repr(self) -> str:
        return f'{self.shape}, experts={self.weight.shape[0]}, stride={self.stride}, padding={self.padding!r}'
