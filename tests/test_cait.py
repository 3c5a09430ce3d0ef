"""CaiT: the class token joins behind the levels."""

from typing import Any

import pytest
import torch

import foveal
from foveal.layers import DropPath
from tests.deterministic import fill, image

SMALL: dict[str, Any] = dict(img_size=64, depth=2, embed_dim=48, num_heads=3)
NAME = 'cait_xxs24_224'


def small(**options: Any):
    return fill(foveal.create_model(NAME, **SMALL, **options).eval())


def test_options() -> None:
    """First logits and their deviation, measured on timm 1.0.31; float32 through 3 blocks, in another order of sums."""
    with torch.inference_mode():
        out = small(global_pool='avg', depth_token_only=1, mlp_ratio_token_only=2.0)(image((3, 64, 64)))
    wanted = (0.045454, 0.373936, -0.089291, 0.118049, -0.388202, 0.679509)
    torch.testing.assert_close(out[0, :6], torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.std(), torch.tensor(0.3265236), rtol=1e-4, atol=0)


def test_class_attention_reads_the_patches_and_leaves_them() -> None:
    model = small()
    with torch.inference_mode():
        features, levels = model.forward_intermediates(image((3, 64, 64)), output_fmt='NLC')
        _, normed = model.forward_intermediates(image((3, 64, 64)), norm=True, output_fmt='NLC')
        # the same operation on the same tokens: one more beside them changes no bit
        assert torch.equal(features[:, 1:], model.norm(levels[-1]))
        assert all(torch.equal(a, model.norm(b)) for a, b in zip(normed, levels, strict=True))
    assert features.shape == (1, 17, 48)


def test_levels_have_no_prefix() -> None:
    model = small()
    with torch.inference_mode():
        (level, prefix), *_ = model.get_intermediate_layers(image((3, 64, 64)), return_prefix_tokens=True)
    assert level.shape == (1, 16, 48)
    assert prefix.shape == (1, 0, 48)


def test_a_pyramid_has_nothing_that_only_the_class_token_needs() -> None:
    pyramid = foveal.create_model(NAME, features_only=True, out_indices=2, **SMALL)
    sum(level.sum() for level in pyramid(image((3, 64, 64)))).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


def test_heads_are_mixed_as_the_formula_says() -> None:
    """softmax(l(q k^T / sqrt(d))), mixed again by w, written head by head (arXiv:2003.02436); float64."""
    attn = fill(small().blocks[0].attn).double()
    x = torch.randn(2, 7, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k, v = attn.qkv(x).view(2, 7, 3, 3, 16).unbind(2)
    scores = [q[:, :, h] @ k[:, :, h].mT / 4 for h in range(3)]
    mixed = [sum(attn.proj_l.weight[o, h] * scores[h] for h in range(3)) + attn.proj_l.bias[o] for o in range(3)]
    soft = [m.softmax(-1) for m in mixed]
    final = [sum(attn.proj_w.weight[o, h] * soft[h] for h in range(3)) + attn.proj_w.bias[o] for o in range(3)]
    expected = attn.proj(torch.cat([final[h] @ v[:, :, h] for h in range(3)], dim=-1))
    torch.testing.assert_close(attn(x), expected, rtol=1e-10, atol=1e-12)


def test_stochastic_depth_is_uniform_over_the_patches_blocks() -> None:
    model = foveal.create_model(NAME, **SMALL, drop_path_rate=0.2)
    rates = {name: m.drop_prob for name, m in model.named_modules() if isinstance(m, DropPath)}
    assert {name: rate for name, rate in rates.items() if rate} == {f'blocks.{i}.drop_path': 0.2 for i in range(2)}


@pytest.mark.parametrize('size', [32, (48, 96)])
def test_positions_are_resampled_for_other_sizes(size: Any) -> None:
    """A model of another size, resampled once, and the one that resamples as images come, compute the same."""
    model, dynamic = small(), small(dynamic_img_size=True)
    model.set_input_size(size)
    height, width = model.cfg.img_size
    x = image((3, height, width))
    with torch.inference_mode():
        torch.testing.assert_close(dynamic(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', ['class_token', 'reg_tokens', 'no_embed_class'])
def test_what_cait_always_has_is_no_option(name: str) -> None:
    with pytest.raises(ValueError, match=f"Cait has no option '{name}'"):
        foveal.create_model(NAME, **{name: False})
