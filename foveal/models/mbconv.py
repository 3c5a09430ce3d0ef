"""Inverted residual blocks, the notation that networks of them are published in, and the trunk that they share.

A stage is written as block strings separated by spaces. A string is a kind of block and `_`-separated settings: a
letter or two, then a value. 'ir_r2_k3_s2_e6_c24_se0.25' is two inverted residuals with kernel 3, the first of stride 2,
expansion 6, 24 channels, and squeeze-excite of a quarter.

kinds: cn convolution, ds depthwise separable (dsa: with a last activation), ir inverted residual (arXiv:1801.04381),
       er its fused form (edge), uir universal inverted bottleneck and mqa mobile attention (arXiv:2404.10518)
settings: r repeats, k kernel, s stride, e expansion, c channels, se squeeze-excite ratio, n activation, a and p kernels
       before and after the middle one, cc experts, gs channels in a group, fc channels that the first expansion counts
       from in place of the input's; ds: d1 space to depth first; mqa: h heads, d channels of a head, v stride of keys
       and values; skip and noskip. Several kernels are joined by dots (mixed convolution).
"""

import math
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers import (
    ACTIVATIONS,
    Blocks,
    DropPath,
    LayerScale2d,
    activation,
    conv2d,
    drop_path_rates,
)
from foveal.layers.blur_pool import AA_LAYERS, anti_alias
from foveal.layers.cond_conv import CondConv2d
from foveal.layers.gate import GlobalContext
from foveal.layers.mixed_conv import MixedConv2d
from foveal.layers.multi_query import MultiQueryAttention2d
from foveal.layers.norm_act import NORM_ACTS, Activation, norm_act
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, dilate

PRUNED = files('foveal') / 'zoo' / 'pruned'
Kernel = int | tuple[int, ...]
Channels = tuple[int, int, int]
KINDS = ('cn', 'ds', 'dsa', 'ir', 'er', 'uir', 'mqa')
ACTS = {'re': 'relu', 'r6': 'relu6', 'hs': 'hard_swish', 'sw': 'silu', 'mi': 'mish', 'ge': 'gelu'}


@dataclass(frozen=True)
class BlockSpec:
    """One block string, read."""

    kind: str
    repeats: int = 1
    kernel: Any = 3  # a Kernel, as start and end are
    stride: int = 1
    expand: float = 1.0
    channels: int = 0
    se: float = 0.0
    act: str | None = None
    start: Any = None
    end: Any = None
    experts: int = 0
    group_size: int = 0
    count_from: int = 0
    dim: int = 0
    heads: int = 0
    kv_stride: int = 1
    skip: bool | None = None


def kernel_size(text: str) -> Kernel:
    """3 of '3', (3, 5) of '3.5'."""
    sizes = tuple(map(int, text.split('.')))
    return sizes[0] if len(sizes) == 1 else sizes


SETTINGS: dict[str, tuple[str, Any]] = {
    'r': ('repeats', int),
    'k': ('kernel', kernel_size),
    's': ('stride', int),
    'e': ('expand', float),
    'c': ('channels', int),
    'se': ('se', float),
    'n': ('act', ACTS.__getitem__),
    'a': ('start', kernel_size),
    'p': ('end', kernel_size),
    'cc': ('experts', int),
    'gs': ('group_size', int),
    'fc': ('count_from', int),
    'd': ('dim', int),
    'h': ('heads', int),
    'v': ('kv_stride', int),
}
SETTING = re.compile('({})(.+)'.format('|'.join(sorted(SETTINGS, key=len, reverse=True))))


@cache
def parse_block(text: str) -> BlockSpec:
    """Read a block string.

    Raises:
        ValueError: it does not follow the notation; the message says where.
    """
    kind, *settings = text.split('_')
    if kind not in KINDS:
        raise ValueError(f'block_args: {text!r} starts with an unknown kind of block{near(kind, KINDS)}')
    values: dict[str, Any] = {}
    for setting in settings:
        if setting in ('skip', 'noskip'):
            values['skip'] = setting == 'skip'
            continue
        match = SETTING.fullmatch(setting)
        try:
            assert match
            name, read = SETTINGS[match[1]]
            values[name] = read(match[2])
        except (AssertionError, ValueError, KeyError):
            raise ValueError(
                f'block_args: {setting!r} in {text!r} is no setting{near(setting, SETTINGS, 99)}'
            ) from None
    spec = BlockSpec(kind, **values)
    counts = [spec.repeats, spec.stride, spec.channels] + [spec.heads, spec.dim, spec.kv_stride] * (kind == 'mqa')
    if min(counts) < 1:
        needs = 'r, s, c, h, d and v' if kind == 'mqa' else 'r, s and c'
        raise ValueError(f'block_args: {text!r} needs {needs} of at least 1')
    if (kind in ('uir', 'mqa') or spec.experts) and not all(
        isinstance(kernel, int | None) for kernel in (spec.kernel, spec.start, spec.end)
    ):
        raise ValueError(f'block_args: {text!r} mixes kernels, which cn, ds, ir and er without experts can')
    return spec


