"""Networks without normalisation: NF-ResNet, NF-RegNet (arXiv:2101.08692) and NFNet (arXiv:2102.06171)."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers import Blocks, DropPath, PoolHead, activation, attention_gate, conv2d, drop_path_rates
from foveal.layers.blur_pool import AvgPool2dSame, average
from foveal.layers.gate import GATES, reduced
from foveal.layers.init import truncated_normal
from foveal.layers.std_conv import GAMMAS, ScaledStdConv2d, ScaledStdConv2dSame
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, Parts, Plan, dilate
from foveal.registry import register

STEMS = ('deep_quad', '7x7_pool', '3x3')


@dataclass(frozen=True, kw_only=True)
class NormFreeConfig(Config):
    """Options of networks without normalisation."""

    depths: tuple[int, ...] = (1, 2, 6, 3)
    channels: tuple[int, ...] = (256, 512, 1536, 1536)
    alpha: float = 0.2  # of each branch: the variance grows by its square from block to block
    stem_type: str = 'deep_quad'  # one of STEMS: four 3x3 convolutions; one and max pooling; one, which reduces by 2
    stem_chs: int = 128
    group_size: int | None = None  # channels of a group of the 3x3 convolutions
    bottle_ratio: float = 0.5  # width inside a block, over its output
    reg: bool = False  # NF-RegNet: the width inside is a share of the block's input, and the gate stands inside
    extra_conv: bool = False  # a second 3x3 convolution
    attn_layer: str | None = None  # a name of GATES
    attn_kwargs: Mapping[str, Any] = field(default_factory=dict)  # its arguments
    attn_gain: float = 2.0  # after the gate, whose factors are a half on average
    num_features: int = 0  # width of a last 1x1 convolution; 0: none
    act_layer: str = 'gelu'  # a name of GAMMAS
    gamma_in_act: bool = False  # gamma follows activations; else it is in every convolution, activated input or not
    same_padding: bool = False  # as TensorFlow pads
    skipinit: bool = False  # a learned factor of each branch; else the last gains start at zero
    output_stride: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, legal in (
            ('stem_type', self.stem_type, STEMS),
            ('act_layer', self.act_layer, GAMMAS),
            ('attn_layer', self.attn_layer, [None, *GATES]),
        ):
            if value not in legal:
                raise ValueError(f'{name} {value!r} is unknown{near(str(value), [k for k in legal if k])}')
        for name, least in (('alpha', 0.0), ('bottle_ratio', 0.01), ('stem_chs', 8), ('group_size', 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f'{name} must be at least {least}, got {value!r}')
        if len(self.depths) != len(self.channels) or min(self.depths, default=0) < 1:
            raise ValueError(f'depths {self.depths} and channels {self.channels} need one entry for each stage')

    def act(self, inplace: bool = False) -> nn.Module:
        """The family's activation, without its gamma."""
        return activation(self.act_layer, inplace)

    def conv(
        self,
        width: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        std: float = 1.0,
        activated: bool = True,
    ) -> nn.Conv2d:
        """A convolution of maps that had the deviation `std` before their activation.

        What scales the maps to a variance of 1 scales the weights instead, which are smaller.
        """
        gamma = (GAMMAS[self.act_layer] if activated or not self.gamma_in_act else 1.0) / std
        padding, layers = 'same' if self.same_padding else None, (ScaledStdConv2d, ScaledStdConv2dSame)
        return conv2d(width, out, kernel, stride, dilation, groups, padding=padding, layers=layers, gamma=gamma)

    def gate(self, dim: int) -> nn.Module:
        """The gate over `dim` channels."""
        return attention_gate(self.attn_layer, dim, **self.attn_kwargs) if self.attn_layer else nn.Identity()

    def inside(self, width: int, out: int, first: bool) -> int:
        """Channels between the convolutions of a block, from those of its input and output."""
        ratio = 1.0 if self.reg and first else self.bottle_ratio
        inside = reduced(width if self.reg else out, ratio, 8)
        size = self.group_size or inside
        return max(size, inside // size * size)


class ScaledAct(nn.Module):
    """The activation and its gamma, which gives maps of variance 1."""

    def __init__(self, cfg: NormFreeConfig) -> None:
        super().__init__()
        self.act, self.gamma = cfg.act(), GAMMAS[cfg.act_layer]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) * self.gamma


