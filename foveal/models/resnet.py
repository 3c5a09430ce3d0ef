"""ResNet (arXiv:1512.03385) and what grew from it.

Stems and shortcuts B, C, D (arXiv:1812.01187), ResNeXt (arXiv:1611.05431), Wide ResNet (arXiv:1605.07146), SENet
(arXiv:1709.01507), ECA-Net (arXiv:1910.03151), ResNet-RS (arXiv:2103.07579), anti-aliased ones (arXiv:1904.11486).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from foveal.errors import near
from foveal.layers import Blocks, DropBlock2d, DropPath, Pool, activation, classifier, conv2d, normalization
from foveal.layers.act import ACTIVATIONS
from foveal.layers.batch_norm import norm_then_act
from foveal.layers.blur_pool import AA_LAYERS, AvgPool2dSame, anti_alias, average
from foveal.layers.drop import drop_path_rates
from foveal.layers.gate import GATES, SqueezeExcite, attention_gate
from foveal.layers.norm import NORMS
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, Parts, dilate
from foveal.models.pruned import narrow, pruned_names
from foveal.registry import register

Layer = str | Callable[..., nn.Module]
STEMS = ('', 'deep', 'deep_tiered', 'small')


class ResidualBlock(nn.Module):
    """What the two blocks share: the end of the branch, and the sum with the shortcut."""

    expansion: ClassVar[int]
    tail: ClassVar[tuple[str, str]]  # the branch's last convolution and its norm
    se: nn.Module | None
    downsample: nn.Module | None
    drop_block: nn.Module
    drop_path: nn.Module | None

    def dropped(self, norm: nn.Module, x: Tensor, act: nn.Module) -> Tensor:
        """Norm and activation, with the dropped blocks between them."""
        if type(self.drop_block) is nn.Identity:
            return norm_then_act(norm, x, act)
        return act(self.drop_block(norm(x)))

    def join(self, shortcut: Tensor, x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
        """The branch `x` through norm, gate and drop path, plus the block's input, through the activation."""
        if self.se is None and self.drop_path is None:
            return norm_then_act(norm, x, act, shortcut if self.downsample is None else self.downsample(shortcut))
        x = norm(x)
        x = x if self.se is None else self.se(x)
        x = x if self.drop_path is None else self.drop_path(x)
        x += shortcut if self.downsample is None else self.downsample(shortcut)  # in place: a map less to allocate
        return act(x)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut (figure 5 left of the ResNet paper).

    Args:
        inplanes: channels of the input.
        planes: channels of the output.
        stride: of the first convolution.
        downsample: the shortcut, where it is not the input itself.
        cardinality: must be 1.
        base_width: must be 64.
        reduce_first: divisor of the channels between the convolutions.
        dilation: of the second convolution.
        first_dilation: of the first one; `dilation` if not given.
        act_layer: activation, by name or class.
        norm_layer: norm, by name or class.
        attn_layer: gate at the end of the branch: a name of `attention_gate`, or a class that takes the channels.
        aa_layer: reduce with this layer (as in `anti_alias`) instead of a strided convolution.
        drop_block: a layer after the first norm.
        drop_path: a layer at the end of the branch.

    Raises:
        ValueError: a cardinality or base_width that this block does not have.
    """

    expansion = 1
    tail = ('conv2', 'bn2')

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        reduce_first: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        act_layer: Layer = 'relu',
        norm_layer: Layer = 'batchnorm',
        attn_layer: Layer | None = None,
        aa_layer: Layer | None = None,
        drop_block: nn.Module | None = None,
        drop_path: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (cardinality, base_width) != (1, 64):
            raise ValueError(f'BasicBlock has cardinality 1 and base_width 64 only, not {cardinality} and {base_width}')
        width, first = planes // reduce_first, first_dilation or dilation
        aa = aa_layer if stride == 2 or first != dilation else None
        self.conv1 = conv2d(inplanes, width, 3, 1 if aa else stride, first, bias=False)
        self.bn1 = normalization(norm_layer, width, 'NCHW')
        self.drop_block = drop_block or nn.Identity()
        self.act1 = activation(act_layer, inplace=True)
        self.aa = anti_alias(aa, stride) if aa else nn.Identity()
        self.conv2 = conv2d(width, planes, 3, dilation=dilation, bias=False)
        self.bn2 = normalization(norm_layer, planes, 'NCHW')
        self.se = attention_gate(attn_layer, planes) if attn_layer else None
        self.act2 = activation(act_layer, inplace=True)
        self.downsample, self.drop_path = downsample, drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = self.aa(self.dropped(self.bn1, self.conv1(x), self.act1))
        return self.join(x, self.conv2(y), self.bn2, self.act2)


class Bottleneck(ResidualBlock):
    """A 3x3 convolution between two of 1x1, and a shortcut (figure 5 right of the ResNet paper).

    Args:
        inplanes: channels of the input.
        planes: a quarter of the channels of the output.
        stride: of the 3x3 convolution.
        downsample: the shortcut, where it is not the input itself.
        cardinality: groups of the 3x3 convolution (ResNeXt).
        base_width: channels of a group where planes is 64.
        reduce_first: divisor of the channels between the first two convolutions.
        dilation: of the blocks that follow.
        first_dilation: of this one; `dilation` if not given.
        act_layer: activation, by name or class.
        norm_layer: norm, by name or class.
        attn_layer: gate at the end of the branch: a name of `attention_gate`, or a class that takes the channels.
        aa_layer: reduce with this layer (as in `anti_alias`) instead of a strided convolution.
        drop_block: a layer after the second norm.
        drop_path: a layer at the end of the branch.
    """

    expansion = 4
    tail = ('conv3', 'bn3')

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        reduce_first: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        act_layer: Layer = 'relu',
        norm_layer: Layer = 'batchnorm',
        attn_layer: Layer | None = None,
        aa_layer: Layer | None = None,
        drop_block: nn.Module | None = None,
        drop_path: nn.Module | None = None,
    ) -> None:
        super().__init__()
        width, out, first = planes * base_width // 64 * cardinality, planes * self.expansion, first_dilation or dilation
        narrowed = width // reduce_first
        aa = aa_layer if stride == 2 or first != dilation else None
        self.conv1 = conv2d(inplanes, narrowed, 1, bias=False)
        self.bn1 = normalization(norm_layer, narrowed, 'NCHW')
        self.act1 = activation(act_layer, inplace=True)
        self.conv2 = conv2d(narrowed, width, 3, 1 if aa else stride, first, groups=cardinality, bias=False)
        self.bn2 = normalization(norm_layer, width, 'NCHW')
        self.drop_block = drop_block or nn.Identity()
        self.act2 = activation(act_layer, inplace=True)
        self.aa = anti_alias(aa, stride) if aa else nn.Identity()
        self.conv3 = conv2d(width, out, 1, bias=False)
        self.bn3 = normalization(norm_layer, out, 'NCHW')
        self.se = attention_gate(attn_layer, out) if attn_layer else None
        self.act3 = activation(act_layer, inplace=True)
        self.downsample, self.drop_path = downsample, drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = norm_then_act(self.bn1, self.conv1(x), self.act1)
        y = self.aa(self.dropped(self.bn2, self.conv2(y), self.act2))
        return self.join(x, self.conv3(y), self.bn3, self.act3)


BLOCKS: dict[str, type[ResidualBlock]] = {'basic': BasicBlock, 'bottleneck': Bottleneck}


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """Options of ResNet."""

    block: str | type[nn.Module] | tuple[str | type[nn.Module], ...] = 'bottleneck'  # a name of BLOCKS, or one a stage
    layers: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    channels: tuple[int, ...] = (64, 128, 256, 512)  # `planes` of each stage
    cardinality: int = 1
    base_width: int = 64
    stem_width: int = 64  # of the deep stems' first convolutions; their last has twice as much
    stem_type: str = ''  # one 7x7 convolution; three 3x3 ones, of which the tiered first is narrower; or `small`
    replace_stem_pool: bool = False  # a strided convolution in place of the max pooling (ResNet-RS)
    block_reduce_first: int = 1  # divisor of the width between a block's first two convolutions (SENet-154: 2)
    down_kernel_size: int = 1  # of the shortcuts that reduce
    avg_down: bool = False  # shortcuts pool and then convolve (ResNet-D)
    act_layer: Layer = 'relu'
    norm_layer: Layer = 'batchnorm'
    aa_layer: Layer | None = None  # reduce with this layer instead of strides (arXiv:1904.11486)
    drop_block_rate: float = 0.0  # DropBlock in the last two stages (arXiv:1810.12890)
    zero_init_last: bool = True  # blocks start as identities (arXiv:1706.02677, section 5.1)
    block_args: Mapping[str, Any] = field(default_factory=dict)  # more arguments of the blocks: attn_layer
    output_stride: int = 32
    pruned: str = ''  # channels from this list (`foveal.models.pruned`)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, legal in (
            ('stem_type', self.stem_type, STEMS),
            ('act_layer', self.act_layer, ACTIVATIONS),
            ('norm_layer', self.norm_layer, NORMS),
            ('aa_layer', self.aa_layer or '', AA_LAYERS),
            ('attn_layer', self.block_args.get('attn_layer') or '', GATES),
            ('pruned', self.pruned, pruned_names('resnet')),
            *(('block', block, BLOCKS) for block in self.blocks),
        ):
            if isinstance(value, str) and value and value not in legal:
                raise ValueError(f'{name} {value!r} is unknown{near(value, legal)}')
        if not 0 <= self.drop_block_rate < 1:
            raise ValueError(f'drop_block_rate must be in [0, 1), got {self.drop_block_rate!r}')
        if not len(self.layers) == len(self.channels) == len(self.blocks) or min(self.layers) < 1:
            raise ValueError(f'layers {self.layers}, channels {self.channels} and block need one entry for each stage')
        if (self.cardinality, self.base_width) != (1, 64) and {'basic', BasicBlock} & set(self.blocks):
            raise ValueError('cardinality and base_width belong to bottlenecks; basic blocks have 1 and 64')

    @property
    def blocks(self) -> tuple[Any, ...]:
        """The block of each stage."""
        return self.block if isinstance(self.block, tuple) else (self.block,) * len(self.layers)

    def norm(self, dim: int) -> nn.Module:
        """The family's norm over `dim` channels."""
        return normalization(self.norm_layer, dim, 'NCHW')


