"""Learned scales of residual branches."""

from typing import Any

import torch
from torch import Tensor, nn

from foveal.layers.drop import DropPath


class LayerScale(nn.Module):
    """Scale every channel of the last dimension by a learned factor (arXiv:2103.17239).

    Args:
        dim: channels.
        init_values: initial value of the factors.
    """

    def __init__(self, dim: int, init_values: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class LayerScale2d(LayerScale):
    """`LayerScale` over a map (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.view(-1, 1, 1)


class ScaledBlock(nn.Module):
    """Attention, then an MLP, each behind a norm and scaled per channel before it is added (arXiv:2103.17239).

    CaiT, BEiT and their kin, whose scales are weights of the block itself.

    Args:
        attn, mlp: the two branches.
        norm1, norm2: what normalises their inputs.
        dim: channels.
        init_values: initial value of the scales; None for no scales.
        drop_path: stochastic depth of both branches, in [0, 1).
    """

    def __init__(
        self,
        attn: nn.Module,
        mlp: nn.Module,
        norm1: nn.Module,
        norm2: nn.Module,
        dim: int,
        init_values: float | None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.gamma_1, self.gamma_2 = (
            None if init_values is None else nn.Parameter(torch.full((dim,), init_values)) for _ in range(2)
        )
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.drop_path = DropPath(drop_path)

    def add(self, x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
        """A branch's output, scaled, on top of what goes past it."""
        branch = self.drop_path(branch)
        return x + branch if gamma is None else torch.addcmul(x, branch, gamma)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Run on tokens (batch, length, dim); the attention gets `context` too."""
        x = self.add(x, self.attn(self.norm1(x), *context), self.gamma_1)
        return self.add(x, self.mlp(self.norm2(x)), self.gamma_2)
