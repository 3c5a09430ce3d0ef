"""RegNet X and Y (arXiv:2003.13678), RegNet Z (arXiv:2103.06877), and the pre-activation RegNet V."""

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from foveal.layers import Blocks, ConvNormAct, DropPath, PoolHead, SqueezeExcite, activation, conv2d, drop_path_rates
from foveal.layers.blur_pool import AvgPool2dSame, average
from foveal.layers.norm_act import norm_act
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, Parts, Plan, dilate
from foveal.registry import register

DOWNSAMPLES = ('conv1x1', 'avg', None)


@dataclass(frozen=True, kw_only=True)
class RegNetConfig(Config):
    """Options of RegNet. The first five are the parameters of the design space; the widths follow from them."""

    depth: int = 13
    w0: int = 24  # width of the first block before rounding
    wa: float = 36.44  # slope of the widths
    wm: float = 2.49  # factor between stages that the widths are rounded to
    group_size: int = 8  # channels of a group of the 3x3 convolution
    bottle_ratio: float = 1.0  # width inside a block, over its width
    group_min_ratio: float = 0.0  # rounding to groups may not shrink a width below this share (torchvision: 0.9)
    se_ratio: float = 0.0  # width inside the squeeze-excite gate, over the block's input; 0: no gate (X)
    stem_width: int = 32
    downsample: str | None = 'conv1x1'  # of the shortcut where the shape changes; None: no shortcut there (Z)
    linear_out: bool = False  # no activation after the sum (Z)
    preact: bool = False  # norm and activation before each convolution (V)
    num_features: int = 0  # width of a last 1x1 convolution; 0: none
    act_layer: str = 'relu'
    norm_layer: str = 'batchnorm'
    norm_group_size: int | None = None  # channels of a group of the group norm
    zero_init_last: bool = True  # branches beside a shortcut start as zero
    output_stride: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.downsample not in DOWNSAMPLES:
            legal = ', '.join(map(repr, DOWNSAMPLES))
            raise ValueError(f'downsample {self.downsample!r} is unknown; legal are {legal}')
        for name, least in (
            ('depth', 4),
            ('w0', 8),
            ('wa', 0),
            ('wm', 1.01),
            ('group_size', 1),
            ('bottle_ratio', 0.01),
        ):
            if getattr(self, name) < least:
                raise ValueError(f'{name} must be at least {least}, got {getattr(self, name)!r}')
        if len(self.stages()) != 4:
            raise ValueError(
                f'depth={self.depth}, w0={self.w0}, wa={self.wa}, wm={self.wm} make {len(self.stages())} stages, not 4'
            )

    def stages(self) -> 'list[Stage]':
        """The stages that the linear rule gives (eq. 2 to 4 of the paper), widths rounded to 8 and then to groups."""
        slopes = (1 + self.wa * block / self.w0 for block in range(self.depth))
        steps = (round(math.log(slope) / math.log(self.wm)) for slope in slopes)
        widths = Counter(round(self.w0 * self.wm**step / 8) * 8 for step in steps)
        stages = []
        for width, depth in widths.items():
            inside = int(width * self.bottle_ratio)
            size = min(self.group_size, inside)
            rounded = round(inside / size) * size
            if self.group_min_ratio:
                rounded = max(size, int(inside + size / 2) // size * size)
                rounded += size if rounded < self.group_min_ratio * inside else 0
            stages.append(Stage(int(rounded / self.bottle_ratio), rounded, rounded // size, depth))
        return stages

    def norm(self, dim: int, act: bool = True) -> nn.Module:
        """The family's norm over `dim` channels, and its activation."""
        return norm_act(self.norm_layer, dim, self.act_layer if act else '', group_size=self.norm_group_size)

    def conv(self, in_channels: int, out_channels: int, kernel: int = 1, act: bool = True, **options: Any) -> nn.Module:
        """A convolution; with its norm and activation, unless those come before."""
        if self.preact:
            return conv2d(in_channels, out_channels, kernel, bias=False, **options)
        options |= dict(norm_layer=self.norm_layer, group_size=self.norm_group_size)
        return ConvNormAct(in_channels, out_channels, kernel, act_layer=self.act_layer if act else '', **options)

    def gate(self, block_width: int, inside: int) -> nn.Module:
        """The squeeze-excite gate over `inside` channels, of a width that follows the block's input."""
        if not self.se_ratio:
            return nn.Identity()
        return SqueezeExcite(inside, rd_channels=round(block_width * self.se_ratio), act_layer=self.act_layer)


class Stage(NamedTuple):
    """The shape of one stage."""

    width: int
    inside: int  # width of the 3x3 convolutions
    groups: int
    depth: int


class Residual(nn.Module):
    """What both blocks share: the shortcut, and the dropping of the branch."""

    def __init__(
        self, cfg: RegNetConfig, width: int, out: int, stride: int, dilation: int, changes: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.downsample: nn.Module | None = nn.Identity()
        if changes:
            self.downsample = None
            if cfg.downsample == 'conv1x1':
                self.downsample = cfg.conv(width, out, act=False, stride=stride)
            elif cfg.downsample == 'avg':
                pool: nn.Module = average(stride) if stride > 1 else nn.Identity()
                if dilation > 1:
                    pool = AvgPool2dSame(2, 1)
                self.downsample = nn.Sequential(pool, cfg.conv(width, out, act=False))
        self.drop_path = DropPath(drop_path)

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """The branch and the shortcut of `x`; the branch alone where there is no shortcut."""
        return branch if self.downsample is None else self.drop_path(branch) + self.downsample(x)


class Bottleneck(Residual):
    """1x1, grouped 3x3, gate, 1x1, residual (figure 4 of the paper, with the gate of section 5)."""

    def __init__(
        self, cfg: RegNetConfig, width: int, stage: Stage, stride: int, dilation: int, changes: bool, drop_path: float
    ) -> None:
        super().__init__(cfg, width, stage.width, stride, dilation, changes, drop_path)
        inside = stage.inside
        self.conv1 = cfg.conv(width, inside)
        self.conv2 = cfg.conv(inside, inside, 3, stride=stride, dilation=dilation, groups=stage.groups)
        self.se = cfg.gate(width, inside)
        self.conv3 = cfg.conv(inside, stage.width, act=False)
        self.act3 = activation('' if cfg.linear_out else cfg.act_layer, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act3(self.add(x, self.conv3(self.se(self.conv2(self.conv1(x))))))


class PreBottleneck(Residual):
    """The block with norm and activation before each convolution (arXiv:1603.05027)."""

    def __init__(
        self, cfg: RegNetConfig, width: int, stage: Stage, stride: int, dilation: int, changes: bool, drop_path: float
    ) -> None:
        super().__init__(cfg, width, stage.width, stride, dilation, changes, drop_path)
        inside = stage.inside
        self.norm1 = cfg.norm(width)
        self.conv1 = cfg.conv(width, inside)
        self.norm2 = cfg.norm(inside)
        self.conv2 = cfg.conv(inside, inside, 3, stride=stride, dilation=dilation, groups=stage.groups)
        self.se = cfg.gate(width, inside)
        self.norm3 = cfg.norm(inside)
        self.conv3 = cfg.conv(inside, stage.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        y = self.se(self.conv2(self.norm2(self.conv1(x))))
        return self.add(x, self.conv3(self.norm3(y)))


class RegStage(Blocks):
    """The blocks of one stage; the first one strides."""

    def __init__(self, cfg: RegNetConfig, width: int, stage: Stage, plan: Plan, drop_paths: list[float]) -> None:
        block = PreBottleneck if cfg.preact else Bottleneck
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for i, rate in enumerate(drop_paths):
            stride, dilation = (plan.stride, plan.dilation_in) if i == 0 else (1, plan.dilation)
            changes = i == 0 and (width != stage.width or plan.stride > 1 or plan.dilation_in != plan.dilation)
            blocks[f'b{i + 1}'] = block(cfg, width, stage, stride, dilation, changes, rate)
            width = stage.width
        super().__init__(blocks)


class RegNet(Backbone):
    """RegNet: four stages of bottlenecks whose widths and depths a linear rule gives."""

    Config = RegNetConfig
    parts = Parts(stem='', norm='final_conv')

    def build(self, cfg: RegNetConfig) -> None:
        stages, width = cfg.stages(), cfg.stem_width
        plans = dilate((2, 2, 2, 2), 2, cfg.output_stride)
        rates = drop_path_rates(cfg.drop_path_rate, [stage.depth for stage in stages])
        self.stem = cfg.conv(cfg.in_chans, width, 3, stride=2)
        levels = [Level('stem', width, 2)]
        for i, stage in enumerate(stages):
            setattr(self, f's{i + 1}', RegStage(cfg, width, stage, plans[i], rates[i]))
            levels.append(Level(f's{i + 1}', stage.width, plans[i].reduction))
            width = stage.width
        self.feature_info = FeatureInfo(levels)
        self.final_conv: nn.Module = nn.Identity()
        if cfg.num_features:
            self.final_conv, width = cfg.conv(width, cfg.num_features), cfg.num_features
        elif cfg.preact or cfg.linear_out:
            self.final_conv = activation(cfg.act_layer)
        self.head = PoolHead(width, cfg.num_classes, cfg.global_pool, cfg.drop_rate)
        self.num_features, self.head_hidden_size = width, self.head.num_features

    def init_weights(self) -> None:
        super().init_weights()
        if self.cfg.zero_init_last:
            for block in self.modules():
                if isinstance(block, Bottleneck) and block.downsample is not None:
                    nn.init.zeros_(block.get_parameter('conv3.bn.weight'))


def design(depth: int, w0: int, wa: float, wm: float, group_size: int, **options: Any) -> dict[str, Any]:
    """The parameters of a published design."""
    return dict(depth=depth, w0=w0, wa=wa, wm=wm, group_size=group_size, **options)


y: dict[str, Any] = dict(se_ratio=0.25)
z: dict[str, Any] = dict(se_ratio=0.25, bottle_ratio=4.0, downsample=None, linear_out=True, act_layer='silu')
v: dict[str, Any] = dict(se_ratio=0.25, preact=True, act_layer='silu')
tv: dict[str, Any] = dict(group_min_ratio=0.9)

register(
    __name__,
    RegNet,
    regnetx_002=design(13, 24, 36.44, 2.49, 8),
    regnetx_004=design(22, 24, 24.48, 2.54, 16),
    regnetx_004_tv=design(22, 24, 24.48, 2.54, 16, **tv),
    regnetx_006=design(16, 48, 36.97, 2.24, 24),
    regnetx_008=design(16, 56, 35.73, 2.28, 16),
    regnetx_016=design(18, 80, 34.01, 2.25, 24),
    regnetx_032=design(25, 88, 26.31, 2.25, 48),
    regnetx_040=design(23, 96, 38.65, 2.43, 40),
    regnetx_064=design(17, 184, 60.83, 2.07, 56),
    regnetx_080=design(23, 80, 49.56, 2.88, 120),
    regnetx_120=design(19, 168, 73.36, 2.37, 112),
    regnetx_160=design(22, 216, 55.59, 2.1, 128),
    regnetx_320=design(23, 320, 69.86, 2.0, 168),
    regnety_002=design(13, 24, 36.44, 2.49, 8, **y),
    regnety_004=design(16, 48, 27.89, 2.09, 8, **y),
    regnety_006=design(15, 48, 32.54, 2.32, 16, **y),
    regnety_008=design(14, 56, 38.84, 2.4, 16, **y),
    regnety_008_tv=design(14, 56, 38.84, 2.4, 16, **y, **tv),
    regnety_016=design(27, 48, 20.71, 2.65, 24, **y),
    regnety_032=design(21, 80, 42.63, 2.66, 24, **y),
    regnety_040=design(22, 96, 31.41, 2.24, 64, **y),
    regnety_040_sgn=design(22, 96, 31.41, 2.24, 64, **y, act_layer='silu', norm_layer='groupnorm', norm_group_size=16),
    regnety_064=design(25, 112, 33.22, 2.27, 72, **y),
    regnety_080=design(17, 192, 76.82, 2.19, 56, **y),
    regnety_080_tv=design(17, 192, 76.82, 2.19, 56, **y, **tv),
    regnety_120=design(19, 168, 73.36, 2.37, 112, **y),
    regnety_160=design(18, 200, 106.23, 2.48, 112, **y),
    regnety_320=design(20, 232, 115.89, 2.53, 232, **y),
    regnety_640=design(20, 352, 147.48, 2.4, 328, **y),
    regnety_1280=design(27, 456, 160.83, 2.52, 264, **y),
    regnety_2560=design(27, 640, 230.83, 2.53, 373, **y),
    regnetv_040=design(22, 96, 31.41, 2.24, 64, **v),
    regnetv_064=design(25, 112, 33.22, 2.27, 72, **v, downsample='avg'),
    regnetz_005=design(21, 16, 10.7, 2.51, 4, **z, num_features=1024),
    regnetz_040=design(28, 48, 14.5, 2.226, 8, **z),
    regnetz_040_h=design(28, 48, 14.5, 2.226, 8, **z, num_features=1536),
)