class ResNet(Backbone):
    """ResNet: a stem, and stages of residual blocks."""

    Config = ResNetConfig
    parts = Parts(stem='', norm='', head='', classifier='fc')

    def build(self, cfg: ResNetConfig) -> None:
        width = self.make_stem(cfg)
        stem = 1 if cfg.stem_type == 'small' else 2
        plans = dilate((1,) + (2,) * (len(cfg.layers) - 1), stem**2, cfg.output_stride)
        rates = drop_path_rates(cfg.drop_path_rate, cfg.layers)
        levels = [Level('conv1 bn1 act1', width, stem)]
        for i, (kind, planes, plan) in enumerate(zip(cfg.blocks, cfg.channels, plans, strict=True)):
            block = BLOCKS[kind] if isinstance(kind, str) else kind
            out = planes * block.expansion
            # the paper's schedule: the last stage drops at the full rate, the one before at a quarter of it
            dropped = cfg.drop_block_rate * {1: 1.0, 2: 0.25}.get(len(cfg.layers) - i, 0.0)
            units: list[nn.Module] = []
            for j, rate in enumerate(rates[i]):
                stride, first = (plan.stride, plan.dilation_in) if j == 0 else (1, plan.dilation)
                reshapes = stride != 1 or width != out
                units.append(
                    block(
                        width,
                        planes,
                        stride,
                        self.shortcut(cfg, width, out, stride, plan.dilation, first) if reshapes else None,
                        cardinality=cfg.cardinality,
                        base_width=cfg.base_width,
                        reduce_first=cfg.block_reduce_first,
                        dilation=plan.dilation,
                        first_dilation=first,
                        act_layer=cfg.act_layer,
                        norm_layer=cfg.norm_layer,
                        aa_layer=cfg.aa_layer,
                        drop_block=DropBlock2d(dropped) if dropped else None,
                        drop_path=DropPath(rate) if rate else None,
                        **cfg.block_args,
                    )
                )
                width = out
            name = f'layer{i + 1}'
            self.add_module(name, Blocks(*units))
            levels.append(Level(name if i else f'maxpool {name}', out, plan.reduction))
        if cfg.pruned:
            narrow(self, cfg.pruned)
            levels[1:] = [level._replace(channels=self.width(level.path.split()[-1])) for level in levels[1:]]
        self.feature_info = FeatureInfo(levels)
        self.num_features = levels[-1].channels
        self.global_pool = Pool(cfg.global_pool)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult
        self.fc = classifier(self.head_hidden_size, cfg.num_classes)

    def width(self, stage: str) -> int:
        """Channels that a stage puts out."""
        block = self.get_submodule(stage)[-1]  # type: ignore[index]
        return getattr(block, block.tail[0]).out_channels

    def make_stem(self, cfg: ResNetConfig) -> int:
        """From the image to a quarter of its size, or as it is where the stem is small; returns the channels."""
        width = 2 * cfg.stem_width if cfg.stem_type in ('deep', 'deep_tiered') else 64
        if cfg.stem_type == 'small':
            # for images of about 32 pixels (arXiv:1512.03385, section 4.2)
            width = cfg.channels[0]
            self.conv1: nn.Module = conv2d(cfg.in_chans, width, 3, bias=False)
        elif cfg.stem_type:
            second = cfg.stem_width
            first = second // 4 * 3 if cfg.stem_type == 'deep_tiered' else second
            self.conv1 = nn.Sequential(
                conv2d(cfg.in_chans, first, 3, 2, bias=False),
                cfg.norm(first),
                activation(cfg.act_layer, inplace=True),
                conv2d(first, second, 3, bias=False),
                cfg.norm(second),
                activation(cfg.act_layer, inplace=True),
                conv2d(second, width, 3, bias=False),
            )
        else:
            self.conv1 = conv2d(cfg.in_chans, width, 7, 2, bias=False)
        self.bn1 = cfg.norm(width)
        self.act1 = activation(cfg.act_layer, inplace=True)
        self.maxpool = nn.Identity() if cfg.stem_type == 'small' else self.make_pool(cfg, width)
        return width

    @staticmethod
    def make_pool(cfg: ResNetConfig, width: int) -> nn.Module:
        """The second half of the stem, from half the image's size to a quarter."""
        blurs = [anti_alias(cfg.aa_layer)] if cfg.aa_layer else []
        stride = 1 if blurs else 2
        if cfg.replace_stem_pool:
            conv = conv2d(width, width, 3, stride, bias=False)
            return nn.Sequential(conv, *blurs, cfg.norm(width), activation(cfg.act_layer, inplace=True))
        if cfg.aa_layer in ('avg', 'avgpool'):
            return blurs[0]
        pool = nn.MaxPool2d(3, stride, padding=1)
        return nn.Sequential(pool, *blurs) if blurs else pool

    @staticmethod
    def shortcut(cfg: ResNetConfig, width: int, out: int, stride: int, dilation: int, first: int) -> nn.Sequential:
        """The shortcut of a block whose output has another shape than its input."""
        if not cfg.avg_down:
            kernel = 1 if stride == dilation == 1 else cfg.down_kernel_size
            return nn.Sequential(conv2d(width, out, kernel, stride, first, bias=False), cfg.norm(out))
        pool: nn.Module = nn.Identity() if stride == 1 else average(stride)
        if dilation > 1:
            pool = AvgPool2dSame(2, 1)
        return nn.Sequential(pool, conv2d(width, out, 1, bias=False), cfg.norm(out))

    def init_weights(self) -> None:
        super().init_weights()
        cfg: Any = self.cfg
        for block in self.modules() if cfg.zero_init_last else ():
            if isinstance(block, ResidualBlock):
                nn.init.zeros_(getattr(block, block.tail[1]).weight)


