"""VGG (arXiv:1409.1556): 3x3 convolutions between five poolings, then three layers that see the whole map."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers import Blocks, PoolHead, activation, conv2d, normalization
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, Parts
from foveal.registry import register

WIDTHS = (64, 128, 256, 512, 512)


@dataclass(frozen=True, kw_only=True)
class VGGConfig(Config):
    """Options of VGG."""

    depths: tuple[int, ...] = (1, 1, 2, 2, 2)  # convolutions before each pooling, of WIDTHS channels
    hidden_size: int = 4096  # width of the two hidden layers
    act_layer: str = 'relu'
    norm_layer: str | None = None  # the paper has none

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) != len(WIDTHS) or min(self.depths) < 1:
            raise ValueError(f'depths must be {len(WIDTHS)} numbers of at least 1, got {self.depths!r}')
        if self.drop_path_rate:
            raise ValueError(f'drop_path_rate must be 0, got {self.drop_path_rate}: VGG has no residual path to drop')


class ConvMlp(nn.Sequential):
    """The hidden layers as convolutions, so that a larger map gives a map of answers (section 3.2 of the paper).

    Args:
        in_features: channels of the map (batch, channels, height, width).
        hidden: width of both layers.
        window: side of the window that the first layer sees; a smaller map is stretched to it.
        act_layer: activation after each layer.
        drop_rate: dropout between them.
    """

    def __init__(self, in_features: int, hidden: int, window: int, act_layer: str, drop_rate: float) -> None:
        layers = OrderedDict(
            fc1=conv2d(in_features, hidden, window, padding=0),
            act1=activation(act_layer, inplace=True),
            drop=nn.Dropout(drop_rate),
            fc2=conv2d(hidden, hidden, 1),
            act2=activation(act_layer, inplace=True),
        )
        super().__init__(layers)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height < self.window or width < self.window:
            x = F.adaptive_avg_pool2d(x, (max(height, self.window), max(width, self.window)))
        return super().forward(x)


class VGG(Backbone):
    """VGG, plain or with a norm after each convolution."""

    Config = VGGConfig
    parts = Parts(stem='', norm='', head='pre_logits head')

    def build(self, cfg: VGGConfig) -> None:
        layers: list[nn.Module] = []
        taps, channels = [0], cfg.in_chans
        for width, depth in zip(WIDTHS, cfg.depths, strict=True):
            for _ in range(depth):
                layers.append(conv2d(channels, width, 3))
                if cfg.norm_layer:
                    layers.append(normalization(cfg.norm_layer, width, 'NCHW'))
                layers.append(activation(cfg.act_layer, inplace=True))
                channels = width
            taps.append(len(layers))  # each level is tapped before the pooling that starts the next one
            layers.append(nn.MaxPool2d(2))
        taps.append(len(layers))
        self.features = Blocks(*layers)
        self.feature_info = FeatureInfo(
            [
                Level(f'features[{start}:{stop}]', width, 2**i)
                for i, ((start, stop), width) in enumerate(zip(pairwise(taps), (*WIDTHS, channels), strict=True))
            ]
        )
        self.pre_logits = ConvMlp(channels, cfg.hidden_size, 7, cfg.act_layer, cfg.drop_rate)
        self.head = PoolHead(cfg.hidden_size, cfg.num_classes, cfg.global_pool, cfg.drop_rate)
        self.num_features, self.head_hidden_size = channels, self.head.num_features

    def step(self, level: Level, x: Tensor) -> Tensor:
        # a level is recomputed whole: one layer at a time would keep as much as no checkpointing
        return self.features.call(self.child(level.path), x)


depths = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

register(
    __name__,
    VGG,
    **{f'vgg{layers}': dict(depths=numbers) for layers, numbers in depths.items()},
    **{f'vgg{layers}_bn': dict(depths=numbers, norm_layer='batchnorm') for layers, numbers in depths.items()},
)
