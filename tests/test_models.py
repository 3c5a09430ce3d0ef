"""Every architecture against the stored facts, and every verb of every family on a small model."""

import copy
import pickle
from typing import Any

import pytest
import torch

import foveal
from foveal.layers import Blocks
from foveal.layers.init import truncated_normal
from foveal.models.backbone import Backbone
from tests import parity
from tests.tiny import TINY

FAMILIES = sorted(TINY)


def tiny(family: str, **options: Any) -> Backbone:
    """A small model of the family, in evaluation mode, with weights that do not depend on anything else."""
    name, settings = TINY[family]
    torch.manual_seed(0)
    return foveal.create_model(name, **{**settings, **options}).eval()


def images(model: Backbone, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, *size(model), generator=generator)


def size(model: Backbone) -> tuple[int, int]:
    side = getattr(model.cfg, 'img_size', 64)
    return (side, side) if isinstance(side, int) else tuple(side)


@pytest.mark.parametrize('module', foveal.list_modules())
def test_structure_of_every_architecture(module: str) -> None:
    """Weight names, shapes, features, defaults and layer groups of all architectures of a family equal the facts."""
    names = foveal.list_models(module=module)
    complaints = {name: parity.structure(name) for name in names}
    assert {name: said for name, said in complaints.items() if said} == {}


def test_every_family_has_a_small_model() -> None:
    assert set(foveal.list_modules()) == set(TINY)


@pytest.mark.parametrize('family', FAMILIES)
def test_forward_intermediates_agrees_with_forward_features(family: str) -> None:
    model = tiny(family)
    x = images(model)
    with torch.inference_mode():
        features, maps = model.forward_intermediates(x)
        # the same operations in the same order: not a bit may differ
        assert torch.equal(features, model.forward_features(x))
    assert len(maps) == len(model.feature_info)
    for level, level_map in zip(model.feature_info, maps, strict=True):
        assert level_map.shape[:2] == (2, level.channels)
        assert level_map.shape[2] == -(-x.shape[2] // level.reduction)
    with torch.inference_mode():
        last = model.forward_intermediates(x, 1, intermediates_only=True)
        chosen = model.forward_intermediates(x, [-1, 0], intermediates_only=True)
        early = model.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
        nhwc = model.forward_intermediates(x, 1, intermediates_only=True, output_fmt='NHWC')
        tokens = model.forward_intermediates(x, 1, intermediates_only=True, output_fmt='NLC')
    assert torch.equal(last[0], maps[-1])
    assert torch.equal(chosen[0], maps[-1])
    assert torch.equal(chosen[1], maps[0])
    assert torch.equal(early[0], maps[0])
    assert torch.equal(nhwc[0], maps[-1].permute(0, 2, 3, 1))
    assert torch.equal(tokens[0], maps[-1].flatten(2).transpose(1, 2))


@pytest.mark.parametrize('family', FAMILIES)
def test_features_only_is_the_levels(family: str) -> None:
    model = tiny(family)
    pyramid = tiny(family, features_only=True, out_indices=[0, -1])
    x = images(model)
    pyramid.model.load_state_dict(model.state_dict(), strict=False)
    with torch.inference_mode():
        maps = pyramid(x)
        wanted = model.forward_intermediates(x, [0, -1], intermediates_only=True)
    assert [m.shape[1] for m in maps] == pyramid.feature_info.channels()
    for ours, theirs in zip(maps, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_pruned_trunk_gives_the_same_levels(family: str) -> None:
    model = tiny(family)
    x = images(model)
    with torch.inference_mode():
        wanted = model.forward_intermediates(x, [0], intermediates_only=True)[0]
        count = sum(p.numel() for p in model.parameters())
        assert model.prune_intermediate_layers([0]) == [0]
        assert torch.equal(model.forward_intermediates(x, [0], intermediates_only=True)[0], wanted)
        assert model(x).shape[0] == 2
    assert len(model.feature_info) == 1
    assert sum(p.numel() for p in model.parameters()) < count


@pytest.mark.parametrize('family', FAMILIES)
def test_checkpointing_changes_no_gradient(family: str) -> None:
    model = tiny(family).train()
    for module in model.modules():  # a checkpointed block runs twice: its running statistics move twice as well
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    x = images(model)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(2)  # what is dropped is drawn, and drawn again alike in the recomputation
        out = model(x)
        out = out if torch.is_tensor(out) else sum(out)
        out.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert any(isinstance(m, Blocks) and m.checkpointing for m in model.modules())
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        # recomputation repeats the same operations; only the order of sums may differ
        torch.testing.assert_close(
            gradients[1][name], gradient, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f'{n}: {m}'
        )


@pytest.mark.parametrize('family', FAMILIES)
def test_copies_compute_the_same(family: str) -> None:
    model = tiny(family)
    x = images(model)
    with torch.inference_mode():
        wanted = model(x)
        assert torch.equal(copy.deepcopy(model)(x), wanted)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), wanted)


