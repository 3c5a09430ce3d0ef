"""ConvNeXt (arXiv:2201.03545) and ConvNeXt V2 (arXiv:2301.00808)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers import (
    Blocks,
    DropPath,
    Mlp,
    PoolHead,
    activation,
    conv2d,
    drop_path_rates,
    init_transformer,
    normalization,
    relayout,
)
from foveal.models.backbone import Backbone, Config, FeatureInfo, Level, Parts, Plan, dilate
from foveal.registry import register

STEMS = ('patch', 'overlap', 'overlap_tiered', 'overlap_act')


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig(Config):
    """Options of ConvNeXt."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    kernel_sizes: tuple[int, ...] | int = 7
    stem_type: str = 'patch'  # one of STEMS; all reduce by 4
    ls_init_value: float | None = 1e-6  # None: no layer scale (V2)
    conv_mlp: bool = False  # the MLP as 1x1 convolutions: same function, other weight shapes
    conv_bias: bool = True
    use_grn: bool = False  # global response norm in the MLP (V2)
    norm_layer: str = 'layernorm'
    norm_eps: float = 1e-6
    act_layer: str = 'gelu'
    head_norm_first: bool = False  # norm, pool, classify; the paper pools first
    head_hidden_size: int | None = None
    output_stride: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem_type not in STEMS:
            raise ValueError(f'stem_type {self.stem_type!r} is unknown{near(self.stem_type, STEMS)}')

    def norm(self, dim: int, layout: str = 'NCHW') -> nn.Module:
        """The family's norm over `dim` channels."""
        return normalization(self.norm_layer, dim, layout, eps=self.norm_eps)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, MLP, layer scale, residual (figure 4 of the paper)."""

    def __init__(self, cfg: ConvNeXtConfig, dim: int, kernel: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        self.layout = 'NCHW' if cfg.conv_mlp else 'NHWC'
        self.conv_dw = conv2d(dim, dim, kernel, dilation=dilation, groups=dim, bias=cfg.conv_bias)
        self.norm = cfg.norm(dim, self.layout)
        self.mlp = Mlp(dim, 4 * dim, act_layer=cfg.act_layer, layout=self.layout, grn=cfg.use_grn)
        self.gamma = None if cfg.ls_init_value is None else nn.Parameter(torch.full((dim,), cfg.ls_init_value))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = relayout(self.conv_dw(x), 'NCHW', self.layout)
        y = relayout(self.mlp(self.norm(y)), self.layout, 'NCHW')
        y = self.drop_path(y)
        return x + y if self.gamma is None else torch.addcmul(x, y, self.gamma[:, None, None])


class ConvNeXtStage(nn.Module):
    """A downsampling, then blocks."""

    def __init__(self, cfg: ConvNeXtConfig, i: int, plan: Plan, drop_paths: list[float]) -> None:
        super().__init__()
        last, dim = cfg.dims[max(i - 1, 0)], cfg.dims[i]
        kernel = cfg.kernel_sizes if isinstance(cfg.kernel_sizes, int) else cfg.kernel_sizes[i]
        self.downsample: nn.Module = nn.Identity()
        if i > 0 or last != dim:
            side = 2 if plan.stride > 1 or plan.dilation_in != plan.dilation else 1
            padding = 'same' if plan.dilation > 1 else 0
            conv = conv2d(last, dim, side, plan.stride, plan.dilation_in, bias=cfg.conv_bias, padding=padding)
            self.downsample = nn.Sequential(cfg.norm(last), conv)
        self.blocks = Blocks(*(ConvNeXtBlock(cfg, dim, kernel, plan.dilation, rate) for rate in drop_paths))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(Backbone):
    """ConvNeXt: a ResNet brought up to the design of vision transformers."""

    Config = ConvNeXtConfig
    parts = Parts(norm='norm_pre')
    initialize = staticmethod(init_transformer)

    def build(self, cfg: ConvNeXtConfig) -> None:
        dims, width = cfg.dims, cfg.dims[-1]
        plans, rates = dilate((1, 2, 2, 2), 4, cfg.output_stride), drop_path_rates(cfg.drop_path_rate, cfg.depths)
        self.stem = self.make_stem(cfg)
        self.stages = nn.Sequential(*(ConvNeXtStage(cfg, i, plans[i], rates[i]) for i in range(4)))
        self.feature_info = FeatureInfo([Level(f'stages.{i}', dims[i], plans[i].reduction) for i in range(4)])
        self.norm_pre = cfg.norm(width) if cfg.head_norm_first else nn.Identity()
        norm = None if cfg.head_norm_first else lambda dim: cfg.norm(dim, 'NHWC')
        self.head = PoolHead(
            width, cfg.num_classes, cfg.global_pool, cfg.drop_rate, norm, cfg.head_hidden_size, cfg.act_layer
        )
        self.num_features, self.head_hidden_size = width, self.head.num_features

    @staticmethod
    def make_stem(cfg: ConvNeXtConfig) -> nn.Sequential:
        """From the image to a quarter of its size: one patch convolution, or two overlapping ones."""
        dim = cfg.dims[0]
        if cfg.stem_type == 'patch':
            return nn.Sequential(conv2d(cfg.in_chans, dim, 4, 4, bias=cfg.conv_bias, padding=0), cfg.norm(dim))
        # half the width, in steps of 8 channels
        between = max(8, (dim // 2 + 4) // 8 * 8) if cfg.stem_type == 'overlap_tiered' else dim
        first = conv2d(cfg.in_chans, between, 3, 2, bias=cfg.conv_bias)
        act = [activation(cfg.act_layer)] if cfg.stem_type == 'overlap_act' else []
        return nn.Sequential(first, *act, conv2d(between, dim, 3, 2, bias=cfg.conv_bias), cfg.norm(dim))


def size(width: int, *depths: int, **options: Any) -> dict[str, Any]:
    """A variant whose width doubles from stage to stage."""
    return dict(dims=tuple(width * 2**i for i in range(4)), depths=depths, **options)


mobile: dict[str, Any] = dict(conv_mlp=True)
tiered: dict[str, Any] = dict(conv_mlp=True, stem_type='overlap_tiered')
v2: dict[str, Any] = dict(use_grn=True, ls_init_value=None)

register(
    __name__,
    ConvNeXt,
    convnext_zepto_rms=size(32, 2, 2, 4, 2, **mobile, norm_layer='simplenorm'),
    convnext_zepto_rms_ols=size(32, 2, 2, 4, 2, **mobile, norm_layer='simplenorm', stem_type='overlap_act'),
    convnext_atto=size(40, 2, 2, 6, 2, **mobile),
    convnext_atto_ols=size(40, 2, 2, 6, 2, **tiered),
    convnext_atto_rms=size(40, 2, 2, 6, 2, **mobile, norm_layer='rmsnorm2d'),
    convnext_femto=size(48, 2, 2, 6, 2, **mobile),
    convnext_femto_ols=size(48, 2, 2, 6, 2, **tiered),
    convnext_pico=size(64, 2, 2, 6, 2, **mobile),
    convnext_pico_ols=size(64, 2, 2, 6, 2, **tiered),
    convnext_nano=size(80, 2, 2, 8, 2, **mobile),
    convnext_nano_ols=size(80, 2, 2, 8, 2, **mobile, stem_type='overlap'),
    convnext_tiny=size(96, 3, 3, 9, 3),
    convnext_tiny_hnf=size(96, 3, 3, 9, 3, **mobile, head_norm_first=True),
    convnext_small=size(96, 3, 3, 27, 3),
    convnext_base=size(128, 3, 3, 27, 3),
    convnext_large=size(192, 3, 3, 27, 3),
    convnext_large_mlp=size(192, 3, 3, 27, 3, head_hidden_size=1536),
    convnext_xlarge=size(256, 3, 3, 27, 3),
    convnext_xxlarge=size(384, 3, 4, 30, 3, norm_eps=1e-5),
    convnextv2_atto=size(40, 2, 2, 6, 2, **mobile, **v2),
    convnextv2_femto=size(48, 2, 2, 6, 2, **mobile, **v2),
    convnextv2_pico=size(64, 2, 2, 6, 2, **mobile, **v2),
    convnextv2_nano=size(80, 2, 2, 8, 2, **mobile, **v2),
    convnextv2_tiny=size(96, 3, 3, 9, 3, **v2),
    convnextv2_small=size(96, 3, 3, 27, 3, **v2),
    convnextv2_base=size(128, 3, 3, 27, 3, **v2),
    convnextv2_large=size(192, 3, 3, 27, 3, **v2),
    convnextv2_huge=size(352, 3, 3, 27, 3, **v2),
    test_convnext=dict(depths=(1, 2, 4, 2), dims=(24, 32, 48, 64), norm_eps=1e-5, act_layer='gelu_tanh'),
    test_convnext2=dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), norm_eps=1e-5, act_layer='gelu_tanh'),
    test_convnext3=dict(
        depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), norm_eps=1e-5, act_layer='silu', kernel_sizes=(7, 5, 5, 3)
    ),
)
