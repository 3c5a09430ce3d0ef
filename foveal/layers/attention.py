"""Multi-head self-attention over tokens (batch, length, channels)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveal.layers.dot_product import dot_product_attention
from foveal.layers.norm import RmsNorm, normalization

NormLayer = str | Callable[..., nn.Module]


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values (arXiv:1706.03762, section 3.2).

    Args:
        dim: channels.
        num_heads: heads; they divide `dim`.
        qkv_bias: learn a bias of the projection.
        qk_norm: normalise queries and keys per head (arXiv:2302.05442).
        scale_norm: normalise what goes into the output projection (arXiv:2110.09456).
        proj_bias: learn a bias of the output projection.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
        norm_layer: name or class of those norms.
        depth: index of the block, for attentions that depend on it.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: NormLayer = 'layernorm',
        depth: int = 0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'num_heads {num_heads} does not divide dim {dim}')
        self.num_heads, self.head_dim, self.attn_drop, self.depth = num_heads, dim // num_heads, attn_drop, depth
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = normalization(norm_layer, self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = normalization(norm_layer, self.head_dim) if qk_norm else nn.Identity()
        self.norm = normalization(norm_layer, dim) if scale_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        x = self.attend(self.q_norm(q), self.k_norm(k), v, attn_mask, is_causal)
        return self.proj_drop(self.proj(self.norm(merge_heads(x))))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """Weighted values (batch, heads, length, head channels)."""
        drop = self.attn_drop if self.training else 0.0
        return dot_product_attention(q, k, v, attn_mask, drop, is_causal)


class Differential(nn.Module):
    """The parameters and the arithmetic of differential attention, for whatever module holds the projections.

    One softmax map is subtracted from another, which cancels what both attend to in common (arXiv:2410.05258,
    equations 1 to 3).
    """

    lambda_q1: nn.Parameter
    lambda_k1: nn.Parameter
    lambda_q2: nn.Parameter
    lambda_k2: nn.Parameter

    def add_difference(self, head_dim: int, depth: int) -> None:
        """Make the parameters for heads of `head_dim` channels; `depth` is the index of the block (equation 3)."""
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * depth)
        for name in ('lambda_q1', 'lambda_k1', 'lambda_q2', 'lambda_k2'):
            setattr(self, name, nn.Parameter(torch.randn(head_dim // 2) * 0.1))
        self.sub_norm = RmsNorm(head_dim, eps=1e-5)

    def differ(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop: float, causal: bool) -> Tensor:
        """Values (batch, heads, length, head channels) weighted by the difference of two maps."""
        q1, q2 = q.chunk(2, dim=-1)
        k1, k2 = k.chunk(2, dim=-1)
        first = dot_product_attention(q1, k1, v, mask, drop, causal)
        second = dot_product_attention(q2, k2, v, mask, drop, causal)
        share = (self.lambda_q1 * self.lambda_k1).sum().exp() - (self.lambda_q2 * self.lambda_k2).sum().exp()
        return self.sub_norm(first - (share + self.lambda_init) * second) * (1.0 - self.lambda_init)


class DiffAttention(Attention, Differential):
    """`Attention` by the difference of two softmax maps, each over half the channels of a head."""

    def __init__(self, dim: int, num_heads: int = 8, depth: int = 0, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.add_difference(self.head_dim, depth)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        drop = self.attn_drop if self.training else 0.0
        return self.differ(q, k, v, attn_mask, drop, is_causal)


def split_heads(x: Tensor, heads: int, parts: int = 3) -> tuple[Tensor, ...]:
    """(batch, length, parts * channels) to `parts` tensors (batch, heads, length, head channels)."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, head channels) to (batch, length, channels)."""
    return x.transpose(1, 2).flatten(2)
