"""Multi-layer perceptrons whose hidden channels gate each other."""

from collections.abc import Callable

from torch import Tensor, nn

from foveal.layers.act import activation
from foveal.layers.norm import normalization


class GluMlp(nn.Module):
    """A gated linear unit between two linear layers (arXiv:2002.05202): half the hidden channels gate the other half.

    Args:
        in_features: channels of the input.
        hidden_features: channels that the first layer makes, an even number; half of them reach the second layer.
        out_features: channels of the output; the input's if not given.
        act_layer: name or class of the gate's activation.
        bias: learn biases.
        drop: dropout after each layer, in [0, 1).
        norm_layer: normalise what reaches the second layer.
        gate_last: the second half is the gate; otherwise the first.

    Raises:
        ValueError: an odd number of hidden channels.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: str | Callable[..., nn.Module] = 'sigmoid',
        bias: bool = True,
        drop: float = 0.0,
        norm_layer: str | Callable[..., nn.Module] | None = None,
        gate_last: bool = True,
    ) -> None:
        super().__init__()
        hidden, out = hidden_features or in_features, out_features or in_features
        if hidden % 2:
            raise ValueError(f'hidden_features must be even, since one half gates the other; got {hidden}')
        self.gate_last = gate_last
        self.fc1 = nn.Linear(in_features, hidden, bias=bias)
        self.act = activation(act_layer)
        self.drop1 = nn.Dropout(drop)
        self.norm = normalization(norm_layer, hidden // 2) if norm_layer else nn.Identity()
        self.fc2 = nn.Linear(hidden // 2, out, bias=bias)
        self.drop2 = nn.Dropout(drop)

    def gated(self, x: Tensor) -> Tensor:
        """From hidden channels to half as many."""
        first, last = x.chunk(2, dim=-1)
        return first * self.act(last) if self.gate_last else self.act(first) * last

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.norm(self.drop1(self.gated(self.fc1(x))))))


class SpatialGatingUnit(nn.Module):
    """One half of the channels gates the other by what a linear map over the positions makes of it.

    Section 2.1 of gMLP (arXiv:2105.08050).

    Args:
        dim: channels of the tokens (batch, seq_len, dim), an even number.
        seq_len: number of tokens.
        norm_layer: normalises the gate's half.
    """

    def __init__(self, dim: int, seq_len: int, norm_layer: str | Callable[..., nn.Module] = 'layernorm') -> None:
        super().__init__()
        self.norm = normalization(norm_layer, dim // 2)
        self.proj = nn.Linear(seq_len, seq_len)

    def init_weights(self) -> None:
        """A gate of about one, so that training starts from a plain MLP (the same section)."""
        nn.init.normal_(self.proj.weight, std=1e-6)
        nn.init.ones_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * self.proj(self.norm(gate).transpose(1, 2)).transpose(1, 2)


class GatedMlp(GluMlp):
    """A linear layer, an activation, a `SpatialGatingUnit`, a linear layer (arXiv:2105.08050, figure 1).

    Args:
        in_features: channels of the input.
        hidden_features: channels that the first layer makes, an even number.
        seq_len: number of tokens.
        act_layer: name or class of the activation.
        drop: dropout after each layer, in [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        seq_len: int,
        act_layer: str | Callable[..., nn.Module] = 'gelu',
        drop: float = 0.0,
    ) -> None:
        super().__init__(in_features, hidden_features, act_layer=act_layer, drop=drop)
        self.gate = SpatialGatingUnit(hidden_features, seq_len)

    def gated(self, x: Tensor) -> Tensor:
        return self.gate(self.act(x))