class NormFreeBlock(nn.Module):
    """x + alpha * f(x / std), so that the branch sees a variance of 1 at any depth (arXiv:2101.08692).

    Args:
        cfg: the family's options.
        width: channels of the input.
        inside: channels between the convolutions.
        out: channels of the output.
        plan: stride and dilations of the stage.
        first: whether the block is the first of its stage, which strides.
        std: the expected standard deviation of the input.
        drop_path: rate.
    """

    def __init__(
        self,
        cfg: NormFreeConfig,
        width: int,
        inside: int,
        out: int,
        plan: Plan,
        first: bool,
        std: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        stride, dilation = (plan.stride, plan.dilation_in) if first else (1, plan.dilation)
        groups = max(1, inside // (cfg.group_size or inside))
        self.skipinit_gain = nn.Parameter(torch.zeros(())) if cfg.skipinit else None
        self.downsample: nn.Module | None = None
        if width != out or stride != 1 or dilation != plan.dilation:
            pool: nn.Module = average(stride) if stride > 1 else nn.Identity()
            if plan.dilation > 1:
                pool = AvgPool2dSame(2, 1)
            self.downsample = nn.Sequential(OrderedDict(pool=pool, conv=cfg.conv(width, out, std=std)))
        self.act1, self.act2 = cfg.act(), cfg.act(inplace=True)
        self.conv1 = cfg.conv(width, inside, std=std)
        self.conv2 = cfg.conv(inside, inside, 3, stride, dilation, groups)
        self.conv2b = cfg.conv(inside, inside, 3, 1, plan.dilation, groups) if cfg.extra_conv else None
        self.conv3 = cfg.conv(inside, out)
        gain = cfg.attn_gain if cfg.attn_layer else 1.0
        self.attn = cfg.gate(inside) if cfg.reg else None
        self.attn_last = None if cfg.reg else cfg.gate(out)
        self.attn_gain, self.alpha = (gain, cfg.alpha) if cfg.reg else (1.0, gain * cfg.alpha)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(x)
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv2(self.act2(self.conv1(y)))
        y = y if self.conv2b is None else self.conv2b(self.act2(y))
        y = y if self.attn is None else self.attn_gain * self.attn(y)
        y = self.conv3(self.act2(y))
        y = self.drop_path(y if self.attn_last is None else self.attn_last(y))
        if self.skipinit_gain is None:
            return torch.add(shortcut, y, alpha=self.alpha)
        # in the map's type: autocast would sum in float32, and all maps that follow would be twice as large
        return torch.addcmul(shortcut, y, self.skipinit_gain.to(y.dtype), value=self.alpha)


def init_norm_free(module: nn.Module) -> None:
    """Filters from N(0, 1 / fan-in), the classifier from N(0, 0.01^2), gains one, biases zero."""
    if isinstance(module, nn.modules.conv._ConvNd):
        truncated_normal(module.weight, module.weight[0].numel() ** -0.5)
    elif isinstance(module, nn.Linear):
        truncated_normal(module.weight, 0.01)
    else:
        return
    if isinstance(module, ScaledStdConv2d):
        nn.init.ones_(module.gain)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class NormFreeNet(Backbone):
    """Residual network whose weights keep the signal in bounds, in place of norms."""

    Config = NormFreeConfig
    parts = Parts(stem='', norm='final_act')
    initialize = staticmethod(init_norm_free)

    def build(self, cfg: NormFreeConfig) -> None:
        self.stem = self.make_stem(cfg)
        names = [f'stem.{name}' for name, _ in self.stem.named_children()]
        last, share = ('stem.conv3', 2) if cfg.stem_type == 'deep_quad' else ('stem.conv', 1)
        half = names.index(last) + 1
        levels = [Level(' '.join(names[:half]), cfg.stem_chs // share, 2)]
        reduction = 2 if cfg.stem_type == '3x3' else 4
        plans = dilate((4 // reduction, *(2 for _ in cfg.depths[1:])), reduction, cfg.output_stride)
        rates = drop_path_rates(cfg.drop_path_rate, cfg.depths)
        stages: list[nn.Module] = []
        width, variance = cfg.stem_chs, 1.0
        for i, (out, plan) in enumerate(zip(cfg.channels, plans, strict=True)):
            blocks: list[NormFreeBlock] = []
            for j, rate in enumerate(rates[i]):
                inside = cfg.inside(width, out, first=i == j == 0)
                block = NormFreeBlock(cfg, width, inside, out, plan, j == 0, variance**0.5, rate)
                # a convolution in the shortcut starts the growth of the variance anew
                variance = cfg.alpha**2 + (variance if block.downsample is None else 1.0)
                blocks.append(block)
                width = out
            stages.append(Blocks(*blocks))
            before = names[half:] if i == 0 else []
            levels.append(Level(' '.join([*before, f'stages.{i}']), out, plan.reduction))
        self.stages = nn.Sequential(*stages)
        self.final_conv: nn.Module = nn.Identity()
        if cfg.num_features:
            self.final_conv, width = cfg.conv(width, cfg.num_features, activated=False), cfg.num_features
            levels[-1] = Level(f'{levels[-1].path} final_conv', width, plans[-1].reduction)
        self.feature_info = FeatureInfo(levels)
        self.final_act = ScaledAct(cfg) if cfg.gamma_in_act else cfg.act()
        self.head = PoolHead(width, cfg.num_classes, cfg.global_pool, cfg.drop_rate)
        self.num_features, self.head_hidden_size = width, self.head.num_features

    @staticmethod
    def make_stem(cfg: NormFreeConfig) -> nn.Sequential:
        """From the image to a quarter of its size, or to half of it where the stem is one 3x3 convolution."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if cfg.stem_type == 'deep_quad':
            width = cfg.in_chans
            for i, (share, stride) in enumerate(((8, 2), (4, 1), (2, 1), (1, 2)), 1):
                if i > 1:
                    layers[f'act{i}'] = cfg.act(inplace=i < 4)  # what act4 takes is a level
                out = cfg.stem_chs // share
                layers[f'conv{i}'] = cfg.conv(width, out, 3, stride, activated=i > 1)
                width = out
            return nn.Sequential(layers)
        kernel = 7 if cfg.stem_type == '7x7_pool' else 3
        layers['conv'] = cfg.conv(cfg.in_chans, cfg.stem_chs, kernel, 2, activated=False)
        if cfg.stem_type == '7x7_pool':
            layers['pool'] = nn.MaxPool2d(3, 2, padding=1)
        return nn.Sequential(layers)

    def init_weights(self) -> None:
        super().init_weights()
        for block in self.modules():  # blocks start as their shortcuts (arXiv:2002.10444)
            if isinstance(block, NormFreeBlock):
                last = 'conv3.gain' if block.skipinit_gain is None else 'skipinit_gain'
                nn.init.zeros_(block.get_parameter(last))

    def no_weight_decay(self) -> set[str]:
        """The gains, which the paper's training does not decay (arXiv:2102.06171)."""
        return {name for name, _ in self.named_parameters() if name.endswith('gain')}


def resnet(*depths: int, **options: Any) -> dict[str, Any]:
    """NF-ResNet: the widths of ResNet, and ReLU."""
    return dict(
        depths=depths,
        channels=(256, 512, 1024, 2048),
        stem_type='7x7_pool',
        stem_chs=64,
        bottle_ratio=0.25,
        act_layer='relu',
        **options,
    )


def regnet(depths: tuple[int, ...], channels: tuple[int, ...], num_features: int) -> dict[str, Any]:
    """NF-RegNet, of widths of its own."""
    return dict(
        depths=depths,
        channels=channels,
        num_features=num_features,
        stem_type='3x3',
        stem_chs=channels[0],
        group_size=8,
        bottle_ratio=2.25,
        reg=True,
        attn_layer='se',
        attn_kwargs=dict(rd_ratio=0.5),
        act_layer='silu',
    )


def nfnet(n: int, **options: Any) -> dict[str, Any]:
    """NFNet-F of size `n`: the depths grow, the widths stay (table 1 of the paper)."""
    return dict(
        depths=tuple((n + 1) * depth for depth in (1, 2, 6, 3)),
        group_size=128,
        extra_conv=True,
        num_features=3072,
        attn_layer='se',
        attn_kwargs=dict(rd_ratio=0.5),
        **options,
    )


def light(n: int, num_features: int = 3072, **options: Any) -> dict[str, Any]:
    """NFNet-L of size `n`: half the width inside, the gate of ECA-Net, and SiLU."""
    own: dict[str, Any] = dict(group_size=64, bottle_ratio=0.25, attn_layer='eca', attn_kwargs={}, act_layer='silu')
    return nfnet(n) | own | dict(num_features=num_features) | options


se: dict[str, Any] = dict(attn_layer='se')
se4: dict[str, Any] = dict(attn_layer='se', attn_kwargs=dict(rd_ratio=0.25))
eca: dict[str, Any] = dict(attn_layer='eca')
dm: dict[str, Any] = dict(gamma_in_act=True, same_padding=True, skipinit=True)

register(
    __name__,
    NormFreeNet,
    **{f'dm_nfnet_f{n}': nfnet(n, **dm) for n in range(7)},
    **{f'nfnet_f{n}': nfnet(n) for n in range(8)},
    nfnet_l0=light(0, 2304, **se4),
    eca_nfnet_l0=light(0, 2304),
    eca_nfnet_l1=light(1),
    eca_nfnet_l2=light(2),
    eca_nfnet_l3=light(3),
    nf_regnet_b0=regnet((1, 3, 6, 6), (40, 80, 160, 328), 960),
    nf_regnet_b1=regnet((2, 4, 7, 7), (40, 80, 160, 328), 960),
    nf_regnet_b2=regnet((2, 4, 8, 8), (40, 88, 176, 368), 1064),
    nf_regnet_b3=regnet((2, 5, 9, 9), (40, 96, 184, 400), 1152),
    nf_regnet_b4=regnet((2, 6, 11, 11), (48, 112, 216, 464), 1344),
    nf_regnet_b5=regnet((3, 7, 14, 14), (64, 128, 256, 528), 1536),
    nf_resnet26=resnet(2, 2, 2, 2),
    nf_resnet50=resnet(3, 4, 6, 3),
    nf_resnet101=resnet(3, 4, 23, 3),
    nf_seresnet26=resnet(2, 2, 2, 2, **se),
    nf_seresnet50=resnet(3, 4, 6, 3, **se),
    nf_seresnet101=resnet(3, 4, 23, 3, **se),
    nf_ecaresnet26=resnet(2, 2, 2, 2, **eca),
    nf_ecaresnet50=resnet(3, 4, 6, 3, **eca),
    nf_ecaresnet101=resnet(3, 4, 23, 3, **eca),
    test_nfnet=light(0, 192, depths=(1, 1, 1, 1), channels=(32, 64, 96, 128), group_size=8, **se4),
)
