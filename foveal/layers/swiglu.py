"""The MLP that SiLU gates (arXiv:2002.05202), with gate and value in two projections."""

from collections.abc import Callable

from torch import Tensor, nn

from foveal.layers.act import activation
from foveal.layers.norm import normalization


class SwiGLU(nn.Module):
    """Gate and value from two projections; the gate goes through SiLU.

    Args:
        in_features: channels of the input and output.
        hidden_features: channels of the gate, and of the value.
        act_layer: name or class of the gate's activation.
        norm_layer: normalise the gated channels.
        bias: learn biases.
        drop: dropout after each layer, in [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: str | Callable[..., nn.Module] = 'silu',
        norm_layer: str | Callable[..., nn.Module] | None = None,
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
