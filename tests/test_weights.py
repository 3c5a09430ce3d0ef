"""Weights from files: taken without a copy, fitted to other inputs and classes, and never in silence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import foveal
from foveal import registry
from foveal.labels import labels_of
from foveal.weights import WeightsError, adapt_input_channels, load_checkpoint, load_pretrained
from tests import reference
from tests.deterministic import fill, image

ADAPTED = [row for row in reference.rows('loaded') if 'names' not in row]
# of the outputs' standard deviation: what two orders of float32 summation differ by through twenty layers
TOLERANCE = 1e-3


@pytest.fixture
def published(tmp_path: Path):
    """A model, and what to lay over the record so that its weights are the published ones."""
    torch.manual_seed(0)
    model = foveal.create_model('test_convnext').eval()
    save_file(model.state_dict(), tmp_path / 'model.safetensors')
    return model, {'file': str(tmp_path / 'model.safetensors')}


def same_weights(loaded, model, without: str = 'nothing') -> bool:
    theirs = model.state_dict()
    names = [name for name in theirs if not name.startswith(without)]
    return all(torch.equal(loaded.state_dict()[name], theirs[name]) for name in names)


def test_the_weights_of_the_record_are_loaded(published) -> None:
    model, overlay = published
    loaded = foveal.create_model('test_convnext', pretrained=True, pretrained_cfg_overlay=overlay)
    assert same_weights(loaded, model)


def test_other_classes_leave_the_classifier_new(published) -> None:
    model, overlay = published
    loaded = foveal.create_model('test_convnext', pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay)
    assert loaded.head.fc.weight.shape == (7, 64)
    assert 0 < loaded.head.fc.weight.std() < 1, 'drawn, not left as memory was'
    assert not loaded.head.fc.bias.any()
    assert same_weights(loaded, model, without='head.fc')


def test_no_classes(published) -> None:
    model, overlay = published
    loaded = foveal.create_model('test_convnext', pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    assert same_weights(loaded, model, without='head.fc')


def test_a_grey_image_gives_what_three_equal_channels_gave(published) -> None:
    model, overlay = published
    loaded = foveal.create_model('test_convnext', pretrained=True, in_chans=1, pretrained_cfg_overlay=overlay).eval()
    grey = torch.randn(1, 1, 160, 160)
    with torch.inference_mode():
        # the sum over channels is taken in another order: a few units in the last place, through nine blocks
        torch.testing.assert_close(loaded(grey), model(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 13])
def test_constant_images_give_the_same_in_any_number_of_channels(channels: int) -> None:
    weight = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    weight[:, 1] = weight[:, 2] = weight[:, 0]  # equal channels: their sum is kept, whatever is cut off
    adapted = adapt_input_channels(weight, channels)
    torch.testing.assert_close(adapted.sum(1), weight.sum(1), rtol=1e-12, atol=1e-12)


def test_leading_classes_are_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = foveal.create_model('test_convnext', num_classes=1001).state_dict()
    save_file(weights, tmp_path / 'model.safetensors')
    overlay = {'file': str(tmp_path / 'model.safetensors'), 'label_offset': 1}
    loaded = foveal.create_model('test_convnext', pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(loaded.head.fc.weight, weights['head.fc.weight'][1:])


def test_no_weights_is_an_error() -> None:
    with pytest.raises(WeightsError, match='no published weights'):
        foveal.create_model('test_convnext', pretrained=True, pretrained_cfg={'architecture': 'test_convnext'})


def test_without_a_network_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(WeightsError, match=r'cannot fetch model\.safetensors of timm/test_convnext'):
        foveal.create_model('test_convnext', pretrained=True, cache_dir=tmp_path)


@pytest.mark.parametrize('row', ADAPTED, ids=lambda row: f'{row["arch"]} {row["options"]}')
def test_weights_for_other_sizes_and_channels_give_the_published_outputs(row, tmp_path: Path) -> None:
    small = row.get('of', {})
    save_file(fill(foveal.create_model(row['arch'], **small)).state_dict(), tmp_path / 'model.safetensors')
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in row['options'].items()}
    overlay = {'file': str(tmp_path / 'model.safetensors')}
    model = foveal.create_model(row['arch'], pretrained=True, pretrained_cfg_overlay=overlay, **small, **options).eval()
    size = options.get('img_size', model.pretrained_cfg.input_size[1:])
    height, width = (size, size) if isinstance(size, int) else size
    with torch.inference_mode():
        logits = model(image((options.get('in_chans', 3), height, width)))[0, :16]
    torch.testing.assert_close(logits, torch.tensor(row['logits']), rtol=0, atol=TOLERANCE * row['std'])


def test_a_file_is_mapped_and_training_leaves_it_as_it_is(published) -> None:
    model, overlay = published
    path = Path(overlay['file'])
    before = path.read_bytes()
    loaded = foveal.create_model('test_convnext', checkpoint_path=path)
    assert str(path) in Path('/proc/self/maps').read_text(), 'the weights lie in the file, not in a copy'
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=0.1)
    loaded(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    assert not same_weights(loaded, model)
    assert path.read_bytes() == before
    again = foveal.create_model('test_convnext', checkpoint_path=path)
    assert same_weights(again, model), 'what one model learns does not reach another on the same file'
    save_file(loaded.state_dict(), path)
    assert same_weights(foveal.create_model('test_convnext', checkpoint_path=path), loaded), 'saved over its own file'


def test_weights_given_as_tensors_stay_their_owner_s(published) -> None:
    model, _ = published
    given = {name: value.clone() for name, value in model.state_dict().items()}
    overlay = {'state_dict': given}
    loaded = foveal.create_model('test_convnext', pretrained=True, pretrained_cfg_overlay=overlay)
    with torch.no_grad():
        loaded.head.fc.weight.zero_()
    assert same_weights(model, model)
    assert torch.equal(given['head.fc.weight'], model.head.fc.weight)


def test_tensors_that_a_file_stores_once_are_trained_apart(tmp_path: Path) -> None:
    weights = foveal.create_model('test_convnext').state_dict()
    weights['stages.0.blocks.0.norm.bias'] = weights['stages.0.blocks.0.norm.weight']
    torch.save(weights, tmp_path / 'tied.pth')
    norm = foveal.create_model('test_convnext', checkpoint_path=tmp_path / 'tied.pth').stages[0].blocks[0].norm
    with torch.no_grad():
        norm.weight.zero_()
    assert norm.bias.all()


def test_types_are_the_model_s(tmp_path: Path) -> None:
    weights = foveal.create_model('test_convnext').state_dict()
    save_file({name: value.half() for name, value in weights.items()}, tmp_path / 'half.safetensors')
    loaded = foveal.create_model('test_convnext', checkpoint_path=tmp_path / 'half.safetensors')
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize('wrapper', ['state_dict', 'state_dict_ema', 'model', 'model_ema', 'encoder'])
@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'module._orig_mod.'])
def test_wrappers_come_off(published, tmp_path: Path, wrapper: str, prefix: str) -> None:
    model, _ = published
    weights = {f'{prefix}{name}': value for name, value in model.state_dict().items()}
    torch.save({wrapper: weights, 'epoch': 3, 'arch': 'test_convnext'}, tmp_path / 'run.pth.tar')
    assert same_weights(foveal.create_model('test_convnext', checkpoint_path=tmp_path / 'run.pth.tar'), model)


def test_wrappers_come_off_each_other_and_end(published, tmp_path: Path) -> None:
    model, _ = published
    torch.save({'state_dict': {'model': model.state_dict()}}, tmp_path / 'twice.pth')
    assert same_weights(foveal.create_model('test_convnext', checkpoint_path=tmp_path / 'twice.pth'), model)
    endless: dict = {}
    endless['model'] = endless
    torch.save(endless, tmp_path / 'endless.pth')
    with pytest.raises(WeightsError, match='does not hold named tensors'):
        foveal.create_model('test_convnext', checkpoint_path=tmp_path / 'endless.pth')


def test_not_strict_says_what_it_passes_over_and_draws_what_is_missing(published, tmp_path: Path) -> None:
    model, _ = published
    weights = {name.replace('conv_dw', 'dwconv'): value for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / 'renamed.safetensors')
    overlay = {'file': str(tmp_path / 'renamed.safetensors')}
    with pytest.raises(
        WeightsError, match=r'missing: \S*conv_dw\.\S+ \(there is \S*dwconv\S*\).* and \d+ more; unexpected: '
    ):
        foveal.create_model('test_convnext', pretrained=True, pretrained_cfg_overlay=overlay)
    with pytest.warns(UserWarning, match=r'missing: .*conv_dw.*unexpected: .*dwconv'):
        loaded = foveal.create_model(
            'test_convnext', pretrained=True, pretrained_cfg_overlay=overlay, pretrained_strict=False
        )
    drawn = loaded.stages[1].blocks[0].conv_dw.weight
    assert 0 < drawn.std() < 1
    assert torch.equal(loaded.head.fc.weight, model.head.fc.weight)


def test_not_strict_leaves_a_model_s_own_weights(published, tmp_path: Path) -> None:
    model, _ = published
    save_file({'head.fc.bias': torch.ones(1000)}, tmp_path / 'bias.safetensors')
    other = foveal.create_model('test_convnext')
    stem = other.stem[0].weight.clone()
    with pytest.warns(UserWarning, match='missing: '):
        missing = load_checkpoint(other, tmp_path / 'bias.safetensors', strict=False)
    assert torch.equal(other.stem[0].weight, stem)
    assert (other.head.fc.bias == 1).all()
    assert set(missing) == set(model.state_dict()) - {'head.fc.bias'}


def test_a_wrong_shape_is_an_error_even_where_not_strict(published, tmp_path: Path) -> None:
    model, _ = published
    save_file(
        {**model.state_dict(), 'norm.weight': torch.zeros(3), 'stem.1.bias': torch.zeros(5)}, tmp_path / 'x.safetensors'
    )
    with pytest.raises(WeightsError, match=r'stem\.1\.bias is \(5,\), the model has \(24,\)'):
        load_checkpoint(foveal.create_model('test_convnext'), tmp_path / 'x.safetensors', strict=False)


@pytest.mark.parametrize('lost', ['head_dist.weight', 'head_dist.bias', 'head.bias', 'dist_token'])
def test_what_is_missing_is_drawn_and_nothing_else(lost: str, tmp_path: Path) -> None:
    options = dict(depth=1, num_classes=5)
    whole = foveal.create_model('deit_tiny_distilled_patch16_224', **options).state_dict()
    with torch.no_grad():
        whole['head_dist.bias'] += 1
    save_file({name: value for name, value in whole.items() if name != lost}, tmp_path / 'part.safetensors')
    with pytest.warns(UserWarning, match=f'missing: {lost}$'):
        model = foveal.create_model(
            'deit_tiny_distilled_patch16_224',
            checkpoint_path=tmp_path / 'part.safetensors',
            pretrained_strict=False,
            **options,
        )
    found = model.state_dict()
    assert [name for name in whole if not torch.equal(whole[name], found[name])] in ([lost], [])
    assert found[lost].isfinite().all()
    assert found[lost].std() < 1


def test_other_classes_in_a_file_are_an_error_that_says_what_to_do(published) -> None:
    _, overlay = published
    with pytest.raises(WeightsError, match=r"head\.fc\.weight is \(1000, 64\).*pretrained_cfg_overlay=\{'file': ...\}"):
        foveal.create_model('test_convnext', num_classes=7, checkpoint_path=overlay['file'])


def test_weights_of_a_feature_extractor_have_flattened_names(published, tmp_path: Path) -> None:
    model, _ = published
    flat = {
        name.replace('.', '_', 1): value.clone()
        for name, value in model.state_dict().items()
        if not name.startswith('head')
    }
    assert 'stages_0.blocks.0.gamma' in flat
    save_file(flat, tmp_path / 'flat.safetensors')
    features = foveal.create_model('test_convnext', features_only=True, checkpoint_path=tmp_path / 'flat.safetensors')
    assert torch.equal(features.model.stages[1].downsample[1].weight, model.stages[1].downsample[1].weight)
    whole = foveal.create_model(
        'test_convnext', features_only=True, out_indices=(0, 1), pretrained=True, **of(published)
    )
    assert torch.equal(whole.model.stages[1].downsample[1].weight, model.stages[1].downsample[1].weight)


def test_weights_of_our_own_feature_extractor_load_again(tmp_path: Path) -> None:
    features = foveal.create_model('test_vit', features_only=True, out_indices=(1, 2))
    torch.save(features.state_dict(), tmp_path / 'features.pth')
    options = dict(features_only=True, out_indices=(1, 2), checkpoint_path=tmp_path / 'features.pth')
    assert same_weights(foveal.create_model('test_vit', **options), features)


def test_thirteen_bands_become_three(tmp_path: Path) -> None:
    wide = foveal.create_model('test_convnext', in_chans=13)
    save_file(wide.state_dict(), tmp_path / 'wide.safetensors')
    narrow = foveal.create_model('test_convnext', checkpoint_path=tmp_path / 'wide.safetensors')
    # the first three bands, scaled by the number of bands that fall to each
    torch.testing.assert_close(narrow.stem[0].weight, wide.stem[0].weight[:, :3] * 13 / 3)
    assert same_weights(narrow, wide, without='stem.0.weight')


@pytest.mark.parametrize('name', ['swin_tiny_patch4_window7_224', 'resnetblur50', 'test_vit'])
@pytest.mark.parametrize('given', [True, False])
def test_a_model_on_the_meta_device_comes_to_life(name: str, given: bool, tmp_path: Path) -> None:
    model = foveal.create_model(name).eval()
    save_file(model.state_dict(), tmp_path / 'model.safetensors')
    with torch.device('meta'):
        loaded = foveal.create_model(name).eval()
    if given:
        loaded.pretrained_cfg = foveal.PretrainedCfg.from_dict(
            {**loaded.pretrained_cfg, 'state_dict': model.state_dict()}
        )
        load_pretrained(loaded)
    else:
        load_checkpoint(loaded, tmp_path / 'model.safetensors')
    x = image((3, 224, 224))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-3, atol=1e-4)  # other alignment, other kernels


@pytest.fixture
def own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test register models that are gone after it."""
    monkeypatch.setattr(registry, '_own', dict(registry._own))
    monkeypatch.setattr(registry.catalog(), 'archs', dict(registry.catalog().archs))


