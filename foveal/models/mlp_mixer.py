"""Networks of linear layers over tokens and over channels.

MLP-Mixer (arXiv:2105.01601), ResMLP (arXiv:2105.03404), gMLP (arXiv:2105.08050), and gMixer: a Mixer with gated MLPs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers import Blocks, DropPath, Mlp, PatchEmbed, Pool, classifier, drop_path_rates, normalization
from foveal.layers.conv import Size, pair
from foveal.layers.glu import GatedMlp, GluMlp, SpatialGatingUnit
from foveal.layers.init import truncated_normal
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, Parts
from foveal.registry import register

MLPS: dict[str, type[nn.Module]] = {'mlp': Mlp, 'glu': GluMlp}


@dataclass(frozen=True, kw_only=True)
class MlpMixerConfig(Config):
    """Options of the mixers."""

    img_size: Size = 224  # the weights over tokens fit this size alone
    patch_size: Size = 16
    num_blocks: int = 8
    embed_dim: int = 512
    mlp_ratio: tuple[float, float] = (0.5, 4.0)  # hidden widths over tokens and over channels, in units of embed_dim
    block_layer: str = 'mixer'  # one of BLOCKS
    mlp_layer: str = 'mlp'  # one of MLPS, for mixer blocks
    act_layer: str = 'gelu'
    norm_layer: str = 'layernorm'  # 'affine' scales and shifts without normalising (ResMLP)
    init_values: float = 1e-4  # initial layer scale of ResMLP blocks
    proj_drop_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, table in (('block_layer', BLOCKS), ('mlp_layer', MLPS)):
            if getattr(self, name) not in table:
                raise ValueError(f'{name} {getattr(self, name)!r} is unknown{near(getattr(self, name), table)}')
        if any(side % patch for side, patch in zip(pair(self.img_size), pair(self.patch_size), strict=True)):
            raise ValueError(f'img_size {self.img_size} must be a multiple of patch_size {self.patch_size}')

    @property
    def tokens(self) -> int:
        """Number of patches of an image."""
        (height, width), (high, wide) = pair(self.img_size), pair(self.patch_size)
        return (height // high) * (width // wide)

    def norm(self) -> nn.Module:
        """The family's norm over the channels of tokens."""
        if self.norm_layer == 'affine':
            return Affine(self.embed_dim)
        return normalization(self.norm_layer, self.embed_dim, eps=1e-6)

    def mlp(self, layer: str, dim: int, ratio: float) -> nn.Module:
        """An MLP over `dim` tokens or channels."""
        return MLPS[layer](dim, int(self.embed_dim * ratio), act_layer=self.act_layer, drop=self.proj_drop_rate)


