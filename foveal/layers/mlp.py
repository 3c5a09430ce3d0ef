"""Multi-layer perceptrons of blocks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from foveal.layers.act import activation
from foveal.layers.norm import normalization


class GlobalResponseNorm(nn.Module):
    """Channels compete by their norm over the map (arXiv:2301.00808, algorithm 1).

    Args:
        dim: channels.
        layout: 'NCHW' or 'NHWC'.
        eps: added to the mean norm that is divided by.
    """

    def __init__(self, dim: int, layout: str = 'NHWC', eps: float = 1e-6) -> None:
        super().__init__()
        self.layout, self.eps = layout, eps
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        maps, channels = ((2, 3), 1) if self.layout == 'NCHW' else ((1, 2), -1)
        response = torch.linalg.vector_norm(x, dim=maps, keepdim=True)
        share = response / (response.mean(dim=channels, keepdim=True) + self.eps)
        shape = (-1, 1, 1) if self.layout == 'NCHW' else (-1,)
        return x + torch.addcmul(self.bias.view(shape), self.weight.view(shape), x * share)


class Mlp(nn.Module):
    """Two linear layers with an activation between.

    Args:
        in_features: channels of the input.
        hidden_features: channels inside; the input's if not given.
        out_features: channels of the output; the input's if not given.
        act_layer: name or class of the activation.
        bias: learn biases.
        drop: dropout after each layer, in [0, 1).
        layout: 'NHWC' or 'NLC' for linear layers over the last dimension; 'NCHW' for 1x1 convolutions (same function,
            other weight shapes).
        norm_layer: normalise the hidden channels (arXiv:2110.09456).
        grn: global response norm of the hidden channels (arXiv:2301.00808).
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: str | Callable[..., nn.Module] = 'gelu',
        bias: bool = True,
        drop: float = 0.0,
        layout: str = 'NLC',
        norm_layer: str | Callable[..., nn.Module] | None = None,
        grn: bool = False,
    ) -> None:
        super().__init__()
        hidden, out = hidden_features or in_features, out_features or in_features
        linear = pointwise if layout == 'NCHW' else nn.Linear
        self.fc1 = linear(in_features, hidden, bias=bias)
        self.act = activation(act_layer)
        self.drop1 = nn.Dropout(drop)
        if grn:
            self.grn = GlobalResponseNorm(hidden, layout)
        self.norm = normalization(norm_layer, hidden, layout) if norm_layer else nn.Identity()
        self.fc2 = linear(hidden, out, bias=bias)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(self.act(self.fc1(x)))
        x = self.grn(x) if hasattr(self, 'grn') else x
        return self.drop2(self.fc2(self.norm(x)))


def pointwise(in_features: int, out_features: int, bias: bool = True) -> nn.Conv2d:
    """A linear layer over the channels of a map (batch, channels, height, width)."""
    return nn.Conv2d(in_features, out_features, 1, bias=bias)
