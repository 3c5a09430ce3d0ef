"""BEiT (arXiv:2106.08254) and BEiT v2 (arXiv:2208.06366): ViT pre-trained on masked images, with relative positions."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers import Blocks, Mlp, classifier, drop_path_rates, init_transformer, normalization
from foveal.layers.attention import Attention, merge_heads, split_heads
from foveal.layers.conv import Size, pair
from foveal.layers.relative_position import RelativePositionBias
from foveal.layers.scale import ScaledBlock
from foveal.layers.swiglu import SwiGLU
from foveal.models.backbone import FeatureInfo, Grid
from foveal.models.tokens import TokenBackbone, TokenConfig
from foveal.models.vision_transformer import FC_NORM_POOLS
from foveal.registry import register


@dataclass(frozen=True, kw_only=True)
class BeitConfig(TokenConfig):
    """Options of BEiT."""

    global_pool: str = 'avg'
    class_token: bool = field(init=False, default=True)
    reg_tokens: int = field(init=False, default=0)
    no_embed_class: bool = field(init=False, default=False)
    # the tables of relative positions are of one grid, and of all its patches
    dynamic_img_size: bool = field(init=False, default=False)
    dynamic_img_pad: bool = field(init=False, default=False)
    patch_drop_rate: float = field(init=False, default=0.0)
    pos_embed: str = field(init=False, default='none')
    use_abs_pos_emb: bool = False  # learned positions, as in ViT
    use_rel_pos_bias: bool = True  # a table of relative positions in every block
    use_shared_rel_pos_bias: bool = False  # one table for all blocks, as in pre-training
    mlp_ratio: float = 4.0
    swiglu_mlp: bool = False  # gated MLP (arXiv:2002.05202)
    scale_mlp: bool = False  # norm before the MLP's second layer
    qkv_bias: bool = True  # of queries and values; the softmax takes out one of keys
    init_values: float | None = None  # layer scale
    norm_layer: str = 'layernorm'
    norm_eps: float = 1e-6
    act_layer: str = 'gelu'  # of the MLP that is not gated

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, 'pos_embed', 'learn' if self.use_abs_pos_emb else 'none')

    def norm(self, dim: int) -> nn.Module:
        """The family's norm over `dim` channels."""
        return normalization(self.norm_layer, dim, 'NLC', eps=self.norm_eps)

    @property
    def grid(self) -> Grid:
        """(height, width) in patches."""
        (height, width), (high, wide) = pair(self.img_size), pair(self.patch_size)
        return height // high, width // wide


class BeitAttention(Attention):
    """Self-attention with biases of queries and values, and none of keys."""

    def __init__(self, cfg: BeitConfig) -> None:
        dim = cfg.embed_dim
        super().__init__(dim, cfg.num_heads, attn_drop=cfg.attn_drop_rate, proj_drop=cfg.proj_drop_rate)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if cfg.qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if cfg.qkv_bias else None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = split_heads(F.linear(x, self.qkv.weight, bias), self.num_heads)
        return self.proj_drop(self.proj(merge_heads(self.attend(q, k, v, attn_mask, is_causal))))


class RelativeAttention(BeitAttention, RelativePositionBias):
    """`BeitAttention` with a table of relative positions of its own."""

    def __init__(self, cfg: BeitConfig) -> None:
        super().__init__(cfg)
        self.make_table(cfg.grid, cfg.num_heads, class_token=True)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        bias = self.bias() if attn_mask is None else self.bias() + attn_mask
        return super().forward(x, bias, is_causal)


class SharedBias(RelativePositionBias):
    """The table of relative positions that all blocks share: (1, num_heads, length, length) for their scores."""

    def __init__(self, cfg: BeitConfig) -> None:
        super().__init__()
        self.make_table(cfg.grid, cfg.num_heads, class_token=True)

    def forward(self) -> Tensor:
        return self.bias()


class Beit(TokenBackbone):
    """BEiT: a ViT whose attention knows how far apart two patches are."""

    Config = BeitConfig
    initialize = staticmethod(init_transformer)

    def build(self, cfg: BeitConfig) -> None:
        pooled_norm = cfg.global_pool in FC_NORM_POOLS
        self.build_tokens(cfg)
        self.norm_pre = nn.Identity()
        self.rel_pos_bias = SharedBias(cfg) if cfg.use_shared_rel_pos_bias else None
        (rates,) = drop_path_rates(cfg.drop_path_rate, [cfg.depth])
        self.blocks = Blocks(*(self.make_block(cfg, rate) for rate in rates))
        self.feature_info = FeatureInfo(self.level_info())
        self.norm = nn.Identity() if pooled_norm else cfg.norm(cfg.embed_dim)
        self.attn_pool = self.make_attn_pool(cfg)
        self.fc_norm = cfg.norm(cfg.embed_dim) if pooled_norm else nn.Identity()
        self.head = classifier(cfg.embed_dim, cfg.num_classes)

    def build_prefix(self, cfg: BeitConfig) -> None:
        self.num_prefix_tokens, self.reg_token = 1, None
        self.cls_token = nn.Parameter(torch.randn(1, 1, cfg.embed_dim) * 0.02)

    @staticmethod
    def make_block(cfg: BeitConfig, drop_path: float) -> ScaledBlock:
        """A block with the rate of its stochastic depth."""
        dim, hidden = cfg.embed_dim, int(cfg.embed_dim * cfg.mlp_ratio)
        attn = RelativeAttention(cfg) if cfg.use_rel_pos_bias else BeitAttention(cfg)
        options: dict[str, Any] = dict(drop=cfg.proj_drop_rate, norm_layer=cfg.norm if cfg.scale_mlp else None)
        mlp = SwiGLU(dim, hidden, **options) if cfg.swiglu_mlp else Mlp(dim, hidden, act_layer=cfg.act_layer, **options)
        return ScaledBlock(attn, mlp, cfg.norm(dim), cfg.norm(dim), dim, cfg.init_values, drop_path)

    def init_weights(self) -> None:
        super().init_weights()
        # what the l-th block adds is divided by sqrt(2 l), so that a deep sum stays small (section 2.5)
        with torch.no_grad():
            for depth, block in enumerate(self.blocks, 1):
                for layer in (block.attn.proj, block.mlp.fc2):  # type: ignore[union-attr]
                    layer.weight /= (2 * depth) ** 0.5  # type: ignore[union-attr]

    def trunk(self, x: Tensor, keep: Collection[int] = (), stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        x, kept = self.embed(x), []
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias()
        for i, level in enumerate(self.feature_info[:stop]):
            x = self.blocks.call(self.child(level.path), x, bias)
            if i in keep:
                kept.append(x)
        return x, kept

    def set_input_size(self, img_size: Size | None = None, patch_size: Size | None = None, **options: Any) -> None:
        super().set_input_size(img_size, patch_size, **options)
        for module in self.modules():
            if isinstance(module, RelativePositionBias):
                module.set_window_size(self.cfg.grid)

    def no_weight_decay(self) -> set[str]:
        tables = {name for name, _ in self.named_parameters() if name.endswith('relative_position_bias_table')}
        return tables | {'pos_embed', 'cls_token'}


base: dict[str, Any] = dict(init_values=0.1)
large: dict[str, Any] = dict(embed_dim=1024, depth=24, num_heads=16, init_values=1e-5)

register(
    __name__,
    Beit,
    beit_base_patch16_224=base,
    beit_base_patch16_384=base,
    beit_large_patch16_224=large,
    beit_large_patch16_384=large,
    beit_large_patch16_512=large,
    beitv2_base_patch16_224=dict(init_values=1e-5),
    beitv2_large_patch16_224=large,
)