basic: dict[str, Any] = dict(block='basic')
c: dict[str, Any] = dict(stem_width=32, stem_type='deep')
s: dict[str, Any] = dict(stem_width=64, stem_type='deep')
d: dict[str, Any] = dict(**c, avg_down=True)
t: dict[str, Any] = dict(stem_width=32, stem_type='deep_tiered', avg_down=True)
se: dict[str, Any] = dict(block_args=dict(attn_layer='se'))
eca: dict[str, Any] = dict(block_args=dict(attn_layer='eca'))
rs: dict[str, Any] = dict(
    **d, replace_stem_pool=True, block_args=dict(attn_layer=partial(SqueezeExcite, rd_ratio=0.25))
)
aa: dict[str, Any] = dict(aa_layer='avg')
blur: dict[str, Any] = dict(aa_layer='blur')


def groups(cardinality: int, base_width: int) -> dict[str, int]:
    """ResNeXt: the groups of the middle convolution and their width."""
    return dict(cardinality=cardinality, base_width=base_width)


DEPTHS = {
    10: (1, 1, 1, 1),
    14: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}


def depth(layers: int, **options: Any) -> dict[str, Any]:
    """The blocks of a network of so many layers."""
    return dict(layers=DEPTHS[layers], **options)


register(
    __name__,
    ResNet,
    ecaresnet101d=depth(101, **d, **eca),
    ecaresnet101d_pruned=depth(101, **d, **eca, pruned='ecaresnet101d_pruned'),
    ecaresnet200d=depth(200, **d, **eca),
    ecaresnet269d=depth(269, **d, **eca),
    ecaresnet26t=depth(26, **t, **eca),
    ecaresnet50d=depth(50, **d, **eca),
    ecaresnet50d_pruned=depth(50, **d, **eca, pruned='ecaresnet50d_pruned'),
    ecaresnet50t=depth(50, **t, **eca),
    ecaresnetlight=dict(layers=(1, 1, 11, 3), avg_down=True, **eca),
    ecaresnext26t_32x4d=depth(26, **t, **groups(32, 4), **eca),
    ecaresnext50t_32x4d=depth(50, **t, **groups(32, 4), **eca),
    resnet101=depth(101),
    resnet101c=depth(101, **c),
    resnet101d=depth(101, **d),
    resnet101s=depth(101, **s),
    resnet10t=depth(10, **basic, **t),
    resnet14t=depth(14, **t),
    resnet152=depth(152),
    resnet152c=depth(152, **c),
    resnet152d=depth(152, **d),
    resnet152s=depth(152, **s),
    resnet18=depth(18, **basic),
    resnet18d=depth(18, **basic, **d),
    resnet200=depth(200),
    resnet200d=depth(200, **d),
    resnet26=depth(26),
    resnet26d=depth(26, **d),
    resnet26t=depth(26, **t),
    resnet34=depth(34, **basic),
    resnet34d=depth(34, **basic, **d),
    resnet50=depth(50),
    resnet50_gn=depth(50, norm_layer='groupnorm'),
    resnet50c=depth(50, **c),
    resnet50d=depth(50, **d),
    resnet50s=depth(50, **s),
    resnet50t=depth(50, **t),
    resnetaa101d=depth(101, **d, **aa),
    resnetaa34d=depth(34, **basic, **d, **aa),
    resnetaa50=depth(50, **aa),
    resnetaa50d=depth(50, **d, **aa),
    resnetblur101d=depth(101, **d, **blur),
    resnetblur18=depth(18, **basic, **blur),
    resnetblur50=depth(50, **blur),
    resnetblur50d=depth(50, **d, **blur),
    resnetrs101=depth(101, **rs),
    resnetrs152=depth(152, **rs),
    resnetrs200=depth(200, **rs),
    resnetrs270=dict(layers=(4, 29, 53, 4), **rs),
    resnetrs350=dict(layers=(4, 36, 72, 4), **rs),
    resnetrs420=dict(layers=(4, 44, 87, 4), **rs),
    resnetrs50=depth(50, **rs),
    resnext101_32x16d=depth(101, **groups(32, 16)),
    resnext101_32x32d=depth(101, **groups(32, 32)),
    resnext101_32x4d=depth(101, **groups(32, 4)),
    resnext101_32x8d=depth(101, **groups(32, 8)),
    resnext101_64x4d=depth(101, **groups(64, 4)),
    resnext50_32x4d=depth(50, **groups(32, 4)),
    resnext50d_32x4d=depth(50, **d, **groups(32, 4)),
    senet154=dict(layers=(3, 8, 36, 3), **s, **groups(64, 4), **se, down_kernel_size=3, block_reduce_first=2),
    seresnet101=depth(101, **se),
    seresnet152=depth(152, **se),
    seresnet152d=depth(152, **d, **se),
    seresnet18=depth(18, **basic, **se),
    seresnet200d=depth(200, **d, **se),
    seresnet269d=depth(269, **d, **se),
    seresnet34=depth(34, **basic, **se),
    seresnet50=depth(50, **se),
    seresnet50t=depth(50, **t, **se),
    seresnetaa50d=depth(50, **d, **se, **aa),
    seresnext101_32x4d=depth(101, **groups(32, 4), **se),
    seresnext101_32x8d=depth(101, **groups(32, 8), **se),
    seresnext101_64x4d=depth(101, **groups(64, 4), **se),
    seresnext101d_32x8d=depth(101, **d, **groups(32, 8), **se),
    seresnext26d_32x4d=depth(26, **d, **groups(32, 4), **se),
    seresnext26t_32x4d=depth(26, **t, **groups(32, 4), **se),
    seresnext50_32x4d=depth(50, **groups(32, 4), **se),
    seresnextaa101d_32x8d=depth(101, **d, **groups(32, 8), **se, **aa),
    seresnextaa201d_32x8d=dict(layers=(3, 24, 36, 4), **s, avg_down=True, **groups(32, 8), **se, **aa),
    test_resnet=dict(
        block=('basic', 'basic', 'bottleneck', 'basic'),
        layers=(1, 1, 1, 1),
        channels=(32, 48, 48, 96),
        stem_width=16,
        stem_type='deep',
        avg_down=True,
    ),
    wide_resnet101_2=depth(101, base_width=128),
    wide_resnet50_2=depth(50, base_width=128),
)
