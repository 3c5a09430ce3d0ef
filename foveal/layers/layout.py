"""Where the channels of a tensor stand: NCHW and NHWC maps, NLC tokens."""

from torch import Tensor

LAYOUTS = ('NCHW', 'NHWC', 'NLC')


def relayout(x: Tensor, source: str, target: str, grid: tuple[int, int] | None = None) -> Tensor:
    """Move the channels of `x` from where `source` has them to where `target` wants them.

    Args:
        x: a map (batch, channels, height, width) or (batch, height, width, channels), or tokens
            (batch, height * width, channels) in row order.
        source: the layout of `x`: 'NCHW', 'NHWC' or 'NLC'.
        target: the layout wanted.
        grid: (height, width) of the tokens, needed from 'NLC' to a map.
    """
    if source == target:
        return x
    if source == 'NLC':
        assert grid is not None
        x = x.unflatten(1, grid)
        return x if target == 'NHWC' else x.permute(0, 3, 1, 2)
    if target == 'NLC':
        return x.flatten(1, 2) if source == 'NHWC' else x.flatten(2).transpose(1, 2)
    return x.permute(0, 2, 3, 1) if source == 'NCHW' else x.permute(0, 3, 1, 2)


def channel_dim(layout: str) -> int:
    """The dimension that holds the channels."""
    return 1 if layout == 'NCHW' else -1
