"""HRNet (arXiv:1908.07919): branches of four resolutions side by side, which exchange what they see."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers import Blocks, DropPath, Pool, classifier, conv2d, drop_path_rates
from foveal.layers.batch_norm import BatchNorm2d
from foveal.models.backbone import Backbone, Collection, Config, FeatureInfo, Grid, Level, Parts
from foveal.models.resnet import BasicBlock, Bottleneck
from foveal.registry import register

HEAD_WIDTHS = (32, 64, 128, 256)  # of the bottlenecks that widen the branches for classification (section 4.3)
FEATURES = 2048


@dataclass(frozen=True, kw_only=True)
class HRNetConfig(Config):
    """Options of HRNet."""

    width: int = 18  # channels of the finest branch; each coarser one has twice as many
    stage1_width: int = 64  # of the bottlenecks of the first stage
    num_modules: tuple[int, int, int] = (1, 4, 3)  # exchanges of stages 2 to 4
    num_blocks: tuple[int, int, int, int] = (4, 4, 4, 4)  # of stage 1, and of each branch between two exchanges
    stem_width: int = 64
    conv_bias: bool = True  # in the convolutions of the head

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, count in (('num_modules', 3), ('num_blocks', 4)):
            value = getattr(self, name)
            if len(value) != count or min(value) < 1:
                raise ValueError(f'{name} must be {count} numbers of at least 1, got {value!r}')


def conv_bn(width: int, out: int, kernel: int = 3, stride: int = 1, act: bool = True, bias: bool = False) -> Any:
    """Convolution, batch norm and, with `act`, ReLU."""
    layers = [conv2d(width, out, kernel, stride, bias=bias), BatchNorm2d(out)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


def bottleneck(width: int, planes: int, drop_path: float = 0.0) -> Bottleneck:
    """ResNet's bottleneck, with a projected shortcut where the channels change."""
    out = planes * Bottleneck.expansion
    shortcut = None if width == out else conv_bn(width, out, 1, act=False)
    return Bottleneck(width, planes, downsample=shortcut, drop_path=DropPath(drop_path))


class Transition(nn.ModuleList):
    """From the branches of one stage to those of the next: a coarser one is made of the coarsest that there is."""

    def __init__(self, widths: list[int], wanted: list[int]) -> None:
        same = [nn.Identity() if a == b else conv_bn(a, b) for a, b in zip(widths, wanted, strict=False)]
        super().__init__([*same, nn.Sequential(conv_bn(widths[-1], wanted[-1], stride=2))])

    def forward(self, x: Tensor | list[Tensor]) -> list[Tensor]:
        branches = [x] if isinstance(x, Tensor) else x
        return [path(x) for path, x in zip(self, [*branches, branches[-1]], strict=True)]


class HighResolutionModule(nn.Module):
    """Blocks along each branch, then an exchange: every branch becomes the sum of all, resized (figure 3).

    Args:
        widths: channels of the branches, fine to coarse.
        drop_paths: stochastic depth of each branch's blocks.
    """

    def __init__(self, widths: list[int], drop_paths: list[float]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, drop_path=DropPath(rate)) for rate in drop_paths))
            for width in widths
        )
        count = range(len(widths))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self.resize(widths, source, target) for source in count) for target in count
        )
        self.fuse_act = nn.ReLU()

    @staticmethod
    def resize(widths: list[int], source: int, target: int) -> nn.Module:
        """The layers from one branch to another; making a coarse map fine is left to `forward`."""
        if source == target:
            return nn.Identity()
        if source > target:
            return conv_bn(widths[source], widths[target], 1, act=False)
        steps = [conv_bn(widths[source], widths[source], stride=2) for _ in range(target - source - 1)]
        return nn.Sequential(*steps, conv_bn(widths[source], widths[target], stride=2, act=False))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        fused = []
        for own, paths in zip(branches, self.fuse_layers, strict=True):
            maps = [path(x) for path, x in zip(paths, branches, strict=True)]  # type: ignore[call-overload]
            size = own.shape[-2:]
            maps = [x if x.shape[-2:] == size else F.interpolate(x, size=size) for x in maps]
            fused.append(self.fuse_act(sum(maps[1:], maps[0])))
        return fused