@pytest.mark.usefixtures('own_models')
def test_a_user_s_subclass_is_set_up_whole(published) -> None:
    model, overlay = published

    @foveal.register_model(name='counting')
    class Counting(type(model)):
        def __init__(self, cfg=None, **options) -> None:
            super().__init__(cfg, **options)
            self.calls = 0

    loaded = foveal.create_model('counting', checkpoint_path=overlay['file'], **vars(model.cfg))
    assert loaded.calls == 0
    assert same_weights(loaded, model)


def of(published) -> dict:
    """What makes `create_model` load the published weights."""
    return {'pretrained_cfg_overlay': published[1]}


def test_positions_that_fill_no_grid_are_refused(tmp_path: Path) -> None:
    weights = foveal.create_model('test_vit').state_dict()
    save_file({**weights, 'pos_embed': torch.zeros(1, 1 + 97, 64)}, tmp_path / 'odd.safetensors')
    with pytest.raises(
        WeightsError, match=r'pos_embed: 97 positions are no square, and the published size has 10 x 10'
    ):
        foveal.create_model('test_vit', checkpoint_path=tmp_path / 'odd.safetensors')


def test_oblong_positions_are_resampled_as_the_record_says_they_lie(tmp_path: Path) -> None:
    oblong = foveal.create_model('test_vit', img_size=(64, 144))  # 4 x 9 patches, which could be 6 x 6
    save_file(oblong.state_dict(), tmp_path / 'oblong.safetensors')
    overlay = {'file': str(tmp_path / 'oblong.safetensors'), 'input_size': (3, 64, 144)}
    loaded = foveal.create_model('test_vit', pretrained=True, pretrained_cfg_overlay=overlay, img_size=(128, 144))
    oblong.set_input_size((128, 144))
    torch.testing.assert_close(loaded.pos_embed, oblong.pos_embed)


