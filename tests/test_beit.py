"""BEiT: its options, its tables of relative positions at other sizes, and its initial weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from tests.deterministic import fill, image

SMALL: dict[str, Any] = dict(depth=2, embed_dim=48, num_heads=3)
SHARED: dict[str, Any] = dict(use_shared_rel_pos_bias=True, use_rel_pos_bias=False)
NAME = 'beit_base_patch16_224'


@pytest.mark.parametrize(
    ('options', 'logits', 'deviation'),
    [  # measured on timm 1.0.31
        (
            dict(SHARED, use_abs_pos_emb=True, swiglu_mlp=True, scale_mlp=True, global_pool='token'),
            (-0.624967, 1.631679, 0.417017, -0.147812, 0.112945, -0.675281),
            0.9523827,
        ),
        (
            dict(use_shared_rel_pos_bias=True, scale_mlp=True, qkv_bias=False),  # both kinds of tables
            (0.219689, 1.277874, -0.817055, -0.658741, 0.492994, 1.210305),
            1.0068524,
        ),
        (dict(use_rel_pos_bias=False), (-0.291316, 0.886119, -0.462003, 0.39463, -0.219402, 1.358918), 1.0172298),
    ],
)
def test_options(options: dict[str, Any], logits: tuple[float, ...], deviation: float) -> None:
    """First logits and their deviation; float32 through 2 blocks, in another order of sums."""
    model = fill(foveal.create_model(NAME, img_size=64, **SMALL, **options).eval())
    with torch.inference_mode():
        out = model(image((3, 64, 64)))
    torch.testing.assert_close(out[0, :6], torch.tensor(logits), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.std(), torch.tensor(deviation), rtol=1e-4, atol=0)


def test_another_size_after_building() -> None:
    """As measured on timm 1.0.31; the tables are interpolated, there in two steps of float32."""
    model = fill(foveal.create_model(NAME, **SMALL).eval())
    model.set_input_size((160, 256))
    assert model.blocks[0].attn.relative_position_bias_table.shape == (19 * 31 + 3, 3)
    with torch.inference_mode():
        out = model(image((3, 160, 256)))
    wanted = (0.688828, -0.0045121, -0.571058, 1.2201821, -0.902955, 0.828465)
    torch.testing.assert_close(out[0, :6], torch.tensor(wanted), rtol=0, atol=1e-3)


def test_every_pair_of_positions_has_the_row_of_its_offset() -> None:
    """Against the offsets themselves, and the class token's three rows at the end (the paper's reference code)."""
    attn = foveal.create_model(NAME, img_size=(48, 32), **SMALL).blocks[0].attn
    places = [(i, j) for i in range(3) for j in range(2)]
    rows = {offset: n for n, offset in enumerate((i, j) for i in range(-2, 3) for j in range(-1, 2))}
    index = attn.relative_position_index
    assert index.shape == (7, 7)
    for q, (i, j) in enumerate(places, 1):
        for k, (y, x) in enumerate(places, 1):
            assert index[q, k] == rows[i - y, j - x]
    assert (index[0, 1:] == len(rows)).all()
    assert (index[1:, 0] == len(rows) + 1).all()
    assert index[0, 0] == len(rows) + 2 == len(attn.relative_position_bias_table) - 1


@pytest.mark.parametrize('options', [{}, SHARED])
def test_tables_learn(options: dict[str, Any]) -> None:
    model = foveal.create_model(NAME, img_size=64, **SMALL, **options)
    model(image((3, 64, 64))).square().mean().backward()
    tables = [p for name, p in model.named_parameters() if name.endswith('relative_position_bias_table')]
    assert len(tables) == (1 if options else 2)
    assert all(not table.any() for table in tables), 'at first no offset is better than another'
    assert all(table.grad is not None and table.grad.any() for table in tables)


def test_what_a_block_adds_starts_smaller_the_deeper_it_is() -> None:
    """By 1 / sqrt(2 l) (section 2.5); of 192 x 192 weights and more: the standard error is 0.4 %, five of them."""
    torch.manual_seed(0)
    model = foveal.create_model(NAME, img_size=32, depth=4, embed_dim=192, num_heads=3)
    for depth, block in enumerate(model.blocks, 1):
        for layer in (block.attn.proj, block.mlp.fc2):
            assert layer.weight.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.02)
        assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize('name', ['class_token', 'reg_tokens', 'dynamic_img_size', 'patch_drop_rate', 'pos_embed'])
def test_what_the_tables_do_not_fit_is_no_option(name: str) -> None:
    with pytest.raises(ValueError, match=f"Beit has no option '{name}'"):
        foveal.create_model(NAME, **{name: 0})


def test_options_are_saved(tmp_path: Path) -> None:
    model = foveal.create_model(NAME, img_size=64, **SMALL, **SHARED, use_abs_pos_emb=True).eval()
    model.save_pretrained(tmp_path / 'saved')
    loaded = foveal.create_model(f'local-dir:{tmp_path / "saved"}', pretrained=True).eval()
    x = image((3, 64, 64))
    with torch.inference_mode():
        assert loaded.pos_embed is not None
        assert torch.equal(loaded(x), model(x))


def test_sizes_that_do_not_fit_are_refused_without_options_that_beit_lacks() -> None:
    with pytest.raises(ValueError, match=r'near are 96x96 and 112x112$'):
        foveal.create_model('beit_base_patch16_224', img_size=100)
