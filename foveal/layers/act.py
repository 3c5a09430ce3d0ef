"""Activations by name."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from foveal.errors import near


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation that CLIP was trained with (arXiv:1606.08415, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class HardMish(nn.Module):
    """x / 2 * clip(x + 2, 0, 2), the piecewise form of Mish."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (x + 2).clamp(0, 2)


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    'relu': nn.ReLU,
    'relu6': nn.ReLU6,
    'leaky_relu': nn.LeakyReLU,
    'elu': nn.ELU,
    'celu': nn.CELU,
    'selu': nn.SELU,
    'prelu': nn.PReLU,
    'sigmoid': nn.Sigmoid,
    'tanh': nn.Tanh,
    'silu': nn.SiLU,
    'swish': nn.SiLU,
    'mish': nn.Mish,
    'hard_sigmoid': nn.Hardsigmoid,
    'hard_swish': nn.Hardswish,
    'hard_mish': HardMish,
    'gelu': nn.GELU,
    'gelu_tanh': partial(nn.GELU, approximate='tanh'),
    'quick_gelu': QuickGELU,
    'identity': nn.Identity,
    '': nn.Identity,
}
INPLACE = {'relu', 'relu6', 'leaky_relu', 'elu', 'celu', 'selu', 'silu', 'swish', 'mish', 'hard_sigmoid', 'hard_swish'}


def activation(name: str | Callable[..., nn.Module], inplace: bool = False) -> nn.Module:
    """An activation module.

    Args:
        name: a name of `ACTIVATIONS`, or a class to build.
        inplace: overwrite the input, where the activation can.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(name, str):
        return name()
    if name not in ACTIVATIONS:
        raise ValueError(f'act_layer {name!r} is unknown{near(name, ACTIVATIONS)}')
    return ACTIVATIONS[name](inplace=True) if inplace and name in INPLACE else ACTIVATIONS[name]()
