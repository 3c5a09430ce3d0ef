"""MobileNet V3 and its kin: networks of inverted residuals that pool before their last convolution.

MobileNet V3 (arXiv:1905.02244) and V4 (arXiv:2404.10518), FBNet V3 (arXiv:2006.02049), PP-LCNet (arXiv:2109.15099).
`tf_` marks weights that were trained with TensorFlow's padding and batch-norm eps.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foveal.layers import Pool, activation, classifier, conv2d
from foveal.models.backbone import Parts
from foveal.models.mbconv import TF, MobileBackbone, MobileConfig, swap
from foveal.registry import register

LARGE = (
    'ds_r1_k3_s1_e1_c16_nre',
    'ir_r1_k3_s2_e4_c24_nre ir_r1_k3_s1_e3_c24_nre',
    'ir_r3_k5_s2_e3_c40_se0.25_nre',
    'ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80',
    'ir_r2_k3_s1_e6_c112_se0.25',
    'ir_r3_k5_s2_e6_c160_se0.25',
    'cn_r1_k1_s1_c960',
)
SMALL = (
    'ds_r1_k3_s2_e1_c16_se0.25_nre',
    'ir_r1_k3_s2_e4.5_c24_nre ir_r1_k3_s1_e3.67_c24_nre',
    'ir_r1_k5_s2_e4_c40_se0.25 ir_r2_k5_s1_e6_c40_se0.25',
    'ir_r2_k5_s1_e3_c48_se0.25',
    'ir_r3_k5_s2_e6_c96_se0.25',
    'cn_r1_k1_s1_c576',
)


@dataclass(frozen=True, kw_only=True)
class MobileNetV3Config(MobileConfig):
    """Options of MobileNet V3; the defaults are the large one."""

    block_args: tuple[str, ...] = LARGE
    stem_size: int = 16
    act_layer: str = 'hard_swish'
    se_from_exp: bool = True
    se_divisor: int = 8
    se_act_layer: str | None = 'relu'
    se_gate_layer: str = 'hard_sigmoid'
    num_features: int = 1280  # channels that the classifier sees
    head_bias: bool = True
    head_norm: bool = False  # a norm after the last convolution (V4)


class MobileNetV3(MobileBackbone):
    """MobileNet V3: searched inverted residuals, and an efficient last stage that convolves after the pooling."""

    Config = MobileNetV3Config
    parts = Parts(stem='', norm='', head='', classifier='classifier', pre_logits='conv_head norm_head act2 flatten')

    def build(self, cfg: MobileNetV3Config) -> None:
        self.num_features, self.head_hidden_size = self.build_trunk(cfg), cfg.num_features
        self.global_pool = Pool(cfg.global_pool)
        pooled = self.num_features * self.global_pool.feat_mult
        self.conv_head = conv2d(pooled, cfg.num_features, 1, bias=cfg.head_bias)
        self.norm_head = cfg.norm(cfg.num_features, cfg.act_layer) if cfg.head_norm else nn.Identity()
        self.act2 = nn.Identity() if cfg.head_norm else activation(cfg.act_layer)
        self.flatten = nn.Flatten(1) if cfg.global_pool else nn.Identity()
        self.classifier = classifier(self.head_hidden_size, cfg.num_classes)

    def pool(self, x: Tensor) -> Tensor:
        """Features to a map of one position, for the convolution that follows."""
        x = self.global_pool(x)
        return x[..., None, None] if x.ndim == 2 else x

    def reset_pool(self, pool_type: str) -> None:
        """Put in another pooling.

        Raises:
            ValueError: it would give the convolution after it another number of channels.
        """
        pool = Pool(pool_type)
        if pool.feat_mult != self.global_pool.feat_mult:
            raise ValueError(f'global_pool {pool_type!r} does not fit conv_head: choose it when building the model')
        self.global_pool, self.flatten = pool, nn.Flatten(1) if pool_type else nn.Identity()


def v3(stages: tuple[str, ...], width: float = 1.0, features: int = 1280, **options: Any) -> dict[str, Any]:
    """MobileNet V3 of some width."""
    fix = width < 0.75
    return dict(block_args=stages, channel_multiplier=width, num_features=features, fix_stem=fix) | options


MINIMAL: dict[str, Any] = dict(act_layer='relu')
PLAIN = (('_se0.25', ''), ('k5', 'k3'))

FB_B = (
    'ds_r2_k3_s1_e1_c16',
    'ir_r1_k5_s2_e4_c24 ir_r3_k5_s1_e2_c24',
    'ir_r1_k5_s2_e5_c40_se0.25 ir_r4_k5_s1_e3_c40_se0.25',
    'ir_r1_k5_s2_e5_c72 ir_r4_k3_s1_e3_c72',
    'ir_r1_k3_s1_e5_c120_se0.25 ir_r5_k5_s1_e3_c120_se0.25',
    'ir_r1_k3_s2_e6_c184_se0.25 ir_r5_k5_s1_e4_c184_se0.25 ir_r1_k5_s1_e6_c224_se0.25',
    'cn_r1_k1_s1_c1344',
)
FB_D = (
    'ds_r2_k3_s1_e1_c16',
    'ir_r1_k3_s2_e5_c24 ir_r5_k3_s1_e2_c24',
    'ir_r1_k5_s2_e4_c40_se0.25 ir_r4_k3_s1_e3_c40_se0.25',
    'ir_r1_k3_s2_e5_c72 ir_r4_k3_s1_e3_c72',
    'ir_r1_k3_s1_e5_c128_se0.25 ir_r6_k5_s1_e3_c128_se0.25',
    'ir_r1_k3_s2_e6_c208_se0.25 ir_r5_k5_s1_e5_c208_se0.25 ir_r1_k5_s1_e6_c240_se0.25',
    'cn_r1_k1_s1_c1440',
)
FB_G = (
    'ds_r3_k3_s1_e1_c24',
    'ir_r1_k5_s2_e4_c40 ir_r4_k5_s1_e2_c40',
    'ir_r1_k5_s2_e4_c56_se0.25 ir_r4_k5_s1_e3_c56_se0.25',
    'ir_r1_k5_s2_e5_c104 ir_r4_k3_s1_e3_c104',
    'ir_r1_k3_s1_e5_c160_se0.25 ir_r8_k5_s1_e3_c160_se0.25',
    'ir_r1_k3_s2_e6_c264_se0.25 ir_r6_k5_s1_e5_c264_se0.25 ir_r2_k5_s1_e6_c288_se0.25',
    'cn_r1_k1_s1_c1728',
)


def fbnetv3(stages: tuple[str, ...], stem: int) -> dict[str, Any]:
    """FBNet V3 of some stages."""
    options = dict(num_features=1984, head_bias=False, se_from_exp=False, se_act_layer=None, round_limit=0.95)
    return dict(block_args=stages, stem_size=stem, **options)


LC = (
    'dsa_r1_k3_s1_c32',
    'dsa_r2_k3_s2_c64',
    'dsa_r2_k3_s2_c128',
    'dsa_r1_k3_s2_c256 dsa_r1_k5_s1_c256',
    'dsa_r4_k5_s1_c256',
    'dsa_r2_k5_s2_c512_se0.25',
)


def lcnet(width: float) -> dict[str, Any]:
    """PP-LCNet of some width."""
    return dict(block_args=LC, channel_multiplier=width, se_divisor=1)


V4_SMALL = (
    'cn_r1_k3_s2_c32 cn_r1_k1_s1_c32',
    'cn_r1_k3_s2_c96 cn_r1_k1_s1_c64',
    'uir_r1_a5_k5_s2_e3_c96 uir_r4_a0_k3_s1_e2_c96 uir_r1_a3_k0_s1_e4_c96',
    'uir_r1_a3_k3_s2_e6_c128 uir_r1_a5_k5_s1_e4_c128 uir_r1_a0_k5_s1_e4_c128 uir_r1_a0_k5_s1_e3_c128'
    ' uir_r2_a0_k3_s1_e4_c128',
    'cn_r1_k1_s1_c960',
)


def uir(channels: int, *blocks: str) -> str:
    """A stage of universal inverted bottlenecks of one width, each written as its kernels before and in the middle,
    the expansion, and how often it comes: '35 4 x2'. What starts with mqa is a block string that lacks its channels."""
    strings = []
    for block in blocks:
        if block.startswith('mqa'):
            strings.append(f'{block}_c{channels}')
            continue
        kernels, expand, *times = block.split()
        repeats = times[0].removeprefix('x') if times else '1'
        stride = 1 if strings else 2
        strings.append(f'uir_r{repeats}_a{kernels[0]}_k{kernels[1]}_s{stride}_e{expand}_c{channels}')
    return ' '.join(strings)


V4_MEDIUM = (
    'er_r1_k3_s2_e4_c48',
    uir(80, '35 4', '33 2'),
    uir(160, '35 6', '33 4 x2', '35 4', '33 4', '30 4', '00 2', '30 4'),
    uir(256, '55 6', '55 4', '35 4 x2', '00 4', '30 4', '35 2', '55 4', '00 4 x2', '50 2'),
    'cn_r1_k1_s1_c960',
)
V4_LARGE = (
    'er_r1_k3_s2_e4_c48',
    uir(96, '35 4', '33 4'),
    uir(192, '35 4', '33 4 x3', '35 4', '53 4 x5', '30 4'),
    uir(512, '55 4', '55 4 x3', '50 4', '53 4', '50 4 x2', '53 4', '55 4', '50 4 x3'),
    'cn_r1_k1_s1_c960',
)
FAR, NEAR = 'mqa_r1_k3_h4_s1_v2_d64', 'mqa_r1_k3_h4_s1_d64'
V4_HYBRID_MEDIUM = (
    'er_r1_k3_s2_e4_c48',
    uir(80, '35 4', '33 2'),
    uir(160, '35 6', '00 2', '33 4', '35 4', FAR, '33 4', FAR, '30 4', FAR, '33 4', FAR, '30 4'),
    uir(
        256, '55 6', '55 4', '35 4 x2', '00 2', '35 2', '00 2', '00 4',
        NEAR, '30 4', NEAR, '55 4', NEAR, '50 4', NEAR, '50 4',
    ),
    'cn_r1_k1_s1_c960',
)  # fmt: skip
WIDE_FAR, WIDE_NEAR = 'mqa_r1_k3_h8_s1_v2_d48', 'mqa_r1_k3_h8_s1_d64'
V4_HYBRID_LARGE = (
    'er_r1_k3_s2_e4_c48',
    uir(96, '35 4', '33 4'),
    uir(
        192, '35 4', '33 4 x3', '35 4', '53 4 x2',
        WIDE_FAR, '53 4', WIDE_FAR, '53 4', WIDE_FAR, '53 4', WIDE_FAR, '30 4',
    ),
    uir(
        512, '55 4', '55 4 x3', '50 4', '53 4', '50 4 x2', '53 4', '55 4',
        WIDE_NEAR, '50 4', WIDE_NEAR, '50 4', WIDE_NEAR, '50 4', WIDE_NEAR, '50 4',
    ),
    'cn_r1_k1_s1_c960',
)  # fmt: skip


def v4(stages: tuple[str, ...], width: float = 1.0, stem: int = 32, **options: Any) -> dict[str, Any]:
    """MobileNet V4 hybrid of some stages."""
    head = dict(head_bias=False, head_norm=True, stem_size=stem, fix_stem=width < 1.0)
    return dict(block_args=stages, channel_multiplier=width, act_layer='relu') | head | options


HYBRID: dict[str, Any] = dict(layer_scale_init_value=1e-5)
GELU_HYBRID = dict(act_layer='gelu', **HYBRID)

register(
    __name__,
    MobileNetV3,
    mobilenetv3_large_075=v3(LARGE, 0.75),
    mobilenetv3_large_100=v3(LARGE),
    mobilenetv3_large_150d=v3(LARGE, 1.5, depth_multiplier=1.2),
    mobilenetv3_small_050=v3(SMALL, 0.5, 1024),
    mobilenetv3_small_075=v3(SMALL, 0.75, 1024),
    mobilenetv3_small_100=v3(SMALL, 1.0, 1024),
    mobilenetv3_rw=v3(LARGE, bn_eps=1e-3, head_bias=False, se_divisor=1, se_act_layer=None),
    tf_mobilenetv3_large_075=v3(LARGE, 0.75, **TF),
    tf_mobilenetv3_large_100=v3(LARGE, **TF),
    tf_mobilenetv3_large_minimal_100=v3(swap(LARGE, *PLAIN), **TF, **MINIMAL),
    tf_mobilenetv3_small_075=v3(SMALL, 0.75, 1024, **TF),
    tf_mobilenetv3_small_100=v3(SMALL, 1.0, 1024, **TF),
    tf_mobilenetv3_small_minimal_100=v3(swap(SMALL, *PLAIN), 1.0, 1024, **TF, **MINIMAL),
    fbnetv3_b=fbnetv3(FB_B, 16),
    fbnetv3_d=fbnetv3(FB_D, 24),
    fbnetv3_g=fbnetv3(FB_G, 32),
    lcnet_035=lcnet(0.35),
    lcnet_050=lcnet(0.5),
    lcnet_075=lcnet(0.75),
    lcnet_100=lcnet(1.0),
    lcnet_150=lcnet(1.5),
    mobilenetv4_conv_small_035=v4(V4_SMALL, 0.35),
    mobilenetv4_conv_small_050=v4(V4_SMALL, 0.5),
    mobilenetv4_conv_small=v4(V4_SMALL),
    mobilenetv4_conv_medium=v4(V4_MEDIUM),
    mobilenetv4_conv_large=v4(V4_LARGE, stem=24),
    mobilenetv4_conv_aa_medium=v4(V4_MEDIUM, aa_layer='avg'),
    mobilenetv4_conv_blur_medium=v4(V4_MEDIUM, aa_layer='blurpc'),
    mobilenetv4_conv_aa_large=v4(V4_LARGE, stem=24, aa_layer='avg'),
    mobilenetv4_hybrid_medium=v4(V4_HYBRID_MEDIUM, **HYBRID),
    mobilenetv4_hybrid_medium_075=v4(V4_HYBRID_MEDIUM, 0.75, **HYBRID),
    mobilenetv4_hybrid_large=v4(V4_HYBRID_LARGE, stem=24, **GELU_HYBRID),
    mobilenetv4_hybrid_large_075=v4(V4_HYBRID_LARGE, 0.75, 24, **GELU_HYBRID),
)
