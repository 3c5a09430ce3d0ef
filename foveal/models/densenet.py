"""DenseNet (arXiv:1608.06993): every layer sees the maps of all layers before it in its block."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers import Blocks, Pool, anti_alias, classifier, conv2d
from foveal.layers.norm_act import norm_act
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, Parts
from foveal.registry import register

STEMS = ('', 'deep', 'deep_tiered')


@dataclass(frozen=True, kw_only=True)
class DenseNetConfig(Config):
    """Options of DenseNet."""

    growth_rate: int = 32  # maps that a layer adds
    block_config: tuple[int, ...] = (6, 12, 24, 16)  # layers of each block
    bn_size: int = 4  # width of a layer's bottleneck, in growth rates
    stem_type: str = ''  # one 7x7 convolution, or three 3x3 ones ('deep', 'deep_tiered')
    act_layer: str = 'relu'
    norm_layer: str = 'batchnorm'
    aa_layer: str | None = None  # blur before the stem's pooling strides (arXiv:1904.11486)
    proj_drop_rate: float = 0.0  # dropout after each layer (section 3 of the paper)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem_type not in STEMS:
            raise ValueError(f'stem_type {self.stem_type!r} is unknown; legal are {", ".join(map(repr, STEMS))}')
        if self.drop_path_rate:
            raise ValueError(f'drop_path_rate must be 0, got {self.drop_path_rate}: DenseNet has no path to drop')

    def norm(self, dim: int) -> nn.Module:
        """The family's norm over `dim` channels, and its activation."""
        return norm_act(self.norm_layer, dim, self.act_layer)


class DenseLayer(nn.Module):
    """Norm, 1x1 convolution, norm, 3x3 convolution, of all maps so far (section 3, "bottleneck layers")."""

    def __init__(self, cfg: DenseNetConfig, width: int) -> None:
        super().__init__()
        inside = cfg.bn_size * cfg.growth_rate
        self.norm1 = cfg.norm(width)
        self.conv1 = conv2d(width, inside, 1, bias=False)
        self.norm2 = cfg.norm(inside)
        self.conv2 = conv2d(inside, cfg.growth_rate, 3, bias=False)
        self.drop_rate = cfg.proj_drop_rate

    def forward(self, *maps: Tensor) -> Tensor:
        x = self.conv1(self.norm1(torch.cat(maps, 1)))
        return F.dropout(self.conv2(self.norm2(x)), self.drop_rate, self.training)


class DenseBlock(Blocks):
    """Layers that each add `growth_rate` maps.

    They take the maps one by one and join them inside, so that checkpointing keeps no joined map (arXiv:1707.06990).
    """

    def __init__(self, cfg: DenseNetConfig, width: int, depth: int) -> None:
        layers = {f'denselayer{i + 1}': DenseLayer(cfg, width + i * cfg.growth_rate) for i in range(depth)}
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self:
            maps.append(self.call(layer, *maps))
        return torch.cat(maps, 1)


class DenseTransition(nn.Sequential):
    """Between two blocks: half the channels, half the side."""

    def __init__(self, cfg: DenseNetConfig, width: int) -> None:
        conv = conv2d(width, width // 2, 1, bias=False)
        super().__init__(OrderedDict(norm=cfg.norm(width), conv=conv, pool=nn.AvgPool2d(2)))


class DenseNet(Backbone):
    """DenseNet: blocks of densely connected layers."""

    Config = DenseNetConfig
    parts = Parts(stem='', norm='', head='', classifier='classifier')

    def build(self, cfg: DenseNetConfig) -> None:
        features = self.make_stem(cfg)
        width, reduction = 2 * cfg.growth_rate, 2
        levels, path = [Level(paths(features), width, reduction)], ['pool0']
        features['pool0'] = self.make_pool(cfg)
        for i, depth in enumerate(cfg.block_config, 1):
            features[f'denseblock{i}'] = DenseBlock(cfg, width, depth)
            path.append(f'denseblock{i}')
            width, reduction = width + depth * cfg.growth_rate, reduction * 2
            if i == len(cfg.block_config):
                features['norm5'] = cfg.norm(width)
                path.append('norm5')
            levels.append(Level(paths(path), width, reduction))
            if i < len(cfg.block_config):
                features[f'transition{i}'] = DenseTransition(cfg, width)
                path, width = [f'transition{i}'], width // 2
        self.features = nn.Sequential(features)
        self.feature_info = FeatureInfo(levels)
        self.global_pool = Pool(cfg.global_pool)
        self.num_features, self.head_hidden_size = width, width * self.global_pool.feat_mult
        self.classifier = classifier(self.head_hidden_size, cfg.num_classes)

    @staticmethod
    def make_stem(cfg: DenseNetConfig) -> OrderedDict[str, nn.Module]:
        """From the image to half of its size: one convolution or three."""
        width = 2 * cfg.growth_rate
        if not cfg.stem_type:
            return OrderedDict(conv0=conv2d(cfg.in_chans, width, 7, 2, bias=False), norm0=cfg.norm(width))
        first, second = width // 2, width // 2
        if cfg.stem_type == 'deep_tiered':
            first, second = 3 * width // 8, 3 * width // 4
        stem: OrderedDict[str, nn.Module] = OrderedDict()
        channels = cfg.in_chans
        for i, out in enumerate((first, second, width)):
            stem[f'conv{i}'] = conv2d(channels, out, 3, 1 if i else 2, bias=False)
            stem[f'norm{i}'] = cfg.norm(out)
            channels = out
        return stem

    @staticmethod
    def make_pool(cfg: DenseNetConfig) -> nn.Module:
        """The stem's pooling; it strides by 2."""
        if cfg.aa_layer is None:
            return nn.MaxPool2d(3, 2, 1)
        return nn.Sequential(nn.MaxPool2d(3, 1, 1), anti_alias(cfg.aa_layer))


def paths(names: Any) -> str:
    """The paths of children of `features`."""
    return ' '.join(f'features.{name}' for name in names)


register(
    __name__,
    DenseNet,
    densenet121=dict(),
    densenetblur121d=dict(stem_type='deep', aa_layer='blur'),
    densenet169=dict(block_config=(6, 12, 32, 32)),
    densenet201=dict(block_config=(6, 12, 48, 32)),
    densenet161=dict(growth_rate=48, block_config=(6, 12, 36, 24)),
    densenet264d=dict(growth_rate=48, block_config=(6, 12, 64, 48), stem_type='deep'),
)