def test_preprocessing_follows_the_model() -> None:
    resolve, sizes = foveal.data.resolve_data_config, {}
    for options in ({}, {'img_size': 96}, {'in_chans': 1}, {'img_size': (96, 160), 'in_chans': 4}):
        model = foveal.create_model('vit_tiny_patch16_224', depth=1, **options)
        assert model.preprocess == resolve(model=model)
        sizes[str(options)] = model.preprocess.input_size
        x = torch.zeros(1, *model.preprocess.input_size)
        assert model.eval()(x).shape == (1, 1000), 'what it says is what the model takes'
    assert list(sizes.values()) == [(3, 224, 224), (3, 96, 96), (1, 224, 224), (4, 96, 160)]
    assert foveal.create_model('resnet18').preprocess.input_size == (3, 224, 224)
    test_size = resolve(model=foveal.create_model('resnet18', in_chans=1), use_test_size=True)
    assert test_size.input_size == (1, 288, 288)


def test_a_folder_that_the_peer_wrote(tmp_path: Path) -> None:
    """The config.json of timm's own saving, with its options, labels and preprocessing."""
    torch.manual_seed(0)
    weights = foveal.create_model('test_vit', img_size=96, num_classes=3).state_dict()
    torch.save(weights, tmp_path / 'pytorch_model.bin')
    config = {
        'architecture': 'test_vit',
        'num_classes': 3,
        'num_features': 64,
        'global_pool': 'token',
        'label_names': ['cat', 'cup', 'fox'],
        'label_descriptions': {'cat': 'a cat', 'cup': 'a cup', 'fox': 'a fox'},
        'model_args': {'img_size': [96, 96], 'num_classes': 3, 'in_chans': 3, 'global_pool': 'token'},
        'pretrained_cfg': {
            'tag': 'r160_in1k', 'custom_load': False, 'input_size': [3, 96, 96], 'fixed_input_size': True,
            'interpolation': 'bilinear', 'crop_pct': 0.9, 'crop_mode': 'center', 'mean': [0.5, 0.5, 0.5],
            'std': [0.5, 0.5, 0.5], 'num_classes': 3, 'pool_size': None, 'first_conv': 'patch_embed.proj',
            'classifier': 'head', 'license': 'apache-2.0',
        },
    }  # fmt: skip
    (tmp_path / 'config.json').write_text(json.dumps(config))
    model = foveal.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert (model.preprocess.input_size, model.preprocess.interpolation) == ((3, 96, 96), 'bilinear')
    assert [label.description for label in labels_of(model)] == ['a cat', 'a cup', 'a fox']
    other = foveal.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=7, img_size=64)
    assert other.head.weight.shape == (7, 64)
    assert labels_of(other) is None
    assert foveal.create_model(f'local-dir:{tmp_path}').num_classes == 3


@pytest.mark.parametrize(
    ('name', 'error', 'said'),
    [
        ('timm/resnet50.a1_in1k', ValueError, r'hf-hub:timm/resnet50\.a1_in1k'),
        ('hub:timm/resnet50', ValueError, r'hf-hub:ORG/REPO or local-dir:FOLDER, not hub:'),
        ('local-dir:/nowhere', FileNotFoundError, r'/nowhere/config\.json'),
    ],
)
def test_names_that_say_no_place(name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        foveal.create_model(name)