class Affine(nn.Module):
    """Scale and shift every channel (arXiv:2105.03404, equation 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class MixerBlock(nn.Module):
    """An MLP over the tokens of each channel, then one over the channels of each token (MLP-Mixer, equation 1)."""

    def __init__(self, cfg: MlpMixerConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = cfg.norm()
        self.mlp_tokens = cfg.mlp(cfg.mlp_layer, cfg.tokens, cfg.mlp_ratio[0])
        self.drop_path = DropPath(drop_path)
        self.norm2 = cfg.norm()
        self.mlp_channels = cfg.mlp(cfg.mlp_layer, cfg.embed_dim, cfg.mlp_ratio[1])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        return x + self.drop_path(self.mlp_channels(self.norm2(x)))


class ResBlock(nn.Module):
    """A linear layer over the tokens, then an MLP over the channels, both scaled (ResMLP, equations 2 and 3)."""

    def __init__(self, cfg: MlpMixerConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = cfg.norm()
        self.linear_tokens = nn.Linear(cfg.tokens, cfg.tokens)
        self.drop_path = DropPath(drop_path)
        self.norm2 = cfg.norm()
        self.mlp_channels = cfg.mlp('mlp', cfg.embed_dim, cfg.mlp_ratio[1])
        self.ls1 = nn.Parameter(torch.full((cfg.embed_dim,), cfg.init_values))
        self.ls2 = nn.Parameter(torch.full((cfg.embed_dim,), cfg.init_values))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1 * self.linear_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        return x + self.drop_path(self.ls2 * self.mlp_channels(self.norm2(x)))


class SpatialGatingBlock(nn.Module):
    """An MLP over the channels, in which tokens mix by a gate (gMLP, figure 1)."""

    def __init__(self, cfg: MlpMixerConfig, drop_path: float) -> None:
        super().__init__()
        hidden = int(cfg.embed_dim * cfg.mlp_ratio[1])
        self.norm = cfg.norm()
        self.mlp_channels = GatedMlp(cfg.embed_dim, hidden, cfg.tokens, cfg.act_layer, cfg.proj_drop_rate)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp_channels(self.norm(x)))


BLOCKS: dict[str, type[MixerBlock] | type[ResBlock] | type[SpatialGatingBlock]] = {
    'mixer': MixerBlock,
    'resmlp': ResBlock,
    'gmlp': SpatialGatingBlock,
}


def init_mixer(module: nn.Module) -> None:
    """Weights from a truncated normal of variance 1 / fan_in, biases zero (the code in MLP-Mixer's appendix E)."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        truncated_normal(module.weight, module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MlpMixer(Backbone):
    """Patches, then blocks that mix tokens and channels by linear layers alone."""

    Config = MlpMixerConfig
    parts = Parts(head='', classifier='head', layout='NLC')
    out_indices = 3
    initialize = staticmethod(init_mixer)
    cfg: MlpMixerConfig

    def build(self, cfg: MlpMixerConfig) -> None:
        dim, block = cfg.embed_dim, BLOCKS[cfg.block_layer]
        (rates,) = drop_path_rates(cfg.drop_path_rate, (cfg.num_blocks,))
        self.stem = PatchEmbed(cfg.img_size, cfg.patch_size, cfg.in_chans, dim)
        self.blocks = Blocks(*(block(cfg, rate) for rate in rates))
        self.norm = cfg.norm()
        self.global_pool = Pool(cfg.global_pool, 'NLC')
        self.num_features, self.head_hidden_size = dim, dim * self.global_pool.feat_mult
        self.head = classifier(self.head_hidden_size, cfg.num_classes)
        step = max(pair(cfg.patch_size))
        self.feature_info = FeatureInfo([Level(f'blocks.{i}', dim, step) for i in range(cfg.num_blocks)])

    def init_weights(self) -> None:
        super().init_weights()
        for module in self.modules():
            if isinstance(module, SpatialGatingUnit):
                module.init_weights()

    def set_input_size(self, img_size: Size | None = None, **options: Any) -> None:
        super().set_input_size(img_size, **options)
        if img_size is not None and pair(img_size) != pair(self.cfg.img_size):
            raise ValueError(
                f'the weights over tokens fit images of {self.cfg.img_size} alone, img_size={img_size} asks'
            )


def size(num_blocks: int, embed_dim: int, patch_size: int = 16, **options: Any) -> dict[str, Any]:
    """A variant of some depth and width."""
    return dict(num_blocks=num_blocks, embed_dim=embed_dim, patch_size=patch_size, **options)


gmixer: dict[str, Any] = dict(mlp_ratio=(1.0, 4.0), mlp_layer='glu', act_layer='silu')
resmlp: dict[str, Any] = dict(block_layer='resmlp', norm_layer='affine')
gmlp: dict[str, Any] = dict(block_layer='gmlp', mlp_ratio=(0.0, 6.0))

register(
    __name__,
    MlpMixer,
    mixer_s32_224=size(8, 512, 32),
    mixer_s16_224=size(8, 512),
    mixer_b32_224=size(12, 768, 32),
    mixer_b16_224=size(12, 768),
    mixer_l32_224=size(24, 1024, 32),
    mixer_l16_224=size(24, 1024),
    gmixer_12_224=size(12, 384, **gmixer),
    gmixer_24_224=size(24, 384, **gmixer),
    resmlp_12_224=size(12, 384, **resmlp),
    resmlp_24_224=size(24, 384, **resmlp, init_values=1e-5),
    resmlp_36_224=size(36, 384, **resmlp, init_values=1e-6),
    resmlp_big_24_224=size(24, 768, 8, **resmlp, init_values=1e-6),
    gmlp_ti16_224=size(30, 128, **gmlp),
    gmlp_s16_224=size(30, 256, **gmlp),
    gmlp_b16_224=size(30, 512, **gmlp),
)
