"""A learned bias of attention scores for every offset between two positions of a window."""

import math

import torch
from torch import Tensor, nn

from foveal.layers.window import Pair, relative_position_index, resize_relative_table

CLASS_ROWS = 3  # of the table: the class token to positions, positions to the class token, the class token to itself


class RelativePositionBias(nn.Module):
    """What attention adds to its scores for where a key lies relative to its query (arXiv:2103.14030, equation 4).

    A base: attention that holds a table inherits it beside its own base, and calls `make_table` once it is a module.
    """

    window_size: Pair
    relative_position_bias_table: nn.Parameter
    relative_position_index: Tensor

    def make_table(self, window_size: Pair, num_heads: int, class_token: bool = False) -> None:
        """Make the table, of zeros.

        Args:
            window_size: (high, wide) of the window.
            num_heads: heads of the attention.
            class_token: a class token comes before the positions, with biases of its own (arXiv:2106.08254).
        """
        self.window_size, self.class_rows = window_size, CLASS_ROWS if class_token else 0
        rows = (2 * window_size[0] - 1) * (2 * window_size[1] - 1) + self.class_rows
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self.register_buffer('relative_position_index', self.index(), persistent=False)

    def index(self, device: torch.device | None = None) -> Tensor:
        """The row of the table for every pair of query and key: (length, length), int64."""
        within = relative_position_index(self.window_size, device)
        if not self.class_rows:
            return within
        first = (2 * self.window_size[0] - 1) * (2 * self.window_size[1] - 1)
        index = within.new_full((len(within) + 1, len(within) + 1), first)
        index[:, 0], index[0, 0], index[1:, 1:] = first + 1, first + 2, within
        return index

    def set_window_size(self, window_size: Pair) -> None:
        """Take windows of another size; the table is resized."""
        table, old, self.window_size = self.relative_position_bias_table, self.window_size, window_size
        if window_size != old:
            resized = self.resized(table.detach(), old)
            self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.relative_position_index = self.index(table.device)

    def resized(self, table: Tensor, old: Pair) -> Tensor:
        """A table of the window `old` for the present one; what it says of the class token stays."""
        offsets, rest = table.tensor_split([len(table) - self.class_rows])
        offsets = resize_relative_table(offsets, old, self.window_size)
        return torch.cat([offsets, rest]) if self.class_rows else offsets

    def adapt(self, name: str, weight: Tensor) -> Tensor:
        """A checkpoint's table, of a square window, for the present window."""
        rows = weight.shape[0] - self.class_rows
        side = (math.isqrt(max(rows, 0)) + 1) // 2
        if name != 'relative_position_bias_table' or (2 * side - 1) ** 2 != rows:
            return weight
        return self.resized(weight, (side, side))

    def reset_buffers(self) -> None:
        """Compute the index, which no checkpoint holds."""
        self.set_window_size(self.window_size)

    def bias(self) -> Tensor:
        """What is added to the scores: (1, num_heads, length, length)."""
        table, index = self.relative_position_bias_table, self.relative_position_index
        return table.index_select(0, index.flatten()).T.contiguous().view(1, table.shape[1], *index.shape)
