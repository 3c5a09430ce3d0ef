"""Pooling of tokens (batch, length, channels) by attention."""

import torch
from torch import Tensor, nn

from foveal.layers.attention import NormLayer, merge_heads, split_heads
from foveal.layers.dot_product import dot_product_attention
from foveal.layers.mlp import Mlp
from foveal.layers.norm import normalization


class AttentionPoolLatent(nn.Module):
    """A learned query attends to all tokens, then an MLP: the MAP head (arXiv:2106.04560, section 3.2).

    Args:
        dim: channels.
        num_heads: heads; they divide `dim`.
        mlp_ratio: hidden channels of the MLP over `dim`.
        norm_layer: name or class of the norm before the MLP.
        act_layer: activation of the MLP.
        drop: dropout after the projection.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        norm_layer: NormLayer = 'layernorm',
        act_layer: str = 'gelu',
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)
        self.norm = normalization(norm_layer, dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer)

    def forward(self, x: Tensor) -> Tensor:
        (q,) = split_heads(self.q(self.latent.expand(x.shape[0], -1, -1)), self.num_heads, 1)
        k, v = split_heads(self.kv(x), self.num_heads, 2)
        y = self.proj_drop(self.proj(merge_heads(dot_product_attention(q, k, v))))
        return (y + self.mlp(self.norm(y)))[:, 0]


class AttentionPoolPrr(nn.Module):
    """The first token refined by parameter-free attention over all tokens.

    Args:
        num_heads: heads; they divide the channels.
    """

    def __init__(self, num_heads: int = 8) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        (tokens,) = split_heads(x, self.num_heads, 1)
        return merge_heads(dot_product_attention(tokens[:, :, :1], tokens, tokens))[:, 0]