class HighResolutionNet(Backbone):
    """HRNet. The levels are the stem and the widened branches; features are the branches folded into the coarsest.

    From the second level on, what the trunk carries is the list of the levels' maps so far, fine to coarse.
    """

    Config = HRNetConfig
    parts = Parts(stem='', norm='downsamp_modules final_layer', head='', classifier='classifier')

    def build(self, cfg: HRNetConfig) -> None:
        stem, widths = cfg.stem_width, [cfg.width * 2**i for i in range(4)]
        exchanges = [n for modules, n in zip(cfg.num_modules, cfg.num_blocks[1:], strict=True) for _ in range(modules)]
        first, *rates = drop_path_rates(cfg.drop_path_rate, [cfg.num_blocks[0], *exchanges])
        self.conv1 = conv2d(cfg.in_chans, stem, 3, 2, bias=False)
        self.bn1 = BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv2d(stem, stem, 3, 2, bias=False)
        self.bn2 = BatchNorm2d(stem)
        self.act2 = nn.ReLU(inplace=True)
        wide = cfg.stage1_width * Bottleneck.expansion
        self.layer1 = Blocks(*(bottleneck(wide if i else stem, cfg.stage1_width, rate) for i, rate in enumerate(first)))
        path, last = ['conv2 bn2 act2 layer1'], [wide]
        for i, modules in enumerate(cfg.num_modules, 2):
            setattr(self, f'transition{i - 1}', Transition(last, widths[:i]))
            stage = Blocks(*(HighResolutionModule(widths[:i], rates.pop(0)) for _ in range(modules)))
            setattr(self, f'stage{i}', stage)
            path.append(f'transition{i - 1} stage{i}')
            last = widths[:i]
        outs = [planes * Bottleneck.expansion for planes in HEAD_WIDTHS]
        self.incre_modules = nn.ModuleList(
            nn.Sequential(bottleneck(width, planes)) for width, planes in zip(widths, HEAD_WIDTHS, strict=True)
        )
        self.downsamp_modules = nn.ModuleList(
            conv_bn(outs[i], outs[i + 1], stride=2, bias=cfg.conv_bias) for i in range(3)
        )
        self.final_layer = conv_bn(outs[-1], FEATURES, 1, bias=cfg.conv_bias)
        levels = [Level('conv1 bn1 act1', stem, 2), Level(' '.join([*path, 'incre_modules.0']), outs[0], 4)]
        levels += [Level(f'incre_modules.{i}', outs[i], 4 * 2**i) for i in range(1, 4)]
        self.feature_info = FeatureInfo(levels)
        self.global_pool = Pool(cfg.global_pool)
        self.num_features, self.head_hidden_size = FEATURES, FEATURES * self.global_pool.feat_mult
        self.classifier = classifier(self.head_hidden_size, cfg.num_classes)

    def trunk(self, x: Tensor, keep: Collection[int] = (), stop: int | None = None) -> tuple[Any, list[Any]]:
        stem, *levels = self.feature_info[:stop]
        maps = [self.run(stem.path, x)]
        kept = [maps] if 0 in keep else []
        if levels:
            *path, _ = levels[0].path.split()
            # all branches end together, behind the last exchange; then each level is one widened branch
            branches = self.run(' '.join(path), maps[0])
            maps = [self.run(level.path.split()[-1], x) for level, x in zip(levels, branches, strict=False)]
        return maps, kept + [maps[:i] for i, _ in enumerate(levels, 1) if i in keep]

    def finish(self, x: list[Tensor]) -> Tensor:
        if isinstance(self.final_layer, nn.Identity):  # cut off
            return x[-1]
        folded = x[0]
        for downsample, finer in zip(self.downsamp_modules, x[1:], strict=False):
            folded = finer + downsample(folded)
        return self.final_layer(folded)

    def to_map(self, x: list[Tensor] | Tensor, grid: Grid, fmt: str) -> Tensor:
        return super().to_map(x if isinstance(x, Tensor) else x[-1], grid, fmt)


register(
    __name__,
    HighResolutionNet,
    hrnet_w18_small=dict(width=16, stage1_width=32, num_modules=(1, 1, 1), num_blocks=(1, 2, 2, 2)),
    hrnet_w18_small_v2=dict(num_modules=(1, 3, 2), num_blocks=(2, 2, 2, 2)),
    hrnet_w18=dict(),
    hrnet_w30=dict(width=30),
    hrnet_w32=dict(width=32),
    hrnet_w40=dict(width=40),
    hrnet_w44=dict(width=44),
    hrnet_w48=dict(width=48),
    hrnet_w64=dict(width=64),
    hrnet_w18_ssld=dict(conv_bias=False),
    hrnet_w48_ssld=dict(width=48, conv_bias=False),
)
