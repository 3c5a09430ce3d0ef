"""Vision transformers: ViT (arXiv:2010.11929) and those who keep its shape: CLIP, SigLIP, DINOv2, AIMv2, BEiT-3, ..."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers import Blocks, DropPath, LayerScale, Mlp, drop_path_rates, init_transformer, normalization
from foveal.layers.act import activation
from foveal.layers.attention import Attention, DiffAttention, Differential, NormLayer, merge_heads, split_heads
from foveal.layers.dot_product import dot_product_attention
from foveal.layers.glu import GluMlp
from foveal.layers.swiglu import SwiGLU
from foveal.models.backbone import FeatureInfo
from foveal.models.tokens import TokenBackbone, TokenConfig
from foveal.registry import register

FC_NORM_POOLS = ('avg', 'avgmax', 'max')


@dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig(TokenConfig):
    """Options of ViT."""

    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    scale_attn_norm: bool = False  # norm before the attention's output projection (BEiT-3)
    scale_mlp_norm: bool = False  # norm before the MLP's second layer (BEiT-3)
    proj_bias: bool = True
    init_values: float | None = None  # layer scale
    patch_bias: bool = True
    pre_norm: bool = False  # norm before the blocks (CLIP)
    final_norm: bool = True
    fc_norm: bool | None = None  # norm after the pooling instead of before; None: where tokens are averaged
    norm_layer: str = 'layernorm'
    norm_eps: float = 1e-6
    embed_norm_layer: str | None = None  # of the patches
    act_layer: str = 'gelu'
    block_fn: str = 'block'  # one of BLOCKS
    mlp_layer: str = 'mlp'  # one of MLPS
    attn_layer: str = 'attn'  # or 'diff'

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, legal in (('block_fn', BLOCKS), ('mlp_layer', MLPS), ('attn_layer', ATTENTIONS)):
            value = getattr(self, name)
            if value not in legal:
                raise ValueError(f'{name} {value!r} is unknown{near(value, legal)}')

    def norm(self, dim: int) -> nn.Module:
        """The family's norm over `dim` channels."""
        return normalization(self.norm_layer, dim, 'NLC', eps=self.norm_eps)


