"""Convolutions with the padding rules that published weights were trained with."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Size = int | tuple[int, int]


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
        sides = tuple((stride - 1 + dilation * (k - 1)) // 2 for k in pair(kernel_size))
        return layer(in_channels, out_channels, kernel_size, padding=sides, **options)
    if padding == 'same':
        if stride == 1 and all(dilation * (k - 1) % 2 == 0 for k in pair(kernel_size)):
            return conv2d(in_channels, out_channels, kernel_size, layers=layers, **options)
        return same(in_channels, out_channels, kernel_size, **options)
    if padding != 'valid' and not isinstance(padding, int):
        raise ValueError(f"padding {padding!r} is unknown; legal are '', 'same', 'valid' and a number")
    return layer(in_channels, out_channels, kernel_size, padding=padding, **options)