def swap(stages: Sequence[str], *pairs: tuple[str, str]) -> tuple[str, ...]:
    """Stages with pieces of their strings replaced, as (old, new)."""
    for old, new in pairs:
        stages = [stage.replace(old, new) for stage in stages]
    return tuple(stages)


def round_channels(channels: float, divisor: int = 8, limit: float = 0.9) -> int:
    """The nearest multiple of `divisor`, and the next one where that would be less than `limit` of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * channels else rounded


def scale_depth(repeats: Sequence[int], multiplier: float, rounding: str = 'ceil') -> list[int]:
    """Repeats of the strings of one stage, scaled as a whole; each string keeps its share, counted from the last.

    Args:
        repeats: of each string.
        multiplier: factor of their sum.
        rounding: 'ceil' or 'round'.
    """
    total = sum(repeats)
    wanted = max(1, (math.ceil if rounding == 'ceil' else round)(total * multiplier))
    scaled = []
    for count in reversed(repeats):
        share = max(1, round(count / total * wanted))
        scaled.append(share)
        total, wanted = total - count, wanted - share
    return scaled[::-1]


TF: dict[str, Any] = dict(pad_type='same', bn_eps=1e-3)  # how TensorFlow's weights were trained


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all blocks of a network have in common."""

    act_layer: str = 'relu'
    norm_layer: str = 'batchnorm'  # a name of foveal.layers.norm_act.NORM_ACTS
    bn_eps: float | None = None  # None: the norm's own
    bn_momentum: float | None = None
    norm_group_size: int | None = None  # channels in a group of 'groupnorm' and 'evonorms*'
    pad_type: str = ''  # 'same' pads as TensorFlow does
    aa_layer: str | None = None  # what strides in place of the convolutions: a name of AA_LAYERS
    se_layer: str = 'se'  # 'se' or 'gc' (global context)
    se_from_exp: bool = False  # its ratio counts from the expanded channels; else from the block's input
    se_divisor: int = 1  # its channels are a multiple of this
    se_act_layer: str | None = None  # None: the block's
    se_gate_layer: str = 'sigmoid'
    layer_scale_init_value: float | None = None  # of uir and mqa blocks; None: no layer scale

    def __post_init__(self) -> None:
        choices: dict[str, Collection[str]] = dict(
            act_layer=ACTIVATIONS,
            norm_layer=NORM_ACTS,
            pad_type=('', 'same'),
            aa_layer=('', *AA_LAYERS),
            se_layer=('se', 'gc'),
            se_gate_layer=('sigmoid', 'hard_sigmoid'),
        )
        for name, legal in choices.items():
            value = getattr(self, name) or ''
            if isinstance(value, str) and value.removesuffix('2d') not in legal:
                raise ValueError(f'{name} {value!r} is unknown{near(value, legal)}')

    @property
    def norm_options(self) -> dict[str, Any]:
        """Arguments of the norms, as `norm_act` takes them."""
        momentum = self.bn_momentum if str(self.norm_layer).startswith('batchnorm') else None
        return dict(eps=self.bn_eps, momentum=momentum, group_size=self.norm_group_size)

    def norm(self, dim: int, act_layer: Activation = '') -> nn.Module:
        """A norm and an activation."""
        return norm_act(self.norm_layer, dim, act_layer, **self.norm_options)

    def conv(
        self,
        in_chs: int,
        out_chs: int,
        kernel: Kernel,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        group_size: int = 0,
    ) -> nn.Module:
        """A convolution without bias: plain, depthwise, in groups of `group_size` channels, or of mixed kernels."""
        options = dict(bias=False, padding=self.pad_type)
        if not isinstance(kernel, int):
            return MixedConv2d(in_chs, out_chs, kernel, stride, dilation, depthwise, **options)  # type: ignore[arg-type]
        if group_size and in_chs % group_size:
            raise ValueError(f'group_size {group_size} does not divide the {in_chs} channels of a convolution')
        groups = in_chs // group_size if group_size else in_chs if depthwise else 1
        return conv2d(in_chs, out_chs, kernel, stride, dilation, groups, **options)  # type: ignore[arg-type]

    def gate(self, channels: int, inside: int, act_layer: Activation) -> nn.Module:
        """A squeeze-excite of `channels` with `inside` channels between, or what stands in for it."""
        if self.se_layer == 'gc':
            return GlobalContext(channels, rd_channels=inside, act_layer=act_layer)
        return SqueezeExcite(channels, inside, self.se_act_layer or act_layer, self.se_gate_layer)


