"""Normalisation and activation as one layer, by name.

The weights sit where those of the norm alone would, so a network names one child for both.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers.act import activation
from foveal.layers.batch_norm import BatchNorm2d, hooked
from foveal.layers.norm import GroupNorm1, LayerNorm2d, RmsNorm2d, SimpleNorm2d

Activation = str | Callable[..., nn.Module]


class Activated(nn.Module):
    """Mixin: the activation `act_layer` after the layer that stands behind it among the bases."""

    def __init__(self, dim: int, act_layer: Activation = '', **options: Any) -> None:
        super().__init__(dim, **options)
        self.act = activation(act_layer, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class BatchNormAct2d(Activated, BatchNorm2d):
    """Batch norm (arXiv:1502.03167) and an activation."""

    def forward(self, x: Tensor) -> Tensor:
        if type(self.act) is nn.ReLU and self.fuses(x) and not hooked(self.act):
            return self.fused(x, True)
        return super().forward(x)


class GroupNormAct(nn.GroupNorm):
    """Group norm (arXiv:1803.08494) and an activation.

    Args:
        dim: channels.
        act_layer: name or class of the activation; '' for none.
        num_groups: how many groups the channels form.
        group_size: channels in a group, in place of their number.
        eps: added to the variance.
    """

    def __init__(
        self,
        dim: int,
        act_layer: Activation = '',
        num_groups: int = 32,
        group_size: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(groups(dim, num_groups, group_size), dim, eps=eps)
        self.act = activation(act_layer, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class GroupNorm1Act(Activated, GroupNorm1):
    """Group norm with one group, and an activation."""


class LayerNormAct2d(Activated, LayerNorm2d):
    """Layer norm over the channels of a map, and an activation."""


class RmsNormAct2d(Activated, RmsNorm2d):
    """RMS norm over the channels of a map, and an activation."""


class SimpleNormAct2d(Activated, SimpleNorm2d):
    """`SimpleNorm2d` and an activation."""


def groups(dim: int, num_groups: int = 32, group_size: int | None = None) -> int:
    """How many groups `dim` channels form.

    Raises:
        ValueError: they do not divide into such groups.
    """
    count = dim // group_size if group_size else num_groups
    if dim % count or (group_size and count * group_size != dim):
        what = f'group_size={group_size}' if group_size else f'num_groups={num_groups}'
        raise ValueError(f'{dim} channels do not divide into groups of {what}')
    return count


class Affine(nn.Module):
    """What the norms below share: a learned scale and shift of every channel of a map, and `active`, which says
    whether the layer normalises and activates (an `act_layer` was given) or is the scale and shift alone."""

    def __init__(self, dim: int, act_layer: Activation, eps: float) -> None:
        super().__init__()
        self.eps, self.active = eps, act_layer not in ('', 'identity')
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def affine(self, x: Tensor) -> Tensor:
        """Scale and shift a map (batch, channels, height, width)."""
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class EvoNormB(Affine):
    """EvoNorm B0, B1 and B2: batch statistics, bounded below by those of the instance (arXiv:2004.02967).

    Args:
        dim: channels.
        act_layer: '' leaves only scale and shift; the activation is part of the layer, so no name changes it.
        kind: 0, 1 or 2.
        eps: added to variances.
        momentum: of the running variance.
    """

    running_var: Tensor

    def __init__(
        self, dim: int, act_layer: Activation = '', kind: int = 0, eps: float | None = None, momentum: float = 0.1
    ) -> None:
        super().__init__(dim, act_layer, (1e-3 if kind == 0 else 1e-5) if eps is None else eps)
        self.kind, self.momentum = kind, momentum
        if kind == 0:
            self.v = nn.Parameter(torch.ones(dim)) if self.active else None
        self.register_buffer('running_var', torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x / self.bound(x) if self.active else x)

    def bound(self, x: Tensor) -> Tensor:
        """The greater of the batch's deviation and the instance's own term."""
        if self.training:
            variance = x.float().var((0, 2, 3), correction=0)
            correction = x.numel() / x.shape[1]
            with torch.no_grad():
                unbiased = variance.detach() * (correction / max(correction - 1, 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        else:
            variance = self.running_var
        batch = (variance + self.eps).sqrt().to(x.dtype).view(1, -1, 1, 1)
        if self.kind == 0:
            assert self.v is not None
            own = x * self.v.view(1, -1, 1, 1) + (x.var((2, 3), correction=0, keepdim=True) + self.eps).sqrt()
        else:
            rms = (x.square().mean((2, 3), keepdim=True) + self.eps).sqrt()
            own = (x + 1) * rms if self.kind == 1 else rms - x
        return torch.maximum(batch, own)


class EvoNormS(Affine):
    """EvoNorm S0, S1 and S2: statistics of groups of channels of one sample (arXiv:2004.02967).

    Args:
        dim: channels.
        act_layer: S0 learns its own activation, and '' leaves its scale and shift alone; S1 and S2 take any.
        kind: 0, 1 or 2; 2 divides by the root mean square, the others by the deviation.
        num_groups: how many groups the channels form.
        group_size: channels in a group, in place of their number.
        eps: added to the variance.
        always: divide even where there is no activation.
    """

    def __init__(
        self,
        dim: int,
        act_layer: Activation = '',
        kind: int = 0,
        num_groups: int = 32,
        group_size: int | None = None,
        eps: float | None = None,
        always: bool = False,
    ) -> None:
        super().__init__(dim, act_layer, (1e-3 if always else 1e-5) if eps is None else eps)
        self.kind, self.always, self.groups = kind, always, groups(dim, num_groups, group_size)
        if kind == 0:
            self.v = nn.Parameter(torch.ones(dim)) if self.active else None
        else:
            self.act = activation(act_layer)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.active or self.always):
            return self.affine(x)
        grouped = x.unflatten(1, (self.groups, -1)).float()
        power = grouped.square() if self.kind == 2 else (grouped - grouped.mean((2, 3, 4), keepdim=True)).square()
        scale = (power.mean((2, 3, 4), keepdim=True) + self.eps).rsqrt().to(x.dtype)
        if self.kind == 0:
            y = x if self.v is None else x * torch.sigmoid(x * self.v.view(1, -1, 1, 1))
        else:
            y = self.act(x)
        return self.affine((y.unflatten(1, (self.groups, -1)) * scale).flatten(1, 2))


class FilterResponseNorm(Affine):
    """Divide every channel of a sample by its root mean square (arXiv:1911.09737).

    Args:
        dim: channels.
        act_layer: activation after it.
        eps: added to the mean square.
        tlu: activate by a learned threshold (the paper's TLU) in place of `act_layer`; with '' neither runs.
    """

    def __init__(self, dim: int, act_layer: Activation = '', eps: float = 1e-5, tlu: bool = False) -> None:
        super().__init__(dim, act_layer, eps)
        if tlu:
            self.tau = nn.Parameter(torch.zeros(dim)) if self.active else None
        else:
            self.act = activation(act_layer, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        scale = (x.float().square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        y = self.affine(x * scale.to(x.dtype))
        if hasattr(self, 'act'):
            return self.act(y)
        return y if self.tau is None else torch.maximum(y, self.tau.view(1, -1, 1, 1))


NORM_ACTS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    'batchnorm': (BatchNormAct2d, {}),
    'groupnorm': (GroupNormAct, {}),
    'groupnorm1': (GroupNorm1Act, {}),
    'layernorm': (LayerNormAct2d, {}),
    'rmsnorm': (RmsNormAct2d, {}),
    'simplenorm': (SimpleNormAct2d, {}),
    'evonormb0': (EvoNormB, dict(kind=0)),
    'evonormb1': (EvoNormB, dict(kind=1)),
    'evonormb2': (EvoNormB, dict(kind=2)),
    'evonorms0': (EvoNormS, dict(kind=0)),
    'evonorms0a': (EvoNormS, dict(kind=0, always=True)),
    'evonorms1': (EvoNormS, dict(kind=1)),
    'evonorms1a': (EvoNormS, dict(kind=1, always=True)),
    'evonorms2': (EvoNormS, dict(kind=2)),
    'evonorms2a': (EvoNormS, dict(kind=2, always=True)),
    'frn': (FilterResponseNorm, {}),
    'frntlu': (FilterResponseNorm, dict(tlu=True)),
}


def norm_act(name: str | Callable[..., nn.Module], dim: int, act_layer: Activation = '', **options: Any) -> nn.Module:
    """A normalisation of maps (batch, channels, height, width) and an activation after it, as one layer.

    Args:
        name: a name of `NORM_ACTS` ('batchnorm', 'groupnorm', 'layernorm', 'evonorms0', ...; a trailing '2d' is
            taken too), or a class that takes `(dim, act_layer=..., **options)`.
        dim: channels.
        act_layer: name or class of the activation; '' for none.
        options: arguments of the layer, such as `eps`, `momentum` or `group_size`; those given as None keep its
            default.

    Raises:
        ValueError: an unknown name, or channels that do not divide into the groups asked for.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if not isinstance(name, str):
        return name(dim, act_layer=act_layer, **options)
    key = name.removesuffix('2d')
    if key not in NORM_ACTS:
        raise ValueError(f'norm_layer {name!r} is unknown{near(name, NORM_ACTS)}')
    layer, kind = NORM_ACTS[key]
    return layer(dim, act_layer=act_layer, **kind, **options)
