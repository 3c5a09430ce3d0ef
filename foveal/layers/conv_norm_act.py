"""Convolution, normalisation and activation: the unit that most convolutional networks are written in."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from foveal.layers.conv import Size, conv2d
from foveal.layers.norm_act import Activation, norm_act


class ConvNormAct(nn.Module):
    """A 2d convolution without bias, a norm and an activation.

    Args:
        in_channels: channels of the input (batch, channels, height, width).
        out_channels: channels of the output.
        kernel_size: side of the kernel, or (height, width).
        stride: step of the kernel.
        dilation: distance between kernel elements.
        groups: groups of channels that do not mix.
        bias: learn a bias in the convolution.
        padding: as in `foveal.layers.conv2d`.
        norm_layer: as in `foveal.layers.norm_act`.
        act_layer: name or class of the activation; '' for none.
        norm_options: arguments of the norm, such as `eps`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding: str | int | None = None,
        norm_layer: str | Callable[..., nn.Module] = 'batchnorm',
        act_layer: Activation = 'relu',
        **norm_options: Any,
    ) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, kernel_size, stride, dilation, groups, bias, padding)
        self.bn = norm_act(norm_layer, out_channels, act_layer, **norm_options)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))
