"""Convolutions with the padding rules that published weights were trained with."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = int | tuple[int, int]
WEIGHTS_A_POSITION = 300  # of the output: beyond, a 1x1 convolution in bfloat16 on a CPU is slower than its product


def pair(value: Size | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a number or a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Total padding along one side with which the output has ceil(size / stride) elements (TensorFlow's 'SAME')."""
    return max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


def pad_same(x: Tensor, kernel: Size, stride: Size, dilation: Size = 1, value: float = 0.0) -> Tensor:
    """Pad a map (batch, channels, height, width) as TensorFlow's 'SAME' does: the odd element goes to the far side."""
    high, wide = map(same_padding, x.shape[-2:], pair(kernel), pair(stride), pair(dilation))
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2), value=value)


class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's 'SAME' padding, which depends on the size of the input when it strides."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size, self.stride, self.dilation))  # type: ignore[arg-type]


class PointwiseConv2d(nn.Conv2d):
    """Convolution of 1x1 without groups or padding, as a matrix product where that is faster.

    That is in bfloat16 on a CPU, of kernels that are large for their map: of 16 maps of 7x7, forward and backward of
    512 to 2048 channels took 12.7 ms on two cores instead of 14.9, and of 2048 to 512 13.0 instead of 16.2.
    """

    def forward(self, x: Tensor) -> Tensor:
        in_rows = x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last)
        if not in_rows or x.device.type != 'cpu' or torch.compiler.is_compiling():  # a graph is for all sizes
            return super().forward(x)
        high, wide = self.stride
        positions = x.shape[0] * math.ceil(x.shape[2] / high) * math.ceil(x.shape[3] / wide)
        if self.weight.numel() <= WEIGHTS_A_POSITION * positions:
            return super().forward(x)
        rows = x[:, :, ::high, ::wide].permute(0, 2, 3, 1)
        return F.linear(rows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    padding: str | int | None = None,
    layers: tuple[Callable[..., nn.Conv2d], Callable[..., nn.Conv2d]] = (nn.Conv2d, Conv2dSame),
    **more: Any,
) -> nn.Conv2d:
    """A 2d convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel, or (height, width).
        stride: step of the kernel.
        dilation: distance between kernel elements.
        groups: groups of channels that do not mix.
        bias: learn a bias.
        padding: None or '' pads both sides alike so that a stride of 1 keeps the size; 'same' pads as TensorFlow
            does; 'valid' and 0 do not pad; or a number.
        layers: the class of the convolution, and the one that pads as TensorFlow does.
        more: arguments that these classes have besides those of `nn.Conv2d`.

    Raises:
        ValueError: an unknown padding.
    """
    layer, same = layers
    options = dict(stride=stride, dilation=dilation, groups=groups, bias=bias, **more)
    if padding is None or padding == '':
        if layer is nn.Conv2d and groups == 1 and pair(kernel_size) == (1, 1) and stride <= 2:
            return PointwiseConv2d(in_channels, out_channels, 1, **options)
        sides = tuple((stride - 1 + dilation * (k - 1)) // 2 for k in pair(kernel_size))
        return layer(in_channels, out_channels, kernel_size, padding=sides, **options)
    if padding == 'same':
        if stride == 1 and all(dilation * (k - 1) % 2 == 0 for k in pair(kernel_size)):
            return conv2d(in_channels, out_channels, kernel_size, layers=layers, **options)
        return same(in_channels, out_channels, kernel_size, **options)
    if padding != 'valid' and not isinstance(padding, int):
        raise ValueError(f"padding {padding!r} is unknown; legal are '', 'same', 'valid' and a number")
    return layer(in_channels, out_channels, kernel_size, padding=padding, **options)