class SqueezeExcite(nn.Module):
    """Squeeze and excitation (arXiv:1709.01507) under the weight names of this family.

    Args:
        channels: of the map (batch, channels, height, width).
        rd_channels: channels inside.
        act_layer: activation inside.
        gate_layer: 'sigmoid' or 'hard_sigmoid'.
    """

    def __init__(
        self, channels: int, rd_channels: int, act_layer: Activation = 'relu', gate_layer: str = 'sigmoid'
    ) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, rd_channels, 1)
        self.act1 = activation(act_layer, inplace=True)
        self.conv_expand = nn.Conv2d(rd_channels, channels, 1)
        self.gate = activation(gate_layer)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))))


class Chain(nn.Module):
    """A block whose children run in the order in which they were made, beside a shortcut where shapes allow it.

    Args:
        in_chs: channels of the input (batch, channels, height, width).
        out_chs: channels of the output.
        stride: step; with more than 1 there is no shortcut.
        skip: whether there is to be a shortcut at all.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int, skip: bool) -> None:
        super().__init__()
        self.has_skip = skip and stride == 1 and in_chs == out_chs

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for child in self.children():
            y = child(y)
        if self.has_skip:
            y += x  # in place: a map less to allocate
        return y

    def add_gate(self, style: Style, channels: int, stride: int, se_channels: int, act_layer: Activation) -> None:
        """What may follow the middle convolution: anti-aliased stride and squeeze-excite."""
        if style.aa_layer and stride > 1:
            self.aa = anti_alias(style.aa_layer, stride)
        if se_channels:
            self.se = style.gate(channels, se_channels, act_layer)


class ConvBnAct(Chain):
    """A convolution, norm and activation; the arguments are those of `InvertedResidual`."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: Kernel = 3,
        stride: int = 1,
        dilation: int = 1,
        group_size: int = 0,
        skip: bool = False,
        act_layer: Activation = 'relu',
        drop_path_rate: float = 0.0,
        style: Style = Style(),
    ) -> None:
        super().__init__(in_chs, out_chs, stride, skip)
        step = 1 if style.aa_layer else stride
        self.conv = style.conv(in_chs, out_chs, kernel_size, step, dilation, group_size=group_size)
        self.bn1 = style.norm(out_chs, act_layer)
        self.add_gate(style, out_chs, stride, 0, act_layer)
        self.drop_path = DropPath(drop_path_rate)


