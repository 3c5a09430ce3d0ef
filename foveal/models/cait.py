"""CaiT (arXiv:2103.17239): deep vision transformers whose class token joins behind the blocks of the patches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers import Blocks, Mlp, classifier, init_transformer, normalization
from foveal.layers.attention import Attention, merge_heads, split_heads
from foveal.layers.dot_product import dot_product_attention
from foveal.layers.scale import ScaledBlock
from foveal.models.backbone import FeatureInfo
from foveal.models.tokens import TokenBackbone, TokenConfig
from foveal.registry import register


@dataclass(frozen=True, kw_only=True)
class CaitConfig(TokenConfig):
    """Options of CaiT."""

    class_token: bool = field(init=False, default=True)
    reg_tokens: int = field(init=False, default=0)
    no_embed_class: bool = field(init=False, default=True)  # it joins behind the positions
    depth_token_only: int = 2  # class-attention blocks, behind the `depth` blocks of the patches
    mlp_ratio: float = 4.0
    mlp_ratio_token_only: float = 4.0
    qkv_bias: bool = True
    init_values: float = 1e-5  # layer scale; less in deeper models (section 2)
    norm_layer: str = 'layernorm'
    norm_eps: float = 1e-6
    act_layer: str = 'gelu'

    def norm(self, dim: int) -> nn.Module:
        """The family's norm over `dim` channels."""
        return normalization(self.norm_layer, dim, 'NLC', eps=self.norm_eps)


class TalkingHeadAttention(Attention):
    """Self-attention whose heads are mixed before and after the softmax (arXiv:2003.02436)."""

    def __init__(self, dim: int, num_heads: int, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.proj_l, self.proj_w = nn.Linear(num_heads, num_heads), nn.Linear(num_heads, num_heads)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        weights = mix_heads((q * self.head_dim**-0.5) @ k.mT, self.proj_l).softmax(-1)
        weights = F.dropout(mix_heads(weights, self.proj_w), self.attn_drop, self.training)
        return self.proj_drop(self.proj(merge_heads(weights @ v)))


def mix_heads(scores: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer over the heads of (batch, heads, queries, keys).

    As an einsum: without permuting, forward and backward of two such layers took 10 ms instead of 14 for 8 images, 4
    heads and 196 tokens on two cores, and forward alone 3.9 instead of 9.3.
    """
    return torch.einsum('oh,bhqk->boqk', layer.weight, scores) + layer.bias[:, None, None]


class ClassAttention(nn.Module):
    """The first of the tokens attends to all of them (section 3): (batch, length, dim) to (batch, 1, dim)."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=qkv_bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(y, self.num_heads, 1)[0] for y in (self.q(x[:, :1]), self.k(x), self.v(x)))
        return self.proj(merge_heads(dot_product_attention(q, k, v)))


class ClassBlock(ScaledBlock):
    """A block for the class token alone, which reads the patches and leaves them as they are (section 3)."""

    def forward(self, token: Tensor, patches: Tensor) -> Tensor:
        attended = self.attn(self.norm1(torch.cat([token, patches], dim=1)))
        token = self.add(token, attended, self.gamma_1)
        return self.add(token, self.mlp(self.norm2(token)), self.gamma_2)


class Cait(TokenBackbone):
    """CaiT: blocks of talking-head attention over the patches, then class attention."""

    Config = CaitConfig
    initialize = staticmethod(init_transformer)
    parts = TokenBackbone.parts._replace(pre_logits='')
    late_prefix = True

    def build(self, cfg: CaitConfig) -> None:
        self.build_tokens(cfg)
        self.norm_pre = nn.Identity()
        self.blocks = Blocks(*(self.make_block(cfg) for _ in range(cfg.depth)))
        self.blocks_token_only = Blocks(*(self.make_class_block(cfg) for _ in range(cfg.depth_token_only)))
        self.feature_info = FeatureInfo(self.level_info())
        self.norm = cfg.norm(cfg.embed_dim)
        self.attn_pool = self.make_attn_pool(cfg)
        self.head = classifier(cfg.embed_dim, cfg.num_classes)

    def build_prefix(self, cfg: CaitConfig) -> None:
        self.num_prefix_tokens, self.reg_token = 1, None
        self.cls_token = nn.Parameter(torch.randn(1, 1, cfg.embed_dim) * 0.02)

    @staticmethod
    def make_block(cfg: CaitConfig) -> ScaledBlock:
        """A block of the patches; stochastic depth has one rate for all of them, as the authors trained."""
        dim, drop = cfg.embed_dim, cfg.proj_drop_rate
        attn = TalkingHeadAttention(
            dim, cfg.num_heads, qkv_bias=cfg.qkv_bias, attn_drop=cfg.attn_drop_rate, proj_drop=drop
        )
        mlp = Mlp(dim, int(dim * cfg.mlp_ratio), act_layer=cfg.act_layer, drop=drop)
        return ScaledBlock(attn, mlp, cfg.norm(dim), cfg.norm(dim), dim, cfg.init_values, cfg.drop_path_rate)

    @staticmethod
    def make_class_block(cfg: CaitConfig) -> ClassBlock:
        """A block of the class token, where nothing is dropped."""
        dim = cfg.embed_dim
        attn = ClassAttention(dim, cfg.num_heads, cfg.qkv_bias)
        mlp = Mlp(dim, int(dim * cfg.mlp_ratio_token_only), act_layer=cfg.act_layer)
        return ClassBlock(attn, mlp, cfg.norm(dim), cfg.norm(dim), dim, cfg.init_values)

    def finish(self, x: Tensor) -> Tensor:
        if self.cls_token is not None:
            token = self.cls_token.expand(len(x), -1, -1)
            for block in self.blocks_token_only:
                token = self.blocks_token_only.call(block, token, x)
            x = torch.cat([token, x], dim=1)
        return self.norm(x)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        wanted = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.cls_token, self.blocks_token_only, self.num_prefix_tokens = None, Blocks(), 0
        return wanted

    def no_weight_decay(self) -> set[str]:
        return {'pos_embed', 'cls_token'}

    def layer_depths(self) -> dict[str, int]:
        # as published recipes have it: the class attention lies beside the last blocks of the patches, not behind them
        depths, last, late = super().layer_depths(), len(self.blocks), len(self.blocks_token_only)
        return {name: depth - late if depth > last else depth for name, depth in depths.items()}


def size(embed_dim: int, depth: int, init_values: float = 1e-5) -> dict[str, Any]:
    """A variant of some width and depth, with heads of 48 channels."""
    return dict(embed_dim=embed_dim, depth=depth, num_heads=embed_dim // 48, init_values=init_values)


register(
    __name__,
    Cait,
    cait_xxs24_224=size(192, 24),
    cait_xxs24_384=size(192, 24),
    cait_xxs36_224=size(192, 36),
    cait_xxs36_384=size(192, 36),
    cait_xs24_384=size(288, 24),
    cait_s24_224=size(384, 24),
    cait_s24_384=size(384, 24),
    cait_s36_384=size(384, 36, 1e-6),
    cait_m36_384=size(768, 36, 1e-6),
    cait_m48_448=size(768, 48, 1e-6),
)
