"""Convolutions with several kernel sizes at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveal.layers.conv import conv2d


def split_evenly(total: int, parts: int) -> list[int]:
    """`total` as `parts` whole numbers that are equal, but for the first, which takes the rest."""
    share = total // parts
    return [total - share * (parts - 1)] + [share] * (parts - 1)


class MixedConv2d(nn.ModuleDict):
    """Split the channels into groups, each with its own kernel size (MixConv, arXiv:1907.09595, section 3.1).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_sizes: one side a group; the channels are split evenly among them.
        stride: step of all kernels.
        dilation: distance between kernel elements.
        depthwise: every channel is convolved alone (then both channel counts are equal).
        bias: learn biases.
        padding: as in `conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int],
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        bias: bool = True,
        padding: str | int | None = None,
    ) -> None:
        super().__init__()
        count = len(kernel_sizes)
        self.splits = split_evenly(in_channels, count)
        outs = split_evenly(out_channels, count)
        for i, (kernel, wide, out) in enumerate(zip(kernel_sizes, self.splits, outs, strict=True)):
            groups = wide if depthwise else 1
            self[str(i)] = conv2d(wide, out, kernel, stride, dilation, groups, bias, padding)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(part) for conv, part in zip(self.values(), x.split(self.splits, 1), strict=True)], 1)