class Block(nn.Module):
    """Attention and MLP, each with a norm before, a layer scale and stochastic depth after, and a residual.

    Args:
        dim: channels.
        num_heads: heads of the attention.
        mlp_ratio: hidden channels of the MLP over `dim`.
        qkv_bias, qk_norm, scale_attn_norm, proj_bias, attn_drop: of `Attention`.
        scale_mlp_norm: normalise the hidden channels of the MLP.
        proj_drop: dropout of both outputs.
        init_values: layer scale at first; None for no layer scale.
        drop_path: stochastic depth of both branches.
        act_layer, norm_layer, mlp_layer, attn_layer: what it is made of, as names or classes.
        depth: index of the block.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_attn_norm: bool = False,
        scale_mlp_norm: bool = False,
        proj_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        act_layer: str | Callable[..., nn.Module] = 'gelu',
        norm_layer: NormLayer = 'layernorm',
        mlp_layer: str = 'mlp',
        attn_layer: str = 'attn',
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = normalization(norm_layer, dim), normalization(norm_layer, dim)
        self.attn = ATTENTIONS[attn_layer](
            dim, num_heads, qkv_bias=qkv_bias, qk_norm=qk_norm, scale_norm=scale_attn_norm, proj_bias=proj_bias,
            attn_drop=attn_drop, proj_drop=proj_drop, norm_layer=norm_layer, depth=depth,
        )  # fmt: skip
        self.mlp = MLPS[mlp_layer](
            dim, int(dim * mlp_ratio), act_layer=act_layer, bias=proj_bias, drop=proj_drop,
            norm_layer=norm_layer if scale_mlp_norm else None,
        )  # fmt: skip
        self.ls1, self.ls2 = (LayerScale(dim, init_values) if init_values else nn.Identity() for _ in range(2))
        self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask, is_causal)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class ResPostBlock(Block):
    """`Block` with the norms after attention and MLP (arXiv:2111.09883, section 3.2).

    `init_values` is what the norms' weights start at, in place of a layer scale.
    """

    def __init__(self, dim: int, num_heads: int, init_values: float | None = None, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        if init_values is not None:
            for norm in (self.norm1, self.norm2):
                norm.weight.data.fill_(init_values)  # type: ignore[operator]

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = x + self.drop_path1(self.norm1(self.attn(x, attn_mask, is_causal)))
        return x + self.drop_path2(self.norm2(self.mlp(x)))


class ParallelScalingBlock(nn.Module):
    """Attention and MLP side by side from one projection (arXiv:2302.05442, section 2). Arguments as for `Block`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        proj_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        act_layer: str | Callable[..., nn.Module] = 'gelu',
        norm_layer: NormLayer = 'layernorm',
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.hidden = num_heads, dim // num_heads, int(dim * mlp_ratio)
        self.attn_drop = attn_drop
        self.depth: int = depth
        self.in_norm = normalization(norm_layer, dim)
        self.in_proj = nn.Linear(dim, self.hidden + 3 * dim, bias=qkv_bias)
        # without a bias of the whole projection the MLP keeps one of its own
        self.mlp_bias = None if qkv_bias else nn.Parameter(torch.zeros(self.hidden))
        self.q_norm = normalization(norm_layer, self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = normalization(norm_layer, self.head_dim) if qk_norm else nn.Identity()
        self.mlp_drop = nn.Dropout(proj_drop)
        self.mlp_act = activation(act_layer)
        self.make_outputs(dim, proj_bias)
        self.ls = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def make_outputs(self, dim: int, bias: bool) -> None:
        self.attn_out_proj = nn.Linear(dim, dim, bias=bias)
        self.mlp_out_proj = nn.Linear(self.hidden, dim, bias=bias)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The activated hidden channels of the MLP, and queries, keys and values per head."""
        hidden, qkv = self.in_proj(self.in_norm(x)).tensor_split([self.hidden], dim=-1)
        q, k, v = split_heads(qkv, self.num_heads)
        hidden = hidden if self.mlp_bias is None else hidden + self.mlp_bias
        return self.mlp_drop(self.mlp_act(hidden)), self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        hidden, q, k, v = self.branches(x)
        drop = self.attn_drop if self.training else 0.0
        attended = merge_heads(dot_product_attention(q, k, v, attn_mask, drop, is_causal))
        return x + self.drop_path(self.ls(self.attn_out_proj(attended) + self.mlp_out_proj(hidden)))


class DiffParallelScalingBlock(ParallelScalingBlock, Differential):
    """`ParallelScalingBlock` with differential attention, and one projection out of both branches."""

    def make_outputs(self, dim: int, bias: bool) -> None:
        self.add_difference(self.head_dim, self.depth)
        self.out_proj = nn.Linear(dim + self.hidden, dim, bias=bias)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        hidden, q, k, v = self.branches(x)
        drop = self.attn_drop if self.training else 0.0
        attended = merge_heads(self.differ(q, k, v, attn_mask, drop, is_causal))
        return x + self.drop_path(self.ls(self.out_proj(torch.cat([attended, hidden], dim=-1))))


class Branch(nn.Module):
    """One of several parallel residual branches: norm, attention or MLP, layer scale, stochastic depth."""

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        dim: int,
        norm_layer: NormLayer = 'layernorm',
        init_values: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = normalization(norm_layer, dim)
        self.name = name
        self.add_module(name, layer)
        self.ls = LayerScale(dim, init_values) if init_values else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.ls(getattr(self, self.name)(self.norm(x))))


class ParallelThingsBlock(nn.Module):
    """Two attentions side by side, then two MLPs (arXiv:2203.09795).

    Args:
        dim: channels.
        num_heads: heads of the attentions.
        mlp_ratio: hidden channels of the MLPs over `dim`.
        init_values, drop_path, norm_layer: of the branches.
        act_layer: of the MLPs.
        proj_drop: dropout of all outputs.
        attention: further options of `Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        norm_layer: NormLayer = 'layernorm',
        act_layer: str | Callable[..., nn.Module] = 'gelu',
        proj_drop: float = 0.0,
        **attention: Any,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = dict(norm_layer=norm_layer, init_values=init_values, drop_path=drop_path)
        self.attns, self.ffns = nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            attn = Attention(dim, num_heads, norm_layer=norm_layer, proj_drop=proj_drop, **attention)
            mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop)
            self.attns.append(Branch('attn', attn, dim, **options))
            self.ffns.append(Branch('mlp', mlp, dim, **options))

    def forward(self, x: Tensor) -> Tensor:
        x = x + sum(attn(x) for attn in self.attns)
        return x + sum(ffn(x) for ffn in self.ffns)


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    'block': Block,
    'post': ResPostBlock,
    'parallel': ParallelScalingBlock,
    'diff_parallel': DiffParallelScalingBlock,
    'parallel_things': ParallelThingsBlock,
}


def packed_swiglu(in_features: int, hidden_features: int, **options: Any) -> GluMlp:
    """SwiGLU with gate and value in one projection."""
    return GluMlp(in_features, hidden_features, gate_last=False, **options)


MLPS: dict[str, Callable[..., nn.Module]] = {'mlp': Mlp, 'swiglu': SwiGLU, 'swiglu_packed': packed_swiglu}
ATTENTIONS: dict[str, Callable[..., nn.Module]] = {'attn': Attention, 'diff': DiffAttention}


class VisionTransformer(TokenBackbone):
    """ViT: an image as a sequence of patches."""

    Config = VisionTransformerConfig
    initialize = staticmethod(init_transformer)

    def build(self, cfg: VisionTransformerConfig) -> None:
        pooled_norm = cfg.global_pool in FC_NORM_POOLS if cfg.fc_norm is None else cfg.fc_norm
        self.build_tokens(cfg, cfg.patch_bias and not cfg.pre_norm, cfg.embed_norm_layer and self.embed_norm)
        self.norm_pre = cfg.norm(cfg.embed_dim) if cfg.pre_norm else nn.Identity()
        (rates,) = drop_path_rates(cfg.drop_path_rate, [cfg.depth])
        self.blocks = Blocks(*(self.make_block(cfg, i, rate) for i, rate in enumerate(rates)))
        self.feature_info = FeatureInfo(self.level_info())
        self.norm = cfg.norm(cfg.embed_dim) if cfg.final_norm and not pooled_norm else nn.Identity()
        self.attn_pool = self.make_attn_pool(cfg)
        self.fc_norm = cfg.norm(cfg.embed_dim) if cfg.final_norm and pooled_norm else nn.Identity()
        self.head = nn.Linear(cfg.embed_dim, cfg.num_classes) if cfg.num_classes else nn.Identity()

    def embed_norm(self, dim: int) -> nn.Module:
        return normalization(self.cfg.embed_norm_layer, dim, 'NLC', eps=self.cfg.norm_eps)

    @staticmethod
    def make_block(cfg: VisionTransformerConfig, depth: int, drop_path: float) -> nn.Module:
        """The block at index `depth`."""
        options: dict[str, Any] = dict(
            mlp_ratio=cfg.mlp_ratio, qkv_bias=cfg.qkv_bias, qk_norm=cfg.qk_norm, proj_bias=cfg.proj_bias,
            proj_drop=cfg.proj_drop_rate, attn_drop=cfg.attn_drop_rate, init_values=cfg.init_values,
            drop_path=drop_path, act_layer=cfg.act_layer, norm_layer=cfg.norm, depth=depth,
        )  # fmt: skip
        if cfg.block_fn in ('block', 'post'):
            options |= dict(
                scale_attn_norm=cfg.scale_attn_norm, scale_mlp_norm=cfg.scale_mlp_norm, mlp_layer=cfg.mlp_layer,
                attn_layer=cfg.attn_layer,
            )  # fmt: skip
        return BLOCKS[cfg.block_fn](cfg.embed_dim, cfg.num_heads, **options)


# size -> width, depth, heads, hidden channels of the MLP over the width
SIZES: dict[str, tuple[int, int, int, float]] = {
    'tiny': (192, 12, 3, 4), 'xsmall': (256, 10, 4, 4), 'wee': (256, 14, 4, 5), 'pwee': (256, 16, 4, 5),
    'dwee': (256, 14, 4, 5), 'dpwee': (256, 16, 4, 5), 'little': (320, 14, 5, 5.6), 'dlittle': (320, 14, 5, 5.6),
    'small': (384, 12, 6, 4), 'medium': (512, 12, 8, 4), 'mediumd': (512, 20, 8, 4), 'betwixt': (640, 12, 10, 4),
    'base': (768, 12, 12, 4), 'so150m2': (832, 21, 13, 2.6154), 'so150m': (896, 18, 14, 2.572),
    'large': (1024, 24, 16, 4), 'intern300m': (1024, 24, 16, 4), 'so400m': (1152, 27, 16, 3.7362),
    'huge': (1280, 32, 16, 4), 'giant': (1408, 40, 16, 4.3637), 'giantopt': (1536, 40, 16, 4),
    'gigantic': (1664, 48, 16, 4.9231),
}  # fmt: skip


def vits(names: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Variants by names that say their size and patch: 'vit_tiny_patch16_224' is SIZES['tiny'] with patches of 16."""
    table = {}
    for name in names.split():
        said = re.search(r'_([a-z0-9]+?)(?:_distilled)?_patch(\d+)', name)
        assert said is not None, name
        width, depth, heads, ratio = SIZES[said[1]]
        size: dict[str, Any] = dict(
            embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=ratio, patch_size=int(said[2])
        )
        table[name] = {**size, **options}
    return table


def aimv2(width: int, heads: int, ratio: float) -> dict[str, dict[str, Any]]:
    """The AIMv2 encoders (arXiv:2411.14402) of one width, for their three image sizes."""
    size = {1024: 'large', 1536: 'huge', 2048: '1b', 3072: '3b'}[width]
    options: dict[str, Any] = dict(
        embed_dim=width, depth=24, num_heads=heads, mlp_ratio=ratio, patch_size=14, class_token=False
    )
    options |= dict(global_pool='avg', qkv_bias=False, proj_bias=False, mlp_layer='swiglu', norm_layer='rmsnorm')
    options |= dict(norm_eps=1e-5, embed_norm_layer='rmsnorm', fc_norm=False, act_layer='silu')
    return {f'aimv2_{size}_patch14_{side}': options for side in (224, 336, 448)}


clip: dict[str, Any] = dict(pre_norm=True, norm_eps=1e-5)
gap: dict[str, Any] = dict(class_token=False, global_pool='avg', fc_norm=False)
siglip: dict[str, Any] = dict(class_token=False, global_pool='map')
dinov2: dict[str, Any] = dict(init_values=1e-5)
reg: dict[str, Any] = dict(class_token=False, no_embed_class=True, global_pool='avg', init_values=1e-5)
giant2: dict[str, Any] = dict(
    embed_dim=1536, num_heads=24, mlp_ratio=5.33334, mlp_layer='swiglu_packed', act_layer='silu'
)
radio: dict[str, Any] = dict(no_embed_class=True, final_norm=False)
xp: dict[str, Any] = dict(
    pre_norm=True, no_embed_class=True, norm_layer='rmsnorm', block_fn='parallel', qkv_bias=False, qk_norm=True
)
beit3: dict[str, Any] = dict(scale_attn_norm=True, scale_mlp_norm=True, global_pool='avg', norm_eps=1e-5)
tips: dict[str, Any] = dict(reg_tokens=1, no_embed_class=True, init_values=1.0)
test: dict[str, Any] = dict(embed_dim=64, depth=6, num_heads=2, mlp_ratio=3, dynamic_img_size=True)

register(
    __name__,
    VisionTransformer,
    **vits("""
        vit_tiny_patch16_224 vit_tiny_patch16_384 vit_small_patch32_224 vit_small_patch32_384 vit_small_patch16_224
        vit_small_patch16_384 vit_small_patch8_224 vit_base_patch32_224 vit_base_patch32_384 vit_base_patch16_224
        vit_base_patch16_384 vit_base_patch8_224 vit_large_patch32_224 vit_large_patch32_384 vit_large_patch16_224
        vit_large_patch16_384 vit_large_patch14_224 vit_huge_patch14_224 vit_giant_patch14_224
        vit_gigantic_patch14_224"""),
    **vits('vit_base_patch16_224_miil', qkv_bias=False),
    **vits('vit_medium_patch16_gap_240 vit_medium_patch16_gap_256 vit_medium_patch16_gap_384 '
           'vit_betwixt_patch16_gap_256', **gap, qkv_bias=False, init_values=1e-6),
    **vits('vit_base_patch16_gap_224', **{**gap, 'num_heads': 16}),
    **vits('vit_giant_patch16_gap_224 vit_huge_patch14_gap_224 vit_huge_patch16_gap_448', **gap),
    **vits("""
        vit_xsmall_patch16_clip_224 vit_medium_patch32_clip_224 vit_medium_patch16_clip_224
        vit_betwixt_patch32_clip_224 vit_base_patch32_clip_224 vit_base_patch32_clip_256 vit_base_patch32_clip_384
        vit_base_patch32_clip_448 vit_base_patch16_clip_224 vit_base_patch16_clip_384 vit_large_patch14_clip_224
        vit_large_patch14_clip_336 vit_huge_patch14_clip_224 vit_huge_patch14_clip_336 vit_huge_patch14_clip_378
        vit_giant_patch14_clip_224 vit_gigantic_patch14_clip_224 vit_gigantic_patch14_clip_378""", **clip),
    **vits("""
        vit_base_patch32_clip_quickgelu_224 vit_base_patch16_clip_quickgelu_224 vit_large_patch14_clip_quickgelu_224
        vit_large_patch14_clip_quickgelu_336 vit_huge_patch14_clip_quickgelu_224 vit_huge_patch14_clip_quickgelu_378
        vit_gigantic_patch14_clip_quickgelu_224""", **clip, act_layer='quick_gelu'),
    vit_base_patch16_plus_clip_240=dict(embed_dim=896, num_heads=14, **clip),
    vit_base_patch32_plus_256=dict(embed_dim=896, num_heads=14, patch_size=32, init_values=1e-5),
    vit_base_patch16_plus_240=dict(embed_dim=896, num_heads=14, init_values=1e-5),
    **vits('vit_base_patch16_rpn_224', class_token=False, qkv_bias=False, init_values=1e-5, global_pool='avg',
           block_fn='post'),
    **vits('vit_small_patch16_36x1_224', depth=36, init_values=1e-5),
    **vits('vit_small_patch16_18x2_224 vit_base_patch16_18x2_224', depth=18, init_values=1e-5,
           block_fn='parallel_things'),
    **vits('eva_large_patch14_196 eva_large_patch14_336', global_pool='avg'),
    flexivit_small=dict(embed_dim=384, num_heads=6, no_embed_class=True),
    flexivit_base=dict(no_embed_class=True),
    flexivit_large=dict(embed_dim=1024, depth=24, num_heads=16, no_embed_class=True),
    **vits('vit_base_patch16_xp_224 vit_large_patch14_xp_224 vit_huge_patch14_xp_224', **xp),
    **vits('vit_small_patch14_dinov2 vit_base_patch14_dinov2 vit_large_patch14_dinov2', **dinov2),
    **vits('vit_small_patch14_reg4_dinov2 vit_base_patch14_reg4_dinov2 vit_large_patch14_reg4_dinov2',
           **dinov2, reg_tokens=4, no_embed_class=True),
    **vits('vit_giant_patch14_dinov2', **dinov2, **giant2),
    **vits('vit_giant_patch14_reg4_dinov2', **dinov2, **giant2, reg_tokens=4, no_embed_class=True),
    **vits('vit_base_patch14_reg1_tipsv2 vit_large_patch14_reg1_tipsv2 vit_so400m_patch14_reg1_tipsv2', **tips),
    **vits('vit_giant_patch14_reg1_tipsv2', **tips, **giant2),
    **vits("""
        vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384 vit_base_patch16_siglip_512
        vit_large_patch16_siglip_256 vit_large_patch16_siglip_384 vit_so400m_patch14_siglip_224
        vit_so400m_patch14_siglip_378""", **siglip),
    **vits('vit_so400m_patch14_siglip_384', **siglip, crop_remainder=True),
    **vits("""
        vit_base_patch32_siglip_256 vit_large_patch16_siglip_512 vit_so400m_patch16_siglip_256
        vit_so400m_patch16_siglip_384 vit_so400m_patch16_siglip_512 vit_giantopt_patch16_siglip_256
        vit_giantopt_patch16_siglip_384""", **siglip, act_layer='gelu_tanh'),
    **vits("""
        vit_base_patch16_siglip_gap_224 vit_base_patch16_siglip_gap_256 vit_base_patch16_siglip_gap_384
        vit_base_patch16_siglip_gap_512 vit_large_patch16_siglip_gap_256 vit_large_patch16_siglip_gap_384
        vit_so400m_patch14_siglip_gap_224 vit_so400m_patch14_siglip_gap_378 vit_so400m_patch14_siglip_gap_448
        vit_so400m_patch14_siglip_gap_896""", **gap),
    **vits('vit_so400m_patch14_siglip_gap_384', **gap, crop_remainder=True),
    **vits("""
        vit_base_patch32_siglip_gap_256 vit_large_patch16_siglip_gap_512 vit_so400m_patch16_siglip_gap_256
        vit_so400m_patch16_siglip_gap_384 vit_so400m_patch16_siglip_gap_512 vit_giantopt_patch16_siglip_gap_256
        vit_giantopt_patch16_siglip_gap_384""", **gap, act_layer='gelu_tanh'),
    **vits('vit_wee_patch16_reg1_gap_256 vit_little_patch16_reg1_gap_256 vit_medium_patch16_reg1_gap_256 '
           'vit_betwixt_patch16_reg1_gap_256', **reg, reg_tokens=1),
    **vits('vit_dwee_patch16_reg1_gap_256 vit_dlittle_patch16_reg1_gap_256', **reg, reg_tokens=1, attn_layer='diff'),
    **vits('vit_pwee_patch16_reg1_gap_256', **reg, reg_tokens=1, block_fn='parallel'),
    **vits('vit_dpwee_patch16_reg1_gap_256', **reg, reg_tokens=1, block_fn='diff_parallel'),
    **vits('vit_little_patch16_reg4_gap_256 vit_medium_patch16_reg4_gap_256 vit_mediumd_patch16_reg4_gap_256 '
           'vit_mediumd_patch16_reg4_gap_384 vit_betwixt_patch16_reg4_gap_256 vit_betwixt_patch16_reg4_gap_384',
           **reg, reg_tokens=4),
    **vits('vit_base_patch16_reg4_gap_256', **{**reg, 'init_values': None}, reg_tokens=4),
    **vits('vit_so150m_patch16_reg4_map_256', class_token=False, reg_tokens=4, global_pool='map'),
    **vits('vit_so150m_patch16_reg4_gap_256 vit_so150m_patch16_reg4_gap_384', **gap, reg_tokens=4),
    **vits('vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384 vit_so150m2_patch16_reg1_gap_448',
           class_token=False, reg_tokens=1, global_pool='avg', qkv_bias=False, init_values=1e-5),
    **vits('vit_intern300m_patch14_448', init_values=0.1, final_norm=False, dynamic_img_size=True),
    **vits('vit_base_patch16_radio_v3 vit_large_patch16_radio_v3', **radio, reg_tokens=7, init_values=1e-5),
    **vits('vit_huge_patch16_radio_v3', **radio, reg_tokens=7),
    **vits('vit_giant_patch16_radio_v3', **radio, reg_tokens=7, embed_dim=1536, num_heads=24, mlp_ratio=4),
    **vits('vit_huge_patch16_radio_v4 vit_so400m_patch16_radio_v4', **radio, reg_tokens=9),
    **vits('beit3_base_patch16_224 beit3_large_patch16_224 beit3_giant_patch14_224 beit3_giant_patch14_336', **beit3),
    **aimv2(1024, 8, 2.75), **aimv2(1536, 12, 2.66667), **aimv2(2048, 16, 2.75), **aimv2(3072, 24, 2.66667),
    test_vit=test,
    test_vit2={**test, 'depth': 8, **reg, 'no_embed_class': False, 'reg_tokens': 1},
    test_vit3={**test, **reg, 'embed_dim': 96, 'depth': 9, 'num_heads': 3, 'mlp_ratio': 2, 'reg_tokens': 1,
               'no_embed_class': False, 'global_pool': 'map', 'pool_include_prefix': True, 'dynamic_img_size': False},
    test_vit4={**test, **reg, 'embed_dim': 96, 'depth': 9, 'num_heads': 3, 'reg_tokens': 1, 'no_embed_class': False,
               'norm_layer': 'rmsnorm'},
)  # fmt: skip