@pytest.mark.parametrize('family', FAMILIES)
def test_compile_and_export_agree_with_eager(family: str) -> None:
    torch._dynamo.reset()  # all families share one `forward`, and its compiled versions are limited
    model = tiny(family)
    x = images(model)
    with torch.no_grad():
        wanted = model(x)
        compiled = torch.compile(model, fullgraph=True, backend='eager')(x)
        exported = torch.export.export(model, (x,)).module()(x)
    # the graph may fold permutations, which reorders sums: a few units in the last place
    torch.testing.assert_close(compiled, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_heads(family: str) -> None:
    model = tiny(family)
    x = images(model)
    with torch.inference_mode():
        features = model.forward_features(x)
        before = model.forward_head(features, pre_logits=True)
        assert before.shape == (2, model.head_hidden_size)
        model.reset_classifier(7)
        assert model(x).shape == (2, 7)
        assert model.num_classes == 7
        assert model.get_classifier() is not None
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)
        model.reset_classifier(0, '')
        assert model(x).ndim >= 3 or model.parts.layout == 'NLC' or family in {'vgg'}
        model.reset_classifier(5, '')
        assert 5 in model(x).shape
    fresh = tiny(family, num_classes=0)
    with torch.inference_mode():
        assert fresh(x).shape == (2, fresh.head_hidden_size)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('channels', [1, 13])
def test_input_channels(family: str, channels: int) -> None:
    model = tiny(family, in_chans=channels)
    with torch.inference_mode():
        assert model(images(model, channels)).shape == (2, model.num_classes)


@pytest.mark.parametrize('family', FAMILIES)
def test_layer_depths_grow_with_depth(family: str) -> None:
    model = tiny(family)
    depths = model.layer_depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    head = model.parts.classifier.split()[0]
    assert depths[f'{head}.weight'] == max(depths.values())
    assert min(depths.values()) <= 1  # a VGG has no stem
    # consecutive: a decay of d a layer leaves no gaps
    assert set(depths.values()) >= set(range(1, max(depths.values())))


@pytest.mark.parametrize('name', [*(name for name, _ in TINY.values()), 'resnetblur18'])
def test_built_on_meta_then_loaded(name: str) -> None:
    settings = dict(TINY.values()).get(name, {})
    whole = foveal.create_model(name, **settings).eval()
    with torch.device('meta'):
        model = foveal.create_model(name, **settings).eval()
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    model = model.to_empty(device='cpu')
    model.reset_buffers()
    model.load_state_dict(whole.state_dict())
    x = images(whole)
    with torch.inference_mode():
        assert torch.equal(model(x), whole(x))


@pytest.mark.parametrize('family', FAMILIES)
def test_every_weight_is_drawn(family: str) -> None:
    """Layers are built empty; two builds from one seed agree only where all weights were drawn."""
    first, second = tiny(family).state_dict(), tiny(family).state_dict()
    for name, value in first.items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, second[name]), name


def test_large_weights_are_the_same_on_any_number_of_cores_and_in_inference_mode() -> None:
    """They are drawn in chunks by threads."""
    threads, drawn = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        with torch.inference_mode(count == 2):
            drawn.append(truncated_normal(torch.empty(1024, 1024)))
    torch.set_num_threads(threads)
    assert torch.equal(*drawn)
    # of a million values: the standard error of the deviation is 0.02 / sqrt(2e6)
    assert abs(drawn[0].std().item() - 0.02) < 1e-4


def test_small_stem_keeps_the_size_of_small_images() -> None:
    model = foveal.create_model('resnet18', stem_type='small', in_chans=1, layers=(1, 2, 2), channels=(8, 16, 32))
    levels = model.forward_intermediates(torch.zeros(2, 1, 28, 28), intermediates_only=True)
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 28, 28), (8, 28, 28), (16, 14, 14), (32, 7, 7)]
    assert model.feature_info.reduction() == [1, 1, 2, 4]
