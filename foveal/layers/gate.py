"""Channel gates: scale every channel of a map by a factor computed from the map itself."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers.act import activation
from foveal.layers.norm import LayerNorm2d

Activation = str | Callable[..., nn.Module]


def reduced(channels: int, ratio: float, divisor: int) -> int:
    """`channels * ratio` to the nearest multiple of `divisor`, and at least one of it."""
    return max(divisor, int(channels * ratio + divisor / 2) // divisor * divisor)


class SqueezeExcite(nn.Module):
    """Squeeze and excitation (arXiv:1709.01507): pooled channels through a small MLP give the factors.

    Args:
        channels: of the map (batch, channels, height, width).
        rd_ratio: share of the channels that the MLP keeps inside.
        rd_channels: how many it keeps, in place of the share.
        rd_divisor: the share is rounded to a multiple of this.
        bias: learn biases.
        act_layer: activation inside.
        gate_layer: activation that makes the factors: 'sigmoid' or 'hard_sigmoid'.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 16,
        rd_channels: int | None = None,
        rd_divisor: int = 8,
        bias: bool = True,
        act_layer: Activation = 'relu',
        gate_layer: Activation = 'sigmoid',
    ) -> None:
        super().__init__()
        inside = rd_channels or reduced(channels, rd_ratio, rd_divisor)
        self.fc1 = nn.Conv2d(channels, inside, 1, bias=bias)
        self.act = activation(act_layer, inplace=True)
        self.fc2 = nn.Conv2d(inside, channels, 1, bias=bias)
        self.gate = activation(gate_layer)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))


class EffectiveSE(nn.Module):
    """Squeeze and excitation through one layer, without fewer channels inside (arXiv:1911.06667, section 3.4).

    Args:
        channels: of the map (batch, channels, height, width).
        gate_layer: activation that makes the factors.
    """

    def __init__(self, channels: int, gate_layer: Activation = 'hard_sigmoid') -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.gate = activation(gate_layer)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc(x.mean((2, 3), keepdim=True)))


class EfficientChannelAttention(nn.Module):
    """The factor of a channel from a convolution over the pooled channels beside it (arXiv:1910.03151).

    Args:
        channels: of the map (batch, channels, height, width); they choose the kernel's size.
        kernel_size: of the convolution, odd, in place of the rule.
        gamma: with `beta`, the rule (equation 12): the odd number at or above |log2(channels) + beta| / gamma.
        beta: see `gamma`.
        circular: the first channel and the last one are neighbours.
        gate_layer: activation that makes the factors.

    Raises:
        ValueError: an even kernel size.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        gamma: float = 2.0,
        beta: float = 1.0,
        circular: bool = False,
        gate_layer: Activation = 'sigmoid',
    ) -> None:
        super().__init__()
        if kernel_size is None:
            kernel_size = max(3, int(abs(math.log2(channels) + beta) / gamma) | 1)
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}')
        self.padding, self.mode = kernel_size // 2, 'circular' if circular else 'constant'
        self.conv = nn.Conv1d(1, 1, kernel_size, bias=False)
        self.gate = activation(gate_layer)

    def forward(self, x: Tensor) -> Tensor:
        channels = F.pad(x.mean((2, 3)).unsqueeze(1), (self.padding, self.padding), mode=self.mode)
        return x * self.gate(self.conv(channels)).transpose(1, 2).unsqueeze(-1)


class GlobalContext(nn.Module):
    """Squeeze and excitation of a pooling that attends to positions (arXiv:1904.11492, figure 4d, fused by a gate).

    Args:
        channels: of the map (batch, channels, height, width).
        rd_ratio: share of the channels that the MLP keeps inside.
        rd_channels: how many it keeps, in place of the share.
        rd_divisor: the share is rounded to a multiple of this.
        act_layer: activation inside.
        gate_layer: activation that makes the factors.
    """

    def __init__(
        self,
        channels: int,
        rd_ratio: float = 1 / 8,
        rd_channels: int | None = None,
        rd_divisor: int = 1,
        act_layer: Activation = 'relu',
        gate_layer: Activation = 'sigmoid',
    ) -> None:
        super().__init__()
        inside = rd_channels or reduced(channels, rd_ratio, rd_divisor)
        self.conv_attn = nn.Conv2d(channels, 1, 1)
        layers = OrderedDict[str, nn.Module](
            fc1=nn.Conv2d(channels, inside, 1),
            norm=LayerNorm2d(inside, eps=1e-6),
            act=activation(act_layer),
            fc2=nn.Conv2d(inside, channels, 1),
        )
        self.mlp_scale = nn.Sequential(layers)
        self.gate = activation(gate_layer)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv_attn(x).flatten(2).softmax(-1)
        context = (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)
        return x * self.gate(self.mlp_scale(context))


GATES: dict[str, Callable[..., nn.Module]] = {
    'se': SqueezeExcite,
    'ese': EffectiveSE,
    'eca': EfficientChannelAttention,
    'ceca': partial(EfficientChannelAttention, circular=True),
    'gc': GlobalContext,
}


def attention_gate(name: str | Callable[..., nn.Module], channels: int, **options: Any) -> nn.Module:
    """A gate over the channels of a map (batch, channels, height, width).

    Args:
        name: a name of `GATES`, or a class that takes the channels.
        channels: of the map.
        options: arguments of the gate, such as `rd_ratio`.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(name, str):
        return name(channels, **options)
    if name not in GATES:
        raise ValueError(f'attn_layer {name!r} is unknown{near(name, GATES)}')
    return GATES[name](channels, **options)
