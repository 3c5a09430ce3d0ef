"""Scaled weight standardisation and the networks that need no norms for it."""

import numpy as np
import pytest
import torch
from torch import nn

import foveal
from foveal.layers.act import activation
from foveal.layers.conv import conv2d
from foveal.layers.std_conv import GAMMAS, ScaledStdConv2d, ScaledStdConv2dSame
from foveal.models.nfnet import NormFreeNet
from tests import deterministic


@pytest.mark.parametrize('padding', [None, 'same'])
def test_filters_are_standardised_as_the_paper_says(padding: str | None) -> None:
    """W^ = gain * gamma * (W - mean) / sqrt(N * variance), computed here in float64."""
    torch.manual_seed(0)
    layers = (ScaledStdConv2d, ScaledStdConv2dSame)
    conv = conv2d(8, 12, 3, stride=2, groups=2, padding=padding, layers=layers, gamma=1.7)
    with torch.no_grad():
        conv.weight.normal_(0.3, 0.1)
        conv.gain.uniform_(0.5, 2)
    rows = conv.weight.detach().double().numpy().reshape(12, -1)
    centred = rows - rows.mean(1, keepdims=True)
    scale = 1.7 * conv.gain.detach().double().numpy().reshape(12, 1)
    filters = scale * centred / np.sqrt(rows.shape[1] * (rows.var(1, keepdims=True) + 1e-5))
    plain = conv2d(8, 12, 3, stride=2, groups=2, padding=padding)
    with torch.no_grad():
        plain.weight.copy_(torch.from_numpy(filters).view_as(plain.weight))
        plain.bias.copy_(conv.bias)
    x = torch.randn(2, 8, 11, 14)
    torch.testing.assert_close(conv(x), plain(x))


@pytest.mark.parametrize('name', GAMMAS)
def test_gammas_are_those_of_a_normal_input(name: str) -> None:
    """1 / standard deviation of act(z), integrated; the published numbers are within 0.1 % of it."""
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    density /= density.sum()
    y = activation(name)(z)
    deviation = (density * (y - (density * y).sum()).square()).sum().sqrt()
    assert GAMMAS[name] * deviation.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize('attn_layer', [None, 'se'])
def test_each_block_adds_the_square_of_alpha_to_the_variance(attn_layer: str | None) -> None:
    """The prediction of arXiv:2101.08692: 2, 3, ... 7 for an alpha of 1, at any depth; unscaled it would double."""
    torch.manual_seed(0)
    model = NormFreeNet(
        depths=(6,), channels=(512,), alpha=1.0, gamma_in_act=True, attn_layer=attn_layer, num_classes=0
    ).eval()
    for block in model.stages[0]:
        nn.init.ones_(block.conv3.gain)
    with torch.inference_mode():
        x = model.stem(torch.randn(4, 3, 160, 160))
        found = []
        for block in model.stages[0]:
            x = block(x)
            found.append(x.var().item())
    # one draw of the weights; zeros around the maps take a few percent
    assert found == pytest.approx([2, 3, 4, 5, 6, 7], rel=0.1)


@pytest.mark.parametrize('name', ['test_nfnet', 'dm_nfnet_f0'])
def test_blocks_start_as_their_shortcuts(name: str) -> None:
    model = foveal.create_model(name, depths=(1, 2, 1, 1), channels=(16, 16, 16, 16), group_size=8).eval()
    x = torch.randn(1, 16, 8, 8)
    with torch.inference_mode():
        assert torch.equal(model.stages[1][1](x), x)


def test_gains_are_not_decayed() -> None:
    model = foveal.create_model('dm_nfnet_f0', depths=(1, 1, 1, 1))
    assert {'stem.conv1.gain', 'stages.0.0.skipinit_gain', 'final_conv.gain'} <= model.no_weight_decay()
    assert not any(name.endswith(('weight', 'bias')) for name in model.no_weight_decay())


@pytest.mark.parametrize(
    ('name', 'output_stride', 'size', 'logits', 'deviation'),
    [
        ('test_nfnet', 32, (145, 131), (2.232612, 0.416785, -3.311684, -1.432911), 1.7763016),
        ('test_nfnet', 16, (145, 131), (2.195507, 0.374798, -3.080102, -1.003603), 1.6310513),
        ('test_nfnet', 8, (160, 160), (2.382214, 0.134313, -3.153004, -1.096227), 1.7767618),
        ('nf_regnet_b0', 8, (99, 101), (0.953654, -0.00236, 2.249384, -1.075105), 0.9807535),
        ('dm_nfnet_f0', 8, (97, 101), (-0.17363, 0.220481, 0.164653, 0.037368), 0.318233),
    ],
)
def test_sizes_and_strides_other_than_the_published(
    name: str, output_stride: int, size: tuple[int, int], logits: tuple[float, ...], deviation: float
) -> None:
    """First logits and the deviation of all, measured on timm 1.0.31; float32, as in the parity sweep."""
    model = deterministic.fill(foveal.create_model(name, output_stride=output_stride).eval())
    with torch.inference_mode():
        out = model(deterministic.image((3, *size)))
    torch.testing.assert_close(out[0, :4], torch.tensor(logits), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.std(), torch.tensor(deviation), rtol=1e-4, atol=0)