class DepthwiseSeparableConv(Chain):
    """A depthwise and a pointwise convolution (arXiv:1704.04861); see `InvertedResidual` for the arguments.

    With `pw_act` the second one is activated too. With `s2d` a 2x2 convolution of stride 2 into four times the channels
    comes first, and the depthwise kernel is half as large (EfficientNet-X, arXiv:2102.05610).
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        dw_kernel_size: Kernel = 3,
        stride: int = 1,
        dilation: int = 1,
        group_size: int = 0,
        pw_act: bool = False,
        s2d: bool = False,
        skip: bool = True,
        act_layer: Activation = 'relu',
        se_channels: int = 0,
        drop_path_rate: float = 0.0,
        style: Style = Style(),
    ) -> None:
        super().__init__(in_chs, out_chs, 2 if s2d else stride, skip)
        if s2d:
            assert isinstance(dw_kernel_size, int)
            self.conv_s2d = conv2d(in_chs, 4 * in_chs, 2, 2, bias=False, padding='same')
            self.bn_s2d = style.norm(4 * in_chs, act_layer)
            in_chs *= 4
            dw_kernel_size = (dw_kernel_size + 1) // 2
            self.conv_dw: nn.Module = conv2d(in_chs, in_chs, dw_kernel_size, groups=in_chs, bias=False, padding='same')
        else:
            step = 1 if style.aa_layer else stride
            self.conv_dw = style.conv(in_chs, in_chs, dw_kernel_size, step, dilation, True, group_size)
        self.bn1 = style.norm(in_chs, act_layer)
        self.add_gate(style, in_chs, stride, se_channels, act_layer)
        self.conv_pw = style.conv(in_chs, out_chs, 1)
        self.bn2 = style.norm(out_chs, act_layer if pw_act else '')
        self.drop_path = DropPath(drop_path_rate)


class InvertedResidual(Chain):
    """Expand, convolve depthwise, project (MBConv; arXiv:1801.04381, figure 4, and arXiv:1905.11946).

    Args:
        in_chs: channels of the input (batch, channels, height, width).
        out_chs: channels of the output.
        mid_chs: channels between; the input's if not given.
        dw_kernel_size: side of the depthwise kernel, or several (mixed convolution).
        stride: step of the depthwise convolution.
        dilation: distance between its kernel elements.
        group_size: channels in one of its groups; 0 for one.
        exp_kernel_size: kernel of the expansion.
        pw_kernel_size: kernel of the projection.
        skip: add the input where the shapes are equal.
        act_layer: name or class of the activation.
        se_channels: channels inside squeeze-excite; 0 for none.
        drop_path_rate: stochastic depth of the block.
        style: what it has in common with the other blocks of a network.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        mid_chs: int = 0,
        dw_kernel_size: Kernel = 3,
        stride: int = 1,
        dilation: int = 1,
        group_size: int = 0,
        exp_kernel_size: Kernel = 1,
        pw_kernel_size: Kernel = 1,
        skip: bool = True,
        act_layer: Activation = 'relu',
        se_channels: int = 0,
        drop_path_rate: float = 0.0,
        style: Style = Style(),
    ) -> None:
        super().__init__(in_chs, out_chs, stride, skip)
        mid, step = mid_chs or in_chs, 1 if style.aa_layer else stride
        self.conv_pw = style.conv(in_chs, mid, exp_kernel_size)
        self.bn1 = style.norm(mid, act_layer)
        self.conv_dw = style.conv(mid, mid, dw_kernel_size, step, dilation, True, group_size)
        self.bn2 = style.norm(mid, act_layer)
        self.add_gate(style, mid, stride, se_channels, act_layer)
        self.conv_pwl = style.conv(mid, out_chs, pw_kernel_size)
        self.bn3 = style.norm(out_chs)
        self.drop_path = DropPath(drop_path_rate)


class CondConvResidual(nn.Module):
    """`InvertedResidual` with kernels mixed for every sample from `num_experts` of them (arXiv:1904.04971)."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        mid_chs: int = 0,
        dw_kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        num_experts: int = 4,
        skip: bool = True,
        act_layer: Activation = 'relu',
        se_channels: int = 0,
        drop_path_rate: float = 0.0,
        style: Style = Style(),
    ) -> None:
        super().__init__()
        self.has_skip = skip and stride == 1 and in_chs == out_chs
        mid = mid_chs or in_chs
        options = dict(num_experts=num_experts, padding=style.pad_type)
        self.conv_pw = CondConv2d(in_chs, mid, 1, **options)  # type: ignore[arg-type]
        self.bn1 = style.norm(mid, act_layer)
        self.conv_dw = CondConv2d(mid, mid, dw_kernel_size, stride, dilation, mid, **options)  # type: ignore[arg-type]
        self.bn2 = style.norm(mid, act_layer)
        self.se = style.gate(mid, se_channels, act_layer) if se_channels else nn.Identity()
        self.conv_pwl = CondConv2d(mid, out_chs, 1, **options)  # type: ignore[arg-type]
        self.bn3 = style.norm(out_chs)
        self.drop_path = DropPath(drop_path_rate)
        self.routing_fn = nn.Linear(in_chs, num_experts)

    def forward(self, x: Tensor) -> Tensor:
        routing = torch.sigmoid(self.routing_fn(x.mean((2, 3))))
        y = self.bn1(self.conv_pw(x, routing))
        y = self.se(self.bn2(self.conv_dw(y, routing)))
        y = self.drop_path(self.bn3(self.conv_pwl(y, routing)))
        return x + y if self.has_skip else y


class EdgeResidual(Chain):
    """Expand with a full convolution, project (Fused-MBConv, arXiv:2104.00298); see `InvertedResidual`."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        mid_chs: int = 0,
        exp_kernel_size: Kernel = 3,
        stride: int = 1,
        dilation: int = 1,
        group_size: int = 0,
        pw_kernel_size: Kernel = 1,
        skip: bool = True,
        act_layer: Activation = 'relu',
        se_channels: int = 0,
        drop_path_rate: float = 0.0,
        style: Style = Style(),
    ) -> None:
        super().__init__(in_chs, out_chs, stride, skip)
        mid, step = mid_chs or in_chs, 1 if style.aa_layer else stride
        self.conv_exp = style.conv(in_chs, mid, exp_kernel_size, step, dilation, group_size=group_size)
        self.bn1 = style.norm(mid, act_layer)
        self.add_gate(style, mid, stride, se_channels, act_layer)
        self.conv_pwl = style.conv(mid, out_chs, pw_kernel_size)
        self.bn2 = style.norm(out_chs)
        self.drop_path = DropPath(drop_path_rate)


