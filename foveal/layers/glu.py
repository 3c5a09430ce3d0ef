"""Gated MLPs (arXiv:2002.05202)."""

from collections.abc import Callable

from torch import Tensor, nn

from foveal.layers.act import activation
from foveal.layers.norm import normalization

Layer = str | Callable[..., nn.Module]


class GluMlp(nn.Module):
    """One projection gives gate and value, halves of `hidden_features`; the gate is activated.

    Args:
        in_features: channels of the input and output.
        hidden_features: channels of gate and value together.
        act_layer: activation of the gate.
        norm_layer: normalise the gated channels.
        bias: learn biases.
        drop: dropout after each layer.
        gate_last: the gate is the second half.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Layer = 'sigmoid',
        norm_layer: Layer | None = None,
        bias: bool = True,
        drop: float = 0.0,
        gate_last: bool = True,
    ) -> None:
        super().__init__()
        self.gate_last = gate_last
        self.fc1 = nn.Linear(in_features, hidden_features, bias=bias)
        self.act = activation(act_layer)
        self.drop1 = nn.Dropout(drop)
        self.norm = normalization(norm_layer, hidden_features // 2) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(hidden_features // 2, in_features, bias=bias)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.fc1(x).chunk(2, dim=-1)
        x = first * self.act(second) if self.gate_last else self.act(first) * second
        return self.drop2(self.fc2(self.norm(self.drop1(x))))


class SwiGLU(nn.Module):
    """Gate and value from two projections; the gate goes through SiLU. Arguments as for `GluMlp`."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Layer = 'silu',
        norm_layer: Layer | None = None,
        bias: bool = True,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(in_features, hidden_features, bias=bias)
        self.fc1_x = nn.Linear(in_features, hidden_features, bias=bias)
        self.act = activation(act_layer)
        self.drop1 = nn.Dropout(drop)
        self.norm = normalization(norm_layer, hidden_features) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(hidden_features, in_features, bias=bias)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(self.act(self.fc1_g(x)) * self.fc1_x(x))
        return self.drop2(self.fc2(self.norm(x)))
