"""Swin Transformer (arXiv:2103.14030), and the sizes found by search in S3 (arXiv:2111.14725)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveal.layers import Blocks, DropPath, Mlp, PatchEmbed, PoolHead, drop_path_rates, init_transformer, normalization
from foveal.layers.conv import Size, pair
from foveal.layers.dot_product import dot_product_attention
from foveal.layers.init import truncated_normal
from foveal.layers.relative_position import RelativePositionBias
from foveal.layers.window import pad_to_windows, shift_mask, window_partition, window_reverse
from foveal.models.backbone import Backbone, Config, FeatureInfo, Grid, Level, Parts
from foveal.registry import register


@dataclass(frozen=True, kw_only=True)
class SwinTransformerConfig(Config):
    """Options of Swin."""

    img_size: Size = 224
    patch_size: Size = 4
    embed_dim: int = 96  # of the first stage; each next one doubles it
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    head_dim: int | None = None  # None: the channels divided among the heads
    window_size: int | tuple[Size, ...] = 7  # of all stages, (high, wide) of all stages, or one a stage
    always_partition: bool = False  # keep window and shift where a window covers the whole map
    strict_img_size: bool = True  # images of another size are an error
    dynamic_img_size: bool = False  # images of any size that divides into patches
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    norm_layer: str = 'layernorm'

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f'num_heads {self.num_heads} and depths {self.depths} must have one value a stage each')
        for stage, heads in enumerate(self.num_heads):
            if self.head_dim is None and self.embed_dim * 2**stage % heads:
                dim = self.embed_dim * 2**stage
                raise ValueError(f'num_heads {self.num_heads} must divide the channels: stage {stage} has {dim}')
        for name in ('img_size', 'patch_size', *(['window_size'] if isinstance(self.window_size, int) else [])):
            if min(pair(getattr(self, name))) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)!r}')
        if any(side % patch for side, patch in zip(pair(self.img_size), pair(self.patch_size), strict=True)):
            raise ValueError(f'img_size {self.img_size} must be a multiple of patch_size {self.patch_size}')
        if not isinstance(self.window_size, int) and len(self.window_size) not in (2, len(self.depths)):
            raise ValueError(
                f'window_size {self.window_size} must be a number, (high, wide), or one of these for each of the '
                f'{len(self.depths)} stages'
            )

    def windows(self) -> list[Grid]:
        """(high, wide) of the windows of each stage."""
        if isinstance(self.window_size, int) or len(self.window_size) != len(self.depths):
            return [pair(self.window_size)] * len(self.depths)  # type: ignore[arg-type]
        return [pair(size) for size in self.window_size]

    def grids(self) -> list[Grid]:
        """(height, width) of the map of each stage."""
        (height, width), (high, wide) = pair(self.img_size), pair(self.patch_size)
        return [(-(-height // (high << stage)), -(-width // (wide << stage))) for stage in range(len(self.depths))]


class WindowAttention(RelativePositionBias):
    """Attention inside windows, with a learned bias for every offset (section 3.2 of the paper, equation 4).

    Args:
        dim: channels.
        num_heads: heads.
        head_dim: channels of a head; `dim // num_heads` if not given.
        window_size: side of the windows, or (high, wide).
        qkv_bias: learn a bias for queries, keys and values.
        attn_drop: dropout of the attention weights, in [0, 1).
        proj_drop: dropout of the output, in [0, 1).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        window_size: Size = 7,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.attn_drop = num_heads, attn_drop
        inner = num_heads * (head_dim or dim // num_heads)
        self.make_table(pair(window_size), num_heads)
        self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: windows (batch * windows, high * wide, dim).
            mask: (windows, high * wide, high * wide), added to the scores of every head.
        """
        count, length, _ = x.shape
        q, k, v = self.qkv(x).view(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias()
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).repeat(count // mask.shape[0], 1, 1, 1)
        x = dot_product_attention(q, k, v, bias, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class SwinTransformerBlock(nn.Module):
    """Attention in windows, which every second block shifts by half of their size, then an MLP (figure 3b)."""

    attn_mask: Tensor | None

    def __init__(self, cfg: SwinTransformerConfig, stage: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        dim, window = cfg.embed_dim * 2**stage, cfg.windows()[stage]
        self.shifted, self.always_partition = shifted, cfg.always_partition
        self.norm1 = normalization(cfg.norm_layer, dim)
        size = cfg.grids()[stage]
        self.attn = WindowAttention(
            dim,
            cfg.num_heads[stage],
            cfg.head_dim,
            self.fit(window, size),
            cfg.qkv_bias,
            cfg.attn_drop_rate,
            cfg.proj_drop_rate,
        )
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = normalization(cfg.norm_layer, dim)
        self.mlp = Mlp(dim, int(dim * cfg.mlp_ratio), drop=cfg.proj_drop_rate)
        self.drop_path2 = DropPath(drop_path)
        self.prepare(size)

    def fit(self, window: Grid, size: Grid) -> Grid:
        """A window that is no larger than a map of `size`."""
        return window if self.always_partition else (min(window[0], size[0]), min(window[1], size[1]))

    def shift(self, size: Grid) -> Grid:
        """How far the windows of a map of `size` are shifted: not where one window covers it."""
        high, wide = (
            window // 2 if self.shifted and (self.always_partition or side > window) else 0
            for side, window in zip(size, self.attn.window_size, strict=True)
        )
        return high, wide

    def prepare(self, size: Grid, device: torch.device | None = None) -> None:
        """Keep the mask of maps of `size`; those of other sizes are made as they come."""
        self.input_resolution, shift = size, self.shift(size)
        mask = shift_mask(size, self.attn.window_size, shift, device) if any(shift) else None
        self.register_buffer('attn_mask', mask, persistent=False)

    def reset_buffers(self) -> None:
        """Compute the mask, which no checkpoint holds."""
        self.prepare(self.input_resolution, self.attn.proj.weight.device)

    def set_input_size(self, size: Grid, window: Grid, always_partition: bool) -> None:
        """Prepare for maps and windows of another size."""
        self.always_partition = always_partition
        self.attn.set_window_size(self.fit(window, size))
        self.prepare(size, self.attn.proj.weight.device)

    def attend(self, x: Tensor) -> Tensor:
        """Attention inside the windows of a map (batch, height, width, channels)."""
        size, window = (x.shape[1], x.shape[2]), self.attn.window_size
        (down, right), mask = self.shift(size), self.attn_mask
        if not (down or right):
            mask = None
        elif size != self.input_resolution:
            mask = shift_mask(size, window, (down, right), x.device)
        # the fill of maps that windows do not divide comes after the shift, as in the published checkpoints' numbers
        x = pad_to_windows(x.roll((-down, -right), (1, 2)) if mask is not None else x, window)
        x = window_reverse(self.attn(window_partition(x, window), mask), window, (x.shape[1], x.shape[2]))
        x = x[:, : size[0], : size[1]]
        return x.roll((down, right), (1, 2)) if mask is not None else x

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attend(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halve a map (batch, height, width, dim): a linear layer over the channels of 2 x 2 positions, to 2 * dim."""

    def __init__(self, dim: int, norm_layer: str) -> None:
        super().__init__()
        self.norm = normalization(norm_layer, 4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_windows(x, (2, 2))
        # the four positions in column order
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class SwinTransformerStage(nn.Module):
    """A merging of patches, then blocks."""

    def __init__(self, cfg: SwinTransformerConfig, stage: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        dim = cfg.embed_dim * 2**stage
        self.downsample = PatchMerging(dim // 2, cfg.norm_layer) if stage else nn.Identity()
        self.blocks = Blocks(
            *(SwinTransformerBlock(cfg, stage, i % 2 == 1, drop_path) for i, drop_path in enumerate(drop_paths))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


def init_swin(module: nn.Module) -> None:
    """As other transformers, and the tables of biases like the linear weights."""
    init_transformer(module)
    if isinstance(module, WindowAttention):
        truncated_normal(module.relative_position_bias_table)


class SwinTransformer(Backbone):
    """Swin: a pyramid of transformer stages whose attention stays inside windows that shift from block to block."""

    Config = SwinTransformerConfig
    parts = Parts(stem='patch_embed', layout='NHWC')
    initialize = staticmethod(init_swin)
    cfg: SwinTransformerConfig

    def build(self, cfg: SwinTransformerConfig) -> None:
        count = len(cfg.depths)
        rates = drop_path_rates(cfg.drop_path_rate, cfg.depths)
        width = cfg.embed_dim * 2 ** (count - 1)
        self.patch_embed = PatchEmbed(
            cfg.img_size,
            cfg.patch_size,
            cfg.in_chans,
            cfg.embed_dim,
            cfg.norm_layer,
            output_fmt='NHWC',
            strict_img_size=cfg.strict_img_size and not cfg.dynamic_img_size,
        )
        self.layers = nn.Sequential(*(SwinTransformerStage(cfg, i, rates[i]) for i in range(count)))
        self.norm = normalization(cfg.norm_layer, width)
        self.head = PoolHead(width, cfg.num_classes, cfg.global_pool, cfg.drop_rate, layout='NHWC')
        self.num_features, self.head_hidden_size = width, self.head.num_features
        self.feature_info = FeatureInfo(self.levels(cfg))

    @staticmethod
    def levels(cfg: SwinTransformerConfig) -> list[Level]:
        """The stages as feature levels."""
        step = max(pair(cfg.patch_size))
        return [Level(f'layers.{i}', cfg.embed_dim * 2**i, step * 2**i) for i in range(len(cfg.depths))]

    def set_input_size(  # type: ignore[override]
        self,
        img_size: Size | None = None,
        patch_size: Size | None = None,
        window_size: Size | None = None,
        window_ratio: int = 8,
        always_partition: bool | None = None,
    ) -> None:
        """Prepare for images, patches or windows of another size; patch weights and tables of biases are resized.

        Args:
            img_size: side of the images, or (height, width); the present one if not given.
            patch_size: side of the patches, or (high, wide); the present one if not given.
            window_size: side of all windows, or (high, wide).
            window_ratio: without `window_size`, windows are this fraction of the first stage's map (published weights
                have 8: 7 for images of 224, 12 for 384).
            always_partition: keep window and shift where a window covers the whole map.
        """
        options: dict[str, Any] = dict(img_size=img_size, patch_size=patch_size, always_partition=always_partition)
        cfg = replace(self.cfg, **{name: value for name, value in options.items() if value is not None})
        high, wide = cfg.grids()[0]
        window = (max(high // window_ratio, 1), max(wide // window_ratio, 1)) if window_size is None else window_size
        self.cfg = cfg = replace(cfg, window_size=pair(window))
        self.patch_embed.set_input_size(cfg.img_size, cfg.patch_size)
        self.feature_info[:] = self.levels(cfg)[: len(self.feature_info)]
        stages: Any = self.layers  # fewer than the config has, where they were pruned
        for stage, size, window in zip(stages, cfg.grids(), cfg.windows(), strict=False):
            for block in stage.blocks:
                block.set_input_size(size, window, cfg.always_partition)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith('relative_position_bias_table')}


def size(embed_dim: int, heads: int, *depths: int, window: Any = 7, **options: Any) -> dict[str, Any]:
    """A variant of some width, heads and depths; heads double from stage to stage."""
    heads_of = tuple(heads * 2**i for i in range(4))
    return dict(embed_dim=embed_dim, num_heads=heads_of, depths=depths, window_size=window, **options)


register(
    __name__,
    SwinTransformer,
    swin_tiny_patch4_window7_224=size(96, 3, 2, 2, 6, 2),
    swin_small_patch4_window7_224=size(96, 3, 2, 2, 18, 2),
    swin_base_patch4_window7_224=size(128, 4, 2, 2, 18, 2),
    swin_base_patch4_window12_384=size(128, 4, 2, 2, 18, 2, window=12),
    swin_large_patch4_window7_224=size(192, 6, 2, 2, 18, 2),
    swin_large_patch4_window12_384=size(192, 6, 2, 2, 18, 2, window=12),
    swin_s3_tiny_224=size(96, 3, 2, 2, 6, 2, window=(7, 7, 14, 7)),
    swin_s3_small_224=size(96, 3, 2, 2, 18, 2, window=(14, 14, 14, 7)),
    swin_s3_base_224=size(96, 3, 2, 2, 30, 2, window=(7, 7, 14, 7)),
)