class UniversalInvertedResidual(Chain):
    """An inverted residual whose depthwise convolutions may stand before, in and after the expansion
    (MobileNetV4, arXiv:2404.10518, section 4). A kernel of 0 leaves one out; the stride is that of the middle one, or
    of the first where there is no middle one. See `InvertedResidual` for the other arguments."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        mid_chs: int = 0,
        dw_kernel_size_start: int = 0,
        dw_kernel_size_mid: int = 3,
        dw_kernel_size_end: int = 0,
        stride: int = 1,
        dilation: int = 1,
        group_size: int = 0,
        skip: bool = True,
        act_layer: Activation = 'relu',
        se_channels: int = 0,
        drop_path_rate: float = 0.0,
        style: Style = Style(),
    ) -> None:
        super().__init__(in_chs, out_chs, stride, skip)
        mid = mid_chs or in_chs

        def unit(conv: nn.Module, channels: int, act: Activation) -> OrderedDict[str, nn.Module]:
            return OrderedDict(conv=conv, bn=style.norm(channels, act))

        def depthwise(channels: int, kernel: int, stride: int, act: Activation) -> nn.Module:
            step = 1 if style.aa_layer else stride
            layers = unit(style.conv(channels, channels, kernel, step, dilation, True, group_size), channels, act)
            if step != stride:
                layers['aa'] = anti_alias(style.aa_layer or '', stride)
            return nn.Sequential(layers)

        def pointwise(in_chs: int, out_chs: int, act: Activation) -> nn.Module:
            return nn.Sequential(unit(style.conv(in_chs, out_chs, 1), out_chs, act))

        if dw_kernel_size_start:
            self.dw_start = depthwise(in_chs, dw_kernel_size_start, 1 if dw_kernel_size_mid else stride, '')
        self.pw_exp = pointwise(in_chs, mid, act_layer)
        if dw_kernel_size_mid:
            self.dw_mid = depthwise(mid, dw_kernel_size_mid, stride, act_layer)
        if se_channels:
            self.se = style.gate(mid, se_channels, act_layer)
        self.pw_proj = pointwise(mid, out_chs, '')
        if dw_kernel_size_end:
            self.dw_end = depthwise(out_chs, dw_kernel_size_end, 1, '')
        if style.layer_scale_init_value is not None:
            self.layer_scale = LayerScale2d(out_chs, style.layer_scale_init_value)
        self.drop_path = DropPath(drop_path_rate)


class MobileAttention(Chain):
    """Multi-query attention over the positions of a map, as a residual block (arXiv:2404.10518, section 5).

    Args:
        in_chs: channels of the input and the output (batch, channels, height, width).
        num_heads: heads of the queries.
        key_dim: channels of a head.
        kv_stride: step between the positions that keys and values are taken from.
        dw_kernel_size: kernel of the depthwise convolution that takes them.
        drop_path_rate: stochastic depth of the block.
        style: what it has in common with the other blocks of a network.
    """

    def __init__(
        self,
        in_chs: int,
        num_heads: int = 8,
        key_dim: int = 64,
        kv_stride: int = 1,
        dw_kernel_size: int = 3,
        drop_path_rate: float = 0.0,
        style: Style = Style(),
    ) -> None:
        super().__init__(in_chs, in_chs, 1, True)
        self.norm = style.norm(in_chs)
        self.attn = MultiQueryAttention2d(in_chs, num_heads, key_dim, kv_stride, dw_kernel_size, style.pad_type)
        if style.layer_scale_init_value is not None:
            self.layer_scale = LayerScale2d(in_chs, style.layer_scale_init_value)
        self.drop_path = DropPath(drop_path_rate)


@dataclass(frozen=True, kw_only=True)
class MobileConfig(Config, Style):
    """Options of the networks made of these blocks."""

    block_args: tuple[str, ...]  # one string a stage
    channel_multiplier: float = 1.0
    depth_multiplier: float | tuple[float, ...] = 1.0  # one number, or one a stage
    depth_trunc: str = 'ceil'  # how scaled depths are rounded: 'ceil' or 'round'
    fix_first_last: bool = False  # the first and the last stage keep their depth
    experts_multiplier: int = 1
    channel_divisor: int = 8  # scaled channels are a multiple of this,
    round_limit: float = 0.9  # and no less than this share of what they would be unrounded
    group_size: int = 0  # channels in a group of the depthwise convolutions; 0 for one
    stem_size: int = 32
    stem_kernel_size: int = 3
    fix_stem: bool = False  # the stem keeps its channels
    pruned: str = ''  # channels of every block, by the name of a list in foveal/zoo/pruned

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        Style.__post_init__(self)
        for stage in self.block_args:
            specs = [parse_block(text) for text in stage.split()]
            if not specs or any(spec.stride > 1 for spec in specs[1:]):
                raise ValueError(
                    f'block_args: a stage has blocks, and its first string alone may stride, got {stage!r}'
                )
        if self.depth_trunc not in ('ceil', 'round'):
            raise ValueError(f"depth_trunc must be 'ceil' or 'round', got {self.depth_trunc!r}")
        depths = self.depth_multiplier
        if isinstance(depths, (tuple, list)) and len(depths) != len(self.block_args):
            raise ValueError(f'depth_multiplier has {len(depths)} numbers for {len(self.block_args)} stages')
        if self.pruned:
            lists = {path.name.removesuffix('.txt') for path in PRUNED.iterdir()}
            if self.pruned not in lists:
                raise ValueError(f'pruned {self.pruned!r} is unknown{near(self.pruned, lists)}')
            listed, blocks = len(self.pruned_channels()), sum(map(len, self.stages()))
            if listed != blocks:
                raise ValueError(f'pruned {self.pruned!r} lists {listed} blocks; the network has {blocks}')

    def width(self, channels: int) -> int:
        """Channels after scaling."""
        return round_channels(channels * self.channel_multiplier, self.channel_divisor, self.round_limit)

    def stages(self) -> list[list[BlockSpec]]:
        """The blocks of every stage, one entry a block, with scaled channels."""
        stages, last = [], len(self.block_args) - 1
        for i, stage in enumerate(self.block_args):
            specs = [parse_block(text) for text in stage.split()]
            depths = self.depth_multiplier
            depth = depths if isinstance(depths, (int, float)) else depths[i]
            depth = 1.0 if self.fix_first_last and i in (0, last) else depth
            counts = scale_depth([spec.repeats for spec in specs], depth, self.depth_trunc)
            stages.append(
                [block for spec, count in zip(specs, counts, strict=True) for block in self.units(spec, count)]
            )
        return stages

    def units(self, spec: BlockSpec, count: int) -> list[BlockSpec]:
        """`count` blocks of one string. The first alone strides, is told what to expand from, and folds space."""
        folds = spec.kind == 'ds' and spec.dim
        first = replace(
            spec,
            channels=self.width(spec.channels) * (4 if folds else 1),
            count_from=self.width(spec.count_from) if spec.count_from else 0,
            experts=spec.experts * self.experts_multiplier,
            group_size=spec.group_size or self.group_size,
        )
        rest = replace(first, stride=1, count_from=0, dim=0 if folds else spec.dim)
        return [first] + [rest] * (count - 1)

    def pruned_channels(self) -> list[Channels]:
        """(middle, inside squeeze-excite, output) channels of every block; empty for a network that is not pruned."""
        if not self.pruned:
            return []
        lines = (PRUNED / f'{self.pruned}.txt').read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines if line[0] != '#']  # type: ignore[misc]

    def block(
        self, spec: BlockSpec, in_chs: int, plan: tuple[int, int], rate: float, channels: Channels | None = None
    ) -> nn.Module:
        """One block.

        Args:
            spec: with scaled channels.
            in_chs: channels of its input.
            plan: its stride and its dilation.
            rate: its drop-path rate.
            channels: (middle, inside squeeze-excite, output), in place of those that follow from `spec`.
        """
        (stride, dilation), kind, act = plan, spec.kind, spec.act or self.act_layer
        mid = round_channels((spec.count_from or in_chs) * spec.expand)
        counted = mid if self.se_from_exp and kind not in ('ds', 'dsa') else in_chs
        se, out = round_channels(counted * spec.se, self.se_divisor, self.round_limit) if spec.se else 0, spec.channels
        if channels:
            mid, se, out = channels
        options: dict[str, Any] = dict(drop_path_rate=rate, style=self)
        if kind == 'mqa':
            return MobileAttention(in_chs, spec.heads, spec.dim, spec.kv_stride, spec.kernel, **options)
        skip = kind not in ('cn', 'dsa') if spec.skip is None else spec.skip
        options |= dict(stride=stride, dilation=dilation, skip=skip, act_layer=act)
        if kind == 'cn':
            return ConvBnAct(in_chs, out, spec.kernel, group_size=spec.group_size, **options)
        options |= dict(se_channels=se)
        if kind in ('ds', 'dsa'):
            options |= dict(pw_act=kind == 'dsa', s2d=bool(spec.dim), group_size=spec.group_size)
            return DepthwiseSeparableConv(in_chs, out, spec.kernel, **options)
        if spec.experts:
            return CondConvResidual(in_chs, out, mid, spec.kernel, num_experts=spec.experts, **options)
        options |= dict(group_size=spec.group_size)
        start, end = spec.start, spec.end
        if kind == 'er':
            return EdgeResidual(in_chs, out, mid, spec.kernel, pw_kernel_size=end or 1, **options)
        if kind == 'uir':
            return UniversalInvertedResidual(in_chs, out, mid, start or 0, spec.kernel, end or 0, **options)
        return InvertedResidual(
            in_chs, out, mid, spec.kernel, exp_kernel_size=start or 1, pw_kernel_size=end or 1, **options
        )


class MobileBackbone(Backbone):
    """A network of a strided stem and stages of inverted residuals. Its levels end where the next stage strides."""

    def build_trunk(self, cfg: Any) -> int:
        """Make the stem, the stages and `feature_info`; the channels that come out."""
        stages = cfg.stages()
        chs = cfg.stem_size if cfg.fix_stem else cfg.width(cfg.stem_size)
        self.conv_stem = cfg.conv(cfg.in_chans, chs, cfg.stem_kernel_size, 2)
        self.bn1 = cfg.norm(chs, cfg.act_layer)
        strides = [2 if any(spec.kind == 'ds' and spec.dim for spec in stage) else stage[0].stride for stage in stages]
        plans = dilate(strides, 2, getattr(cfg, 'output_stride', 32))
        rates = drop_path_rates(cfg.drop_path_rate, [len(stage) for stage in stages])
        pruned = iter(cfg.pruned_channels())
        path, reduction, levels = 'conv_stem bn1', 2, []
        self.blocks = nn.Sequential()
        for i, (stage, stride, plan) in enumerate(zip(stages, strides, plans, strict=True)):
            if stride > 1:
                levels.append(Level(path, chs, reduction))
                path = ''
            path, reduction = f'{path} blocks.{i}'.strip(), plan.reduction
            units = Blocks()
            for j, spec in enumerate(stage):
                step = min(spec.stride, plan.stride), plan.dilation if j else plan.dilation_in
                channels = next(pruned, None)
                units.append(cfg.block(spec, chs, step, rates[i][j], channels))
                chs = channels[2] if channels else spec.channels or chs
            self.blocks.append(units)
        self.feature_info = FeatureInfo([*levels, Level(path, chs, reduction)])
        return chs

    def init_weights(self) -> None:
        """Draw new weights: each expert as the convolution that it is."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, CondConv2d):
                fan_out = math.prod(module.shape) // module.shape[1] // module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
