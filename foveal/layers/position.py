"""Absolute position embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_position_embedding(
    table: Tensor, new: tuple[int, int], old: tuple[int, int] | None = None, num_prefix_tokens: int = 0
) -> Tensor:
    """Positions of another grid, by bicubic interpolation.

    Args:
        table: (1, prefix + height * width, channels).
        new: (height, width) of the new grid.
        old: of the grid that the table belongs to; a square if not given.
        num_prefix_tokens: entries at the front that have no place on the grid and stay as they are.
    """
    prefix, positions = table.tensor_split([num_prefix_tokens], dim=1)
    if old is None:
        side = int(positions.shape[1] ** 0.5)
        old = (side, positions.shape[1] // side)
    if tuple(old) == tuple(new):
        return table
    grid = positions.unflatten(1, old).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=tuple(new), mode='bicubic', antialias=True, align_corners=False)
    return torch.cat([prefix, grid.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
