"""Outputs under deterministic weights equal the stored ones: two architectures a family, and every variant option.

`python -m tests.parity` runs all architectures; that takes about an hour.
"""

import pytest
import torch

import foveal
from tests import deterministic, parity

# family -> architectures, with the options that they stand for
CHOSEN = {
    'beit': ['beit_base_patch16_224', 'beitv2_base_patch16_224'],
    'cait': ['cait_xxs24_224', 'cait_xs24_384'],
    'convnext': [
        'test_convnext',  # tanh gelu
        'test_convnext3',  # kernel sizes per stage, silu
        'convnext_atto',  # MLP as convolutions
        'convnext_atto_ols',  # overlapping tiered stem
        'convnext_nano_ols',  # overlapping stem
        'convnext_zepto_rms',  # simple norm
        'convnext_zepto_rms_ols',  # stem with an activation
        'convnext_atto_rms',  # root-mean-square norm
        'convnext_tiny_hnf',  # norm before the pooling
        'convnextv2_atto',  # global response norm, no layer scale
    ],
    'deit': ['deit_tiny_patch16_224', 'deit_tiny_distilled_patch16_224', 'deit3_small_patch16_224'],
    'densenet': ['densenet121', 'densenetblur121d'],  # deep stem, anti-aliasing
    'efficientnet': [
        'test_efficientnet',
        'test_efficientnet_evos',  # evolved norm
        'test_efficientnet_gn',  # group norm
        'test_efficientnet_ln',  # layer norm
        'efficientnet_b0',
        'tf_efficientnet_b0',  # 'same' padding
        'efficientnet_lite0',
        'efficientnet_es',  # fused blocks
        'efficientnet_cc_b0_4e',  # conditional convolutions
        'efficientnet_b1_pruned',
        'efficientnet_blur_b0',
        'efficientnet_h_b5',
        'efficientnet_x_b3',
        'tf_efficientnetv2_b0',
        'mixnet_s',  # mixed kernels
        'tf_mixnet_s',
        'mnasnet_small',
        'mobilenetv1_100',
        'mobilenetv2_035',
        'mobilenetv4_conv_small_035',  # universal inverted residuals
        'mobilenet_edgetpu_v2_xs',
        'fbnetc_100',
        'spnasnet_100',
        'tinynet_e',
    ],
    'hrnet': ['hrnet_w18_small', 'hrnet_w18_small_v2'],
    'mlp_mixer': ['mixer_s32_224', 'gmixer_24_224', 'resmlp_12_224', 'gmlp_ti16_224'],
    'mobilenetv3': [
        'mobilenetv3_small_050',
        'tf_mobilenetv3_small_minimal_100',
        'fbnetv3_b',
        'lcnet_035',
        'mobilenetv4_hybrid_medium',  # attention
    ],
    'nfnet': [
        'test_nfnet',
        'dm_nfnet_f0',  # 'same' padding, gamma behind activations, learned factors of branches
        'eca_nfnet_l0',
        'nf_regnet_b0',  # the gate inside
        'nf_resnet26',  # stem with pooling, no last convolution
        'nf_seresnet26',
    ],
    'regnet': [
        'regnetx_002',
        'regnety_002',  # squeeze-excite
        'regnetz_005',  # linear outputs
        'regnetv_040',  # pre-activation
        'regnetx_004_tv',  # the rounding of other published weights
    ],
    'resnet': [
        'test_resnet',
        'resnet10t',  # deep tiered stem, average downsampling
        'resnet18',
        'resnet18d',
        'resnet50_gn',  # group norm
        'resnetblur18',  # anti-aliasing
        'resnetaa34d',
        'resnetrs50',  # stem without pooling, squeeze-excite
        'resnext50_32x4d',
        'seresnet18',
        'seresnext26t_32x4d',
        'ecaresnet26t',  # efficient channel attention
        'ecaresnet50d_pruned',
    ],
    'swin_transformer': ['swin_tiny_patch4_window7_224', 'swin_s3_tiny_224'],  # windows per stage
    'vgg': ['vgg11', 'vgg11_bn'],
    'vision_transformer': [
        'vit_tiny_patch16_224',
        'test_vit',  # dynamic image size
        'test_vit2',  # register token, average, norm after pooling
        'test_vit3',  # attention pooling
        'test_vit4',  # root-mean-square norm
        'vit_xsmall_patch16_clip_224',  # norm before the blocks
        'vit_base_patch32_clip_quickgelu_224',
        'vit_small_patch32_224',
        'flexivit_small',  # positions for the patches alone
        'vit_small_patch14_reg4_dinov2',
        'vit_medium_patch16_gap_240',
        'vit_base_patch32_siglip_256',
        'vit_base_patch32_siglip_gap_256',
        'vit_wee_patch16_reg1_gap_256',
        'vit_pwee_patch16_reg1_gap_256',  # parallel attention and MLP
        'vit_dwee_patch16_reg1_gap_256',  # differential attention
        'vit_dpwee_patch16_reg1_gap_256',
        'vit_small_patch16_18x2_224',  # two attentions side by side
        'vit_base_patch16_rpn_224',  # norms after
        'vit_base_patch16_xp_224',  # normalised queries and keys
        'vit_so150m_patch16_reg4_map_256',
        'beit3_base_patch16_224',  # norms inside attention and MLP
        'vit_base_patch16_radio_v3',  # no final norm
    ],
}


def test_at_least_two_of_every_family() -> None:
    from foveal import list_modules

    assert set(CHOSEN) == set(list_modules())
    assert min(map(len, CHOSEN.values())) >= 2


@pytest.mark.parametrize('name', [name for names in CHOSEN.values() for name in names])
def test_outputs(name: str) -> None:
    assert parity.outputs(name) == []


@pytest.mark.parametrize(
    ('img_size', 'logits', 'deviation'),
    [
        ((128, 128), (0.405708, 0.462017, 0.746863, 0.011327, 0.521577, 0.54763), 0.9333067),
        ((96, 160), (-0.023028, -0.405288, 1.069156, -0.061606, 0.367036, -0.048477), 0.9498909),
    ],
)
def test_swin_on_maps_that_windows_do_not_divide(
    img_size: tuple[int, int], logits: tuple[float, ...], deviation: float
) -> None:
    """First logits and their deviation, measured on timm 1.0.31; float32 through 12 blocks, as in the parity sweep."""
    model = deterministic.fill(foveal.create_model('swin_tiny_patch4_window7_224', img_size=img_size).eval())
    side = max(img_size)
    with torch.inference_mode():
        out = model(deterministic.image((3, side, side))[:, :, : img_size[0], : img_size[1]])
    torch.testing.assert_close(out[0, :6], torch.tensor(logits), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.std(), torch.tensor(deviation), rtol=1e-4, atol=0)
