"""What flat transformers share: patches, prefix tokens, positions, token pooling."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers import Blocks, PatchDropout, PatchEmbed, relayout
from foveal.layers.attn_pool import AttentionPoolLatent, AttentionPoolPrr
from foveal.layers.conv import Size, pair
from foveal.layers.pool import Pool
from foveal.layers.position import resample_position_embedding
from foveal.models.backbone import Backbone, Config, Grid, Level, Parts

TOKEN_POOLS = ('', 'token', 'avg', 'max', 'avgmax', 'map', 'prr')


@dataclass(frozen=True, kw_only=True)
class TokenConfig(Config):
    """Options that flat transformers share."""

    img_size: Size = 224
    patch_size: Size = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    global_pool: str = 'token'  # one of TOKEN_POOLS
    class_token: bool = True
    reg_tokens: int = 0  # register tokens (arXiv:2309.16588)
    pos_embed: str = 'learn'  # or 'none'
    no_embed_class: bool = False  # positions for the patches alone
    pool_include_prefix: bool = False  # 'avg' and its kin pool the prefix tokens too
    dynamic_img_size: bool = False  # take images of any size that patches divide; positions are resampled
    dynamic_img_pad: bool = False  # pad images to whole patches
    crop_remainder: bool = False  # leave out the pixels below and right that fill no patch
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0  # of the patches while training (arXiv:2212.00794)
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.global_pool not in TOKEN_POOLS:
            raise ValueError(f'global_pool {self.global_pool!r} is unknown{near(self.global_pool, TOKEN_POOLS)}')
        if self.global_pool == 'token' and not self.class_token and not self.reg_tokens:
            raise ValueError("global_pool='token' needs class_token=True or reg_tokens; without, use 'avg' or 'map'")
        if self.pos_embed not in ('learn', 'none', ''):
            raise ValueError(f"pos_embed {self.pos_embed!r} is unknown; legal are 'learn' and 'none'")
        if self.embed_dim % self.num_heads:
            raise ValueError(f'num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}')
        self.check_image(pair(self.img_size), pair(self.patch_size), self.dynamic_img_pad or self.crop_remainder)

    def check_image(self, image: Grid, patch: Grid, any_size: bool) -> None:
        """Refuse images that patches do not divide.

        Raises:
            ValueError: with the nearest legal sizes, and with the option that pads where the family has it.
        """
        if min(image) < 1 or min(patch) < 1:
            raise ValueError(f'img_size and patch_size must be positive, got {image} and {patch}')
        if any_size or not (image[0] % patch[0] or image[1] % patch[1]):
            return
        below = tuple(max(i // p, 1) * p for i, p in zip(image, patch, strict=True))
        above = tuple((i // p + 1) * p for i, p in zip(image, patch, strict=True))
        pads = any(option.name == 'dynamic_img_pad' and option.init for option in fields(self))
        raise ValueError(
            f'img_size {image[0]}x{image[1]} does not divide into patches of {patch[0]}x{patch[1]}; '
            f'near are {below[0]}x{below[1]} and {above[0]}x{above[1]}{", or use dynamic_img_pad=True" * pads}'
        )


class TokenBackbone(Backbone):
    """A flat transformer: one level a block, all of one width, a norm that fits every level."""

    patch_embed: PatchEmbed
    norm_pre: nn.Module
    pos_embed: nn.Parameter | None
    cls_token: nn.Parameter | None
    reg_token: nn.Parameter | None
    attn_pool: nn.Module | None
    parts = Parts(stem='', head='', classifier='head', pre_logits='fc_norm', layout='NLC')
    out_indices: ClassVar[int | None] = 3
    late_prefix: ClassVar[bool] = False  # the prefix tokens join behind the levels, in `finish`
    blocks: Blocks

    def build_tokens(self, cfg: Any, bias: bool = True, norm_layer: Any = None) -> None:
        """Make what turns images into tokens: patch embedding, prefix tokens, positions, drops."""
        dim = cfg.embed_dim
        self.embed_dim = self.num_features = self.head_hidden_size = dim
        self.global_pool = cfg.global_pool
        self.build_prefix(cfg)
        self.patch_embed = PatchEmbed(
            cfg.img_size, cfg.patch_size, cfg.in_chans, dim, norm_layer=norm_layer, bias=bias,
            output_fmt='NHWC', strict_img_size=not cfg.dynamic_img_size, dynamic_img_pad=cfg.dynamic_img_pad,
        )  # fmt: skip
        self.pos_embed = None
        if cfg.pos_embed == 'learn':
            high, wide = self.patch_embed.dynamic_feat_size(pair(cfg.img_size))
            count = high * wide + (0 if cfg.no_embed_class else self.num_prefix_tokens)
            self.pos_embed = nn.Parameter(torch.randn(1, count, dim) * 0.02)
        self.resample = cfg.dynamic_img_size or cfg.dynamic_img_pad
        self.pos_drop = nn.Dropout(cfg.pos_drop_rate)
        self.patch_drop = PatchDropout(cfg.patch_drop_rate, self.level_prefix)

    def build_prefix(self, cfg: Any) -> None:
        """Make the tokens before the patches."""
        dim, count = cfg.embed_dim, cfg.reg_tokens
        self.num_prefix_tokens = int(cfg.class_token) + count
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 1e-6) if cfg.class_token else None
        self.reg_token = nn.Parameter(torch.randn(1, count, dim) * 1e-6) if count else None

    def level_info(self) -> list[Level]:
        """One level a block."""
        reduction = max(self.patch_embed.patch_size)
        return [Level(f'blocks.{i}', self.embed_dim, reduction) for i in range(len(self.blocks))]

    @property
    def level_prefix(self) -> int:
        """How many tokens come before the patches in every level."""
        return 0 if self.late_prefix else self.num_prefix_tokens

    def prefix(self) -> list[Tensor]:
        """The tokens before the patches, each (1, count, channels)."""
        return [token for token in (self.cls_token, self.reg_token) if token is not None]

    def embed(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        grid = (x.shape[1], x.shape[2])
        x, positions = x.flatten(1, 2), self.positions(grid)
        prefix = [] if self.late_prefix else [token.expand(x.shape[0], -1, -1) for token in self.prefix()]
        if positions is not None and self.cfg.no_embed_class:
            x, positions = x + positions, None
        x = torch.cat([*prefix, x], dim=1) if prefix else x
        x = x if positions is None else x + positions
        return self.norm_pre(self.patch_drop(self.pos_drop(x)))

    def positions(self, grid: Grid) -> Tensor | None:
        """The position embedding for a grid of patches."""
        if self.pos_embed is None or not self.resample:
            return self.pos_embed
        prefix = 0 if self.cfg.no_embed_class else self.num_prefix_tokens
        return resample_position_embedding(self.pos_embed, grid, self.patch_embed.grid_size, prefix)

    def adapt(self, name: str, weight: Tensor) -> Tensor:
        """A checkpoint's positions for the present grid of patches."""
        if name != 'pos_embed' or weight.dim() != 3:
            return weight
        prefix = 0 if self.cfg.no_embed_class else self.num_prefix_tokens
        new = self.patch_embed.grid_size or self.patch_embed.dynamic_feat_size(pair(self.cfg.img_size))
        return resample_position_embedding(weight, new, self.published_grid(weight.shape[1] - prefix), prefix)

    def published_grid(self, count: int) -> Grid:
        """(height, width) of a checkpoint's grid of `count` patches: that of the published size, or else a square."""
        grid = self.patch_embed.dynamic_feat_size(self.pretrained_cfg.input_size[1:])
        side = math.isqrt(max(count, 0))
        if grid[0] * grid[1] == count:
            return grid
        if not side or side * side != count:
            raise ValueError(f'{count} positions are no square, and the published size has {grid[0]} x {grid[1]}')
        return side, side

    def step(self, level: Level, x: Tensor) -> Tensor:
        return self.blocks.call(self.child(level.path), x)

    def to_map(self, x: Tensor, grid: Grid, fmt: str) -> Tensor:
        return relayout(x[:, self.level_prefix :], 'NLC', fmt, grid)

    def grid(self, size: Sequence[int], index: int) -> Grid:
        return self.patch_embed.dynamic_feat_size((size[0], size[1]))

    def normalized(self, tap: Tensor, index: int) -> Tensor:
        return self.run(self.parts.norm, tap)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
        return_prefix_tokens: bool = False,
    ) -> Any:
        """As `Backbone.forward_intermediates`.

        Args:
            return_prefix_tokens: give each level as a pair of its map and its prefix tokens (batch, count, channels);
                the count is `num_prefix_tokens`, or 0 where they join behind the levels.
        """
        self.check_format(output_fmt)
        features, taps, grids = self.taps(x, indices, norm, stop_early, intermediates_only)
        maps: list[Any] = [self.to_map(tap, grid, output_fmt) for tap, grid in zip(taps, grids, strict=True)]
        if return_prefix_tokens:
            maps = [(m, tap[:, : self.level_prefix]) for m, tap in zip(maps, taps, strict=True)]
        return maps if intermediates_only else (features, maps)

    def get_intermediate_layers(
        self, x: Tensor, n: int | Collection[int] = 1, reshape: bool = False, return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Levels as users of DINO ask: the last `n`, or those of a list, as tokens or with `reshape` as maps."""
        return tuple(
            self.forward_intermediates(
                x, n if isinstance(n, int) else list(n), norm=norm, output_fmt='NCHW' if reshape else 'NLC',
                intermediates_only=True, return_prefix_tokens=return_prefix_tokens,
            )
        )  # fmt: skip

    def pool(self, x: Tensor) -> Any:
        if self.global_pool == 'token':
            return x[:, 0]
        whole = self.cfg.pool_include_prefix or self.global_pool in ('', 'prr')
        x = x if whole else x[:, self.num_prefix_tokens :]
        return self.attn_pool(x) if self.attn_pool is not None else Pool(self.global_pool, 'NLC')(x)

    def make_attn_pool(self, cfg: Any) -> nn.Module | None:
        """The pooling by attention, where `global_pool` asks for it."""
        if cfg.global_pool == 'map':
            return AttentionPoolLatent(
                cfg.embed_dim, cfg.num_heads, cfg.mlp_ratio, norm_layer=cfg.norm, act_layer=cfg.act_layer
            )
        return AttentionPoolPrr(cfg.num_heads) if cfg.global_pool == 'prr' else None

    def reset_pool(self, pool_type: str) -> None:
        if pool_type not in TOKEN_POOLS:
            raise ValueError(f'global_pool {pool_type!r} is unknown{near(pool_type, TOKEN_POOLS)}')
        if pool_type == 'map' and self.global_pool != 'map':
            raise ValueError("global_pool='map' has weights of its own: create the model with it")
        if pool_type == 'token' and not self.num_prefix_tokens:
            raise ValueError("global_pool='token' needs a class or register token, and this model has none")
        if pool_type != 'map':
            self.attn_pool = AttentionPoolPrr(self.cfg.num_heads) if pool_type == 'prr' else None
        self.global_pool = pool_type

    def set_input_size(self, img_size: Size | None = None, patch_size: Size | None = None, **options: Any) -> None:
        """Prepare for images, or patches, of another size: positions and patch weights are resampled.

        Args:
            img_size: side of the images, or (height, width).
            patch_size: side of a patch, or (height, width).

        Raises:
            ValueError: images that the patches do not divide.
        """
        super().set_input_size(**options)
        embed = self.patch_embed
        old = embed.grid_size
        size = pair(img_size or embed.img_size or self.cfg.img_size)
        patch = pair(patch_size or embed.patch_size)
        self.cfg.check_image(size, patch, self.cfg.dynamic_img_pad)
        embed.set_input_size(size, patch)
        if self.pos_embed is not None:
            prefix = 0 if self.cfg.no_embed_class else self.num_prefix_tokens
            new = embed.dynamic_feat_size(size)
            table = resample_position_embedding(self.pos_embed.detach(), new, old, prefix)
            self.pos_embed = nn.Parameter(table.clone(), requires_grad=self.pos_embed.requires_grad)
        self.feature_info[:] = [level._replace(reduction=max(patch)) for level in self.feature_info]
        self.cfg = replace(self.cfg, img_size=size, patch_size=patch)

    def no_weight_decay(self) -> set[str]:
        # the published set names all of them, whether a variant has them or not
        return {'pos_embed', 'cls_token', 'dist_token', 'reg_token'}

    def layer_depths(self) -> dict[str, int]:
        depths = super().layer_depths()
        return {name: len(self.blocks) + 1 if name.startswith('attn_pool.') else d for name, d in depths.items()}
