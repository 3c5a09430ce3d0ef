"""Windows of a map, and tables of relative positions inside them (Swin, arXiv:2103.14030)."""

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def window_partition(x: Tensor, window_size: Pair) -> Tensor:
    """Cut a map (batch, height, width, channels) into windows (batch * windows, high * wide, channels), in row order.

    Args:
        x: the map; its sides are multiples of the window's.
        window_size: (high, wide) of a window.
    """
    high, wide = window_size
    batch, height, width, channels = x.shape
    x = x.view(batch, height // high, high, width // wide, wide, channels).transpose(2, 3)
    return x.reshape(-1, high * wide, channels)


def window_reverse(windows: Tensor, window_size: Pair, size: Pair) -> Tensor:
    """Undo `window_partition`; `size` is (height, width) of the map (batch, height, width, channels)."""
    (high, wide), (height, width) = window_size, size
    x = windows.view(-1, height // high, width // wide, high, wide, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, height, width, windows.shape[-1])


def pad_to_windows(x: Tensor, window_size: Pair) -> Tensor:
    """Pad a map (batch, height, width, channels) with zeros below and to the right, to whole windows."""
    size = x.shape[1], x.shape[2]
    height, width = whole_windows(size, window_size)
    # a compiler drops an empty padding by itself; asked about symbolic sizes it takes half a minute a block
    if not torch.compiler.is_compiling() and (height, width) == size:
        return x
    return F.pad(x, (0, 0, 0, width - size[1], 0, height - size[0]))


def whole_windows(size: Pair, window_size: Pair) -> Pair:
    """(height, width) of a map of `size` that is padded to whole windows."""
    # as a product of the window, which torch.compile simplifies where a remainder would cost it minutes
    (height, width), (high, wide) = size, window_size
    return (height + high - 1) // high * high, (width + wide - 1) // wide * wide


def shift_mask(size: Pair, window_size: Pair, shift: Pair, device: torch.device | None = None) -> Tensor:
    """What is added to attention scores in a shifted map, so that parts from opposite borders do not see each other.

    Args:
        size: (height, width) of the map, before it is padded to whole windows.
        window_size: (high, wide) of a window.
        shift: how far the map has been rolled up and to the left.
        device: of the mask.

    Returns:
        (windows, high * wide, high * wide) of 0 and -inf (figure 4 of the paper).
    """
    ends = whole_windows(size, window_size)
    rows, columns = (torch.arange(end, device=device) >= end - by for end, by in zip(ends, shift, strict=True))
    part = window_partition((2 * rows[:, None] + columns.long())[None, :, :, None], window_size).squeeze(-1)
    apart = part[:, :, None] != part[:, None, :]
    return torch.zeros(apart.shape, device=device).masked_fill(apart, -torch.inf)


def relative_position_index(window_size: Pair, device: torch.device | None = None) -> Tensor:
    """The row of the table for every pair of positions of a window: (high * wide, high * wide), int64.

    The table has (2 * high - 1) * (2 * wide - 1) rows, one for every offset from key to query, in row order.
    """
    high, wide = window_size
    row = torch.arange(high, device=device).repeat_interleave(wide)
    column = torch.arange(wide, device=device).repeat(high)
    down, right = (at[:, None] - at[None, :] for at in (row, column))
    return (down + high - 1) * (2 * wide - 1) + right + wide - 1


def resize_relative_table(table: Tensor, window_size: Pair, new_size: Pair) -> Tensor:
    """A table of relative positions for another window.

    Near offsets keep their meaning and far ones are stretched or squeezed, by steps in geometric progression: the rule
    of BEiT (arXiv:2106.08254) for fine-tuning at other sizes, here with linear interpolation between the steps.

    Args:
        table: ((2 * high - 1) * (2 * wide - 1), heads).
        window_size: its (high, wide).
        new_size: (high, wide) of the new window.
    """
    if tuple(window_size) == tuple(new_size):
        return table
    down, right = (stretch(old, new).to(table) for old, new in zip(window_size, new_size, strict=True))
    grid = table.unflatten(0, (down.shape[1], right.shape[1]))
    return torch.einsum('io,jp,oph->ijh', down, right, grid).flatten(0, 1)


def stretch(old: int, new: int) -> Tensor:
    """The matrix (2 * new - 1, 2 * old - 1) that interpolates values at offsets of an old window to those of a new one.

    The old offsets 0, 1, 2, ... are placed at 0, 1, 1 + q, 1 + q + q^2, ... with the q that brings the last one to
    new - 1, or 1.01 where that is less: a smaller window all but crops the table.
    """
    if old == 1:
        return torch.ones(2 * new - 1, 1)
    low, high = 1.01, float(max(new, 2))
    for _ in range(60):
        ratio = (low + high) / 2
        low, high = (ratio, high) if sum(ratio**k for k in range(old - 1)) < new - 1 else (low, ratio)
    side = [sum(ratio**k for k in range(i)) for i in range(old)]
    places = torch.tensor([-at for at in side[:0:-1]] + side, dtype=torch.float64)
    offsets = torch.arange(1 - new, new, dtype=torch.float64)
    right = torch.searchsorted(places, offsets).clamp(1, len(places) - 1)
    share = ((offsets - places[right - 1]) / (places[right] - places[right - 1])).clamp(0, 1)
    eye = torch.eye(len(places), dtype=torch.float64)
    return eye[right - 1] * (1 - share)[:, None] + eye[right] * share[:, None]
