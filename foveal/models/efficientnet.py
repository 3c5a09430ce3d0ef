"""EfficientNet and its kin: every network of inverted residuals with a convolution before the pooling.

EfficientNet (arXiv:1905.11946), V2 (arXiv:2104.00298), Lite, EdgeTPU, X and H (arXiv:2102.05610), CondConv
(arXiv:1904.04971), MixNet (arXiv:1907.09595), MNASNet (arXiv:1807.11626), MobileNet V1 (arXiv:1704.04861) and V2
(arXiv:1801.04381), FBNet-C (arXiv:1812.03443), Single-Path NAS (arXiv:1904.02877), TinyNet (arXiv:2010.14819).
`tf_` marks weights that were trained with TensorFlow's padding and batch-norm eps.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from foveal.layers import Pool, classifier
from foveal.models.backbone import Parts
from foveal.models.mbconv import TF, MobileBackbone, MobileConfig, round_channels, swap
from foveal.registry import register

B0 = (
    'ds_r1_k3_s1_e1_c16_se0.25',
    'ir_r2_k3_s2_e6_c24_se0.25',
    'ir_r2_k5_s2_e6_c40_se0.25',
    'ir_r3_k3_s2_e6_c80_se0.25',
    'ir_r3_k5_s1_e6_c112_se0.25',
    'ir_r4_k5_s2_e6_c192_se0.25',
    'ir_r1_k3_s1_e6_c320_se0.25',
)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(MobileConfig):
    """Options of EfficientNet; the defaults are B0."""

    block_args: tuple[str, ...] = B0
    act_layer: str = 'silu'
    num_features: int = 1280  # channels before the pooling; 0: no convolution there
    output_stride: int = 32


class EfficientNet(MobileBackbone):
    """EfficientNet: depth, width and resolution scaled together."""

    Config = EfficientNetConfig
    parts = Parts(stem='', norm='conv_head bn2', head='', classifier='classifier')

    def build(self, cfg: EfficientNetConfig) -> None:
        width = self.build_trunk(cfg)
        self.num_features = cfg.num_features or width
        self.conv_head = cfg.conv(width, cfg.num_features, 1) if cfg.num_features else nn.Identity()
        self.bn2 = cfg.norm(cfg.num_features, cfg.act_layer) if cfg.num_features else nn.Identity()
        self.global_pool = Pool(cfg.global_pool)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult
        self.classifier = classifier(self.head_hidden_size, cfg.num_classes)


def scaled(width: float, depth: Any = 1.0, **options: Any) -> dict[str, Any]:
    """Compound scaling: the head grows with the width unless `options` fix it."""
    features = round_channels(1280 * width, options.get('channel_divisor', 8))
    return dict(num_features=features) | options | dict(channel_multiplier=width, depth_multiplier=depth)


SIZES = dict(
    b0=(1.0, 1.0), b1=(1.0, 1.1), b2=(1.1, 1.2), b3=(1.2, 1.4), b4=(1.4, 1.8), b5=(1.6, 2.2), b6=(1.8, 2.6),
    b7=(2.0, 3.1), b8=(2.2, 3.6), l2=(4.3, 5.3),
)  # fmt: skip
SIZED: dict[str, dict[str, Any]] = {name: scaled(*size) for name, size in SIZES.items()}

LITE = swap(B0, ('_se0.25', ''))
LITES: dict[str, dict[str, Any]] = {
    f'lite{i}': scaled(*size, block_args=LITE, act_layer='relu6', fix_first_last=True, fix_stem=True, num_features=1280)
    for i, size in enumerate([(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)])
}

EDGE = (
    'er_r1_k3_s1_e4_c24_fc24_noskip',
    'er_r2_k3_s2_e8_c32',
    'er_r4_k3_s2_e8_c48',
    'ir_r5_k5_s2_e8_c96',
    'ir_r4_k5_s1_e8_c144',
    'ir_r2_k5_s2_e8_c192',
)
EDGES: dict[str, dict[str, Any]] = {
    name: scaled(*size, block_args=EDGE, act_layer='relu')
    for name, size in dict(es=(1.0, 1.0), em=(1.0, 1.1), el=(1.2, 1.4)).items()
}

CC = (*B0[:4], *(f'{stage}_cc4' for stage in B0[4:]))
CCS: dict[str, dict[str, Any]] = dict(
    cc_b0_4e=scaled(1.0, 1.0, block_args=CC),
    cc_b0_8e=scaled(1.0, 1.0, block_args=CC, experts_multiplier=2),
    cc_b1_8e=scaled(1.0, 1.1, block_args=CC, experts_multiplier=2),
)

X = (
    'ds_r1_k3_s1_e1_c16_se0.25_d1',
    'er_r2_k3_s1_e6_c24_se0.25_fc16_nre',
    'er_r2_k5_s2_e6_c40_se0.25_nre',
    *B0[3:],
)
H = swap(X[:4], ('_e6', '_e4')) + X[4:]


def v2(*stages: str) -> tuple[str, ...]:
    """Stages of EfficientNet V2, each written as 'repeats channels', with more words for the first ones."""
    kinds = ('cn_k3_s1_e1', 'er_k3_s2_e4', 'er_k3_s2_e4', 'ir_k3_s2_e4', 'ir_k3_s1_e6', 'ir_k3_s2_e6', 'ir_k3_s1_e6')
    ends = ('_skip', '', '', *['_se0.25'] * 4)
    words = [stage.split() for stage in stages]
    return tuple(f'{kind}_r{r}_c{c}{end}' for kind, end, (r, c) in zip(kinds, ends, words, strict=False))


V2_BASE = v2('1 16', '2 32', '2 48', '3 96', '5 112', '8 192')
V2_S = v2('2 24', '4 48', '4 64', '6 128', '9 160', '15 256')
BASE: dict[str, Any] = dict(block_args=V2_BASE, round_limit=0.0, **TF)
V2: dict[str, dict[str, Any]] = dict(
    s=dict(block_args=V2_S, stem_size=24),
    m=dict(block_args=v2('3 24', '5 48', '5 80', '7 160', '14 176', '18 304', '5 512'), stem_size=24),
    l=dict(block_args=v2('4 32', '7 64', '7 96', '10 192', '19 224', '25 384', '7 640')),
    xl=dict(block_args=v2('4 32', '8 64', '8 96', '16 192', '24 256', '32 512', '8 640')),
)
V2_RW = ('er_r2_k3_s1_e1_c24', *V2_S[1:5], 'ir_k3_s2_e6_r15_c272_se0.25')
RW_T: dict[str, Any] = scaled(0.8, 0.9, block_args=V2_S, stem_size=24, num_features=1024)

MIX_S = (
    'ds_r1_k3_s1_e1_c16',
    'ir_r1_k3_a1.1_p1.1_s2_e6_c24 ir_r1_k3_a1.1_p1.1_s1_e3_c24',
    'ir_r1_k3.5.7_s2_e6_c40_se0.5_nsw ir_r3_k3.5_a1.1_p1.1_s1_e6_c40_se0.5_nsw',
    'ir_r1_k3.5.7_p1.1_s2_e6_c80_se0.25_nsw ir_r2_k3.5_p1.1_s1_e6_c80_se0.25_nsw',
    'ir_r1_k3.5.7_a1.1_p1.1_s1_e6_c120_se0.5_nsw ir_r2_k3.5.7.9_a1.1_p1.1_s1_e3_c120_se0.5_nsw',
    'ir_r1_k3.5.7.9.11_s2_e6_c200_se0.5_nsw ir_r2_k3.5.7.9_p1.1_s1_e6_c200_se0.5_nsw',
)
MIX_M = (
    'ds_r1_k3_s1_e1_c24',
    'ir_r1_k3.5.7_a1.1_p1.1_s2_e6_c32 ir_r1_k3_a1.1_p1.1_s1_e3_c32',
    'ir_r1_k3.5.7.9_s2_e6_c40_se0.5_nsw ir_r3_k3.5_a1.1_p1.1_s1_e6_c40_se0.5_nsw',
    'ir_r1_k3.5.7_s2_e6_c80_se0.25_nsw ir_r3_k3.5.7.9_a1.1_p1.1_s1_e6_c80_se0.25_nsw',
    'ir_r1_k3_s1_e6_c120_se0.5_nsw ir_r3_k3.5.7.9_a1.1_p1.1_s1_e3_c120_se0.5_nsw',
    'ir_r1_k3.5.7.9_s2_e6_c200_se0.5_nsw ir_r3_k3.5.7.9_p1.1_s1_e6_c200_se0.5_nsw',
)


def mixnet(stages: tuple[str, ...], width: float = 1.0, depth: float = 1.0, **options: Any) -> dict[str, Any]:
    """MixNet (arXiv:1907.09595) of some width and depth."""
    stem = dict(stem_size=16 if stages is MIX_S else 24, num_features=1536)
    return scaled(width, depth, block_args=stages, act_layer='relu', depth_trunc='round', **stem, **options)


MNAS_B1 = (
    'ds_r1_k3_s1_c16',
    'ir_r3_k3_s2_e3_c24',
    'ir_r3_k5_s2_e3_c40',
    'ir_r3_k5_s2_e6_c80',
    'ir_r2_k3_s1_e6_c96',
    'ir_r4_k5_s2_e6_c192',
    'ir_r1_k3_s1_e6_c320_noskip',
)
MNAS_A1 = (
    'ds_r1_k3_s1_e1_c16_noskip',
    'ir_r2_k3_s2_e6_c24',
    'ir_r3_k5_s2_e3_c40_se0.25',
    'ir_r4_k3_s2_e6_c80',
    'ir_r2_k3_s1_e6_c112_se0.25',
    'ir_r3_k5_s2_e6_c160_se0.25',
    'ir_r1_k3_s1_e6_c320',
)
MNAS_SMALL = (
    'ds_r1_k3_s1_c8',
    'ir_r1_k3_s2_e3_c16',
    'ir_r2_k3_s2_e6_c16',
    'ir_r4_k5_s2_e6_c32_se0.25',
    'ir_r3_k3_s1_e6_c32_se0.25',
    'ir_r3_k5_s2_e6_c88_se0.25',
    'ir_r1_k3_s1_e6_c144',
)
RELU: dict[str, Any] = dict(act_layer='relu')


def mnasnet(stages: tuple[str, ...], width: float = 1.0, **options: Any) -> dict[str, Any]:
    """MNASNet (arXiv:1807.11626) of some width."""
    return dict(block_args=stages, channel_multiplier=width, **RELU, **options)


MOBILE_V1 = (
    'dsa_r1_k3_s1_c64',
    'dsa_r2_k3_s2_c128',
    'dsa_r2_k3_s2_c256',
    'dsa_r6_k3_s2_c512',
    'dsa_r2_k3_s2_c1024',
)
MOBILE_V2 = (
    'ds_r1_k3_s1_c16',
    'ir_r2_k3_s2_e6_c24',
    'ir_r3_k3_s2_e6_c32',
    'ir_r4_k3_s2_e6_c64',
    'ir_r3_k3_s1_e6_c96',
    'ir_r3_k3_s2_e6_c160',
    'ir_r1_k3_s1_e6_c320',
)


def mobilenetv2(width: float, depth: float = 1.0, **options: Any) -> dict[str, Any]:
    """MobileNet V2 (arXiv:1801.04381) of some width and depth."""
    options = dict(num_features=max(1280, round_channels(1280 * width))) | options
    return scaled(width, depth, block_args=MOBILE_V2, act_layer='relu6', **options)


EDGETPU = (
    'cn_r1_k1_s1_c16',
    'er_r1_k3_s2_e8_c32 er_r3_k3_s1_e4_c32',
    'er_r1_k3_s2_e8_c48 er_r3_k3_s1_e4_c48',
    'ir_r1_k3_s2_e8_c96 ir_r3_k3_s1_e4_c96',
    'ir_r1_k3_s1_e8_c96_noskip ir_r3_k3_s1_e4_c96',
    'ir_r1_k5_s2_e8_c160 ir_r3_k5_s1_e4_c160',
    'ir_r1_k3_s1_e8_c192',
)


def edgetpu_v2(stem: int, kernel: int, group: int, head: int, *widths: int) -> dict[str, Any]:
    """MobileNet-EdgeTPU V2: residuals alternate between whole and grouped expansions (groups of `group` channels)."""
    c = widths
    whole, grouped = 'er_r1_k3_s1_e4_c{}', f'er_r1_k3_s1_e4_gs{group}_c{{}}'
    stages = (
        f'cn_r1_k1_s1_c{c[0]}',
        f'er_r1_k3_s2_e8_c{c[1]} {grouped}'.format(c[1]),
        f'er_r1_k3_s2_e8_c{c[2]} {grouped} {whole} {grouped}'.format(c[2], c[2], c[2]),
        f'er_r1_k3_s2_e8_c{c[3]} ir_r3_k3_s1_e4_c{c[3]}',
        f'ir_r1_k3_s1_e8_c{c[4]} ir_r3_k3_s1_e4_c{c[4]}',
        f'ir_r1_k3_s2_e8_c{c[5]} ir_r3_k3_s1_e4_c{c[5]}',
        f'ir_r1_k3_s1_e8_c{c[6]}',
    )
    return dict(block_args=stages, stem_size=stem, stem_kernel_size=kernel, num_features=head, **RELU)


FBNET_C = (
    'ir_r1_k3_s1_e1_c16',
    'ir_r1_k3_s2_e6_c24 ir_r2_k3_s1_e1_c24',
    'ir_r1_k5_s2_e6_c32 ir_r1_k5_s1_e3_c32 ir_r1_k5_s1_e6_c32 ir_r1_k3_s1_e6_c32',
    'ir_r1_k5_s2_e6_c64 ir_r1_k5_s1_e3_c64 ir_r2_k5_s1_e6_c64',
    'ir_r3_k5_s1_e6_c112 ir_r1_k5_s1_e3_c112',
    'ir_r4_k5_s2_e6_c184',
    'ir_r1_k3_s1_e6_c352',
)
SPNAS = (
    'ds_r1_k3_s1_c16_noskip',
    'ir_r3_k3_s2_e3_c24',
    'ir_r1_k5_s2_e6_c40 ir_r3_k3_s1_e3_c40',
    'ir_r1_k5_s2_e6_c80 ir_r3_k3_s1_e3_c80',
    'ir_r1_k5_s1_e6_c96 ir_r3_k5_s1_e3_c96',
    'ir_r4_k5_s2_e6_c192',
    'ir_r1_k3_s1_e6_c320_noskip',
)


def tinynet(width: float, depth: float) -> dict[str, Any]:
    """TinyNet (arXiv:2010.14819) of some width and depth."""
    return scaled(
        width, depth, depth_trunc='round', fix_stem=True, num_features=max(1280, round_channels(1280 * width))
    )


TEST = (
    'cn_r1_k3_s1_e1_c16_skip',
    'er_r1_k3_s2_e4_c24',
    'er_r1_k3_s2_e4_c32',
    'ir_r1_k3_s2_e4_c48_se0.25',
    'ir_r1_k3_s2_e4_c64_se0.25',
)
TINY: dict[str, Any] = dict(block_args=TEST, stem_size=24, num_features=256)
GN: dict[str, Any] = dict(norm_layer='groupnorm', norm_group_size=8)

register(
    __name__,
    EfficientNet,
    **{f'efficientnet_{name}': options for name, options in (SIZED | LITES | EDGES | CCS).items()},
    **{f'tf_efficientnet_{name}': options | TF for name, options in (SIZED | LITES | EDGES | CCS).items()},
    **{f'efficientnet_{b}_pruned': SIZED[b] | TF | dict(pruned=f'efficientnet_{b}_pruned') for b in ('b1', 'b2', 'b3')},
    **{f'efficientnetv2_{name}': options for name, options in V2.items()},
    **{f'tf_efficientnetv2_{name}': options | TF for name, options in V2.items()},
    efficientnet_b0_gn=scaled(1.0, **GN),
    efficientnet_b0_g8_gn=scaled(1.0, **GN, group_size=8),
    efficientnet_b0_g16_evos=scaled(1.0, group_size=16, channel_divisor=16),
    efficientnet_b3_gn=scaled(1.2, 1.4, channel_divisor=16, **GN | dict(norm_group_size=16)),
    efficientnet_b3_g8_gn=scaled(1.2, 1.4, channel_divisor=16, group_size=8, **GN | dict(norm_group_size=16)),
    efficientnet_blur_b0=scaled(1.0, aa_layer='blurpc'),
    efficientnet_es_pruned=EDGES['es'],
    efficientnet_el_pruned=EDGES['el'],
    efficientnet_x_b3=scaled(1.2, 1.4, block_args=X),
    efficientnet_x_b5=scaled(1.6, 2.2, block_args=X),
    efficientnet_h_b5=scaled(1.92, 2.2, block_args=H),
    tf_efficientnetv2_b0=scaled(1.0, 1.0, **BASE),
    tf_efficientnetv2_b1=scaled(1.0, 1.1, **BASE),
    tf_efficientnetv2_b2=scaled(1.1, 1.2, **BASE),
    tf_efficientnetv2_b3=scaled(1.2, 1.4, **BASE),
    efficientnetv2_rw_t=RW_T,
    gc_efficientnetv2_rw_t=RW_T | dict(se_layer='gc'),
    efficientnetv2_rw_s=scaled(1.0, 1.0, block_args=V2_RW, stem_size=24, num_features=1792),
    efficientnetv2_rw_m=scaled(
        1.2, (1.2, 1.2, 1.2, 1.2, 1.6, 1.6), block_args=V2_RW, stem_size=24, num_features=round_channels(1792 * 1.2)
    ),
    fbnetc_100=dict(block_args=FBNET_C, stem_size=16, num_features=1984, **RELU),
    spnasnet_100=dict(block_args=SPNAS, **RELU),
    mixnet_s=mixnet(MIX_S),
    mixnet_m=mixnet(MIX_M),
    mixnet_l=mixnet(MIX_M, 1.3),
    mixnet_xl=mixnet(MIX_M, 1.6, 1.2),
    mixnet_xxl=mixnet(MIX_M, 2.4, 1.3),
    tf_mixnet_s=mixnet(MIX_S, **TF),
    tf_mixnet_m=mixnet(MIX_M, **TF),
    tf_mixnet_l=mixnet(MIX_M, 1.3, **TF),
    mnasnet_050=mnasnet(MNAS_B1, 0.5),
    mnasnet_075=mnasnet(MNAS_B1, 0.75),
    mnasnet_100=mnasnet(MNAS_B1),
    mnasnet_140=mnasnet(MNAS_B1, 1.4),
    mnasnet_small=mnasnet(MNAS_SMALL, stem_size=8),
    semnasnet_050=mnasnet(MNAS_A1, 0.5),
    semnasnet_075=mnasnet(MNAS_A1, 0.75),
    semnasnet_100=mnasnet(MNAS_A1),
    semnasnet_140=mnasnet(MNAS_A1, 1.4),
    mobilenetv1_100=dict(block_args=MOBILE_V1, act_layer='relu6', num_features=0),
    mobilenetv1_100h=dict(block_args=MOBILE_V1, act_layer='relu6', num_features=1024),
    mobilenetv1_125=dict(block_args=MOBILE_V1, act_layer='relu6', num_features=0, channel_multiplier=1.25),
    mobilenetv2_035=mobilenetv2(0.35),
    mobilenetv2_050=mobilenetv2(0.5),
    mobilenetv2_075=mobilenetv2(0.75),
    mobilenetv2_100=mobilenetv2(1.0),
    mobilenetv2_140=mobilenetv2(1.4),
    mobilenetv2_110d=mobilenetv2(1.1, 1.2, fix_first_last=True, fix_stem=True, num_features=1280),
    mobilenetv2_120d=mobilenetv2(1.2, 1.4, fix_first_last=True, fix_stem=True, num_features=1280),
    mobilenet_edgetpu_100=dict(block_args=EDGETPU, **RELU),
    mobilenet_edgetpu_v2_xs=edgetpu_v2(32, 3, 16, 1280, 16, 32, 48, 96, 144, 160, 192),
    mobilenet_edgetpu_v2_s=edgetpu_v2(64, 5, 16, 1280, 24, 48, 64, 128, 160, 192, 256),
    mobilenet_edgetpu_v2_m=edgetpu_v2(64, 5, 16, 1344, 32, 64, 80, 160, 192, 240, 320),
    mobilenet_edgetpu_v2_l=edgetpu_v2(64, 7, 32, 1408, 32, 64, 96, 192, 240, 256, 384),
    tinynet_a=tinynet(1.0, 1.2),
    tinynet_b=tinynet(0.75, 1.1),
    tinynet_c=tinynet(0.54, 0.85),
    tinynet_d=tinynet(0.54, 0.695),
    tinynet_e=tinynet(0.51, 0.6),
    test_efficientnet=TINY,
    test_efficientnet_gn=TINY | GN,
    test_efficientnet_ln=TINY | dict(norm_layer='layernorm'),
    test_efficientnet_evos=TINY | dict(norm_layer='evonorms0', norm_group_size=8),
)
