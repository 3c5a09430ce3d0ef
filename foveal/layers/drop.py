"""Regularisation by dropping parts of the computation while training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for some samples of the batch (arXiv:1603.09382).

    Args:
        drop_prob: probability of dropping, in [0, 1). Kept branches are scaled by 1 / (1 - drop_prob).
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_prob
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob:.3f}'


class DropBlock2d(nn.Module):
    """Drop square regions of a map (batch, channels, height, width) while training (arXiv:1810.12890).

    Args:
        drop_prob: expected fraction of the map that is dropped, in [0, 1).
        block_size: side of the squares; cut to the map where that is smaller.
    """

    def __init__(self, drop_prob: float = 0.1, block_size: int = 7) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        height, width = x.shape[-2:]
        size = min(self.block_size, height, width)
        # eq. 1 of the paper: the rate of centres that gives the wanted fraction of dropped cells
        gamma = self.drop_prob / size**2 * height * width / ((height - size + 1) * (width - size + 1))
        # seeds only where the whole square fits (section 3.1); elsewhere cut squares would add to the fraction
        seeds = x.new_empty(*x.shape[:2], height - size + 1, width - size + 1).bernoulli_(gamma)
        dropped = F.max_pool2d(F.pad(seeds, (size - 1,) * 4), size, stride=1)
        keep = 1.0 - dropped
        return x * keep * (keep.numel() / keep.sum().clamp(min=1.0))


class PatchDropout(nn.Module):
    """Keep a random subset of the patch tokens while training (arXiv:2212.00794, FLIP).

    Args:
        drop_prob: fraction of the patches to drop, in [0, 1).
        num_prefix_tokens: tokens at the front that are always kept.
    """

    def __init__(self, drop_prob: float, num_prefix_tokens: int = 1) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.num_prefix_tokens = num_prefix_tokens

    def keep(self, x: Tensor) -> Tensor | None:
        """Indices (batch, kept) of the patches that stay, in their order; None when all of them do."""
        if self.drop_prob == 0.0 or not self.training:
            return None
        batch, length = x.shape[0], x.shape[1] - self.num_prefix_tokens
        kept = max(1, int(length * (1.0 - self.drop_prob)))
        return torch.rand(batch, length, device=x.device).argsort(dim=-1)[:, :kept].sort(dim=-1).values

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        keep = self.keep(x) if keep is None else keep
        if keep is None:
            return x
        prefix, patches = x.tensor_split([self.num_prefix_tokens], dim=1)
        return torch.cat([prefix, patches.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))], dim=1)


def drop_path_rates(rate: float, depths: tuple[int, ...] | list[int], stagewise: bool = False) -> list[list[float]]:
    """Drop-path rates that grow linearly with depth, one list a stage (arXiv:1603.09382, section 3).

    Args:
        rate: rate of the last block.
        depths: blocks in each stage.
        stagewise: all blocks of a stage share one rate.
    """
    total, count = sum(depths), len(depths)
    rates, seen = [], 0
    for i, depth in enumerate(depths):
        if stagewise:
            rates.append([rate * i / max(count - 1, 1)] * depth)
        else:
            rates.append([rate * (seen + j) / max(total - 1, 1) for j in range(depth)])
        seen += depth
    return rates
