"""Learned scales of residual branches."""

import torch
from torch import Tensor, nn


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
