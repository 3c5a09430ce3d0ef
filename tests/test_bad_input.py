"""What is given wrongly, and what is said: before anything is built, with what is legal."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import foveal
from foveal.weights import WeightsError, load_checkpoint, read_weights

# name, options -> words that the message must hold
GIVEN: list[tuple[str, dict[str, Any], list[str]]] = [
    ('resnet5O', {}, ['resnet5O', 'resnet50']),
    ('resnet50.a1_in22k', {}, ['a1_in22k', 'a1_in1k']),
    ('resnet50', dict(drop_pth_rate=0.1), ['drop_pth_rate', 'drop_path_rate']),
    ('resnet50', dict(num_classes=-1), ['num_classes', '-1']),
    ('resnet50', dict(in_chans=0), ['in_chans', '0']),
    ('resnet50', dict(drop_path_rate=1.5), ['drop_path_rate', '1.5', '[0, 1)']),
    ('resnet50', dict(output_stride=12), ['output_stride', '12', '8, 16 or 32']),
    ('resnet50', dict(global_pool='mean'), ['global_pool', 'mean', 'avg']),
    ('resnet50', dict(act_layer='rellu'), ['rellu', 'relu']),
    ('resnet50', dict(features_only=True, out_indices=[5]), ['out_indices', '5', '-5 to 4']),
    ('resnet50', dict(features_only=True, out_indices=9), ['out_indices', '9', '1 to 5']),
    ('resnet50', dict(out_indices=[1]), ['out_indices', 'features_only']),
    ('resnet50', dict(img_size=224), ['img_size']),
    ('vit_base_patch16_224', dict(img_size=225), ['225', '16', '224x224', '240x240', 'dynamic_img_pad']),
    ('vit_base_patch16_224', dict(num_heads=7), ['num_heads', '7', '768']),
    ('vit_base_patch16_224', dict(global_pool='toke'), ['toke', 'token']),
    ('vit_base_patch16_224', dict(class_token=False), ['class_token', "'avg'"]),
    ('vit_base_patch16_224', dict(block_fn='paralel'), ['paralel', 'parallel']),
    ('vit_base_patch16_224', dict(output_stride=16), ['output_stride']),
    ('convnext_tiny', dict(stem_type='overlapp'), ['overlapp', 'overlap']),
    ('convnext_tiny', dict(norm_layer='layernrm'), ['layernrm', 'layernorm']),
    ('convnext_tiny', dict(pretrained_cfg_overlay=dict(input_sise=3)), ['input_sise', 'input_size']),
    ('swin_tiny_patch4_window7_224', dict(img_size=225), ['225', '4']),
]


@pytest.mark.parametrize(('name', 'options', 'said'), GIVEN, ids=[f'{n}-{list(o)}' for n, o, _ in GIVEN])
def test_a_wrong_argument_is_refused(name: str, options: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the words are checked below)
        foveal.create_model(name, **options)
    assert all(word in str(error.value) for word in said), str(error.value)


def test_images_of_another_size_are_refused() -> None:
    model = foveal.create_model('test_vit3', num_classes=3)
    with pytest.raises(ValueError, match='160x160, got 128x128'):
        model(torch.zeros(1, 3, 128, 128))


def test_indices_and_layouts_of_intermediates() -> None:
    model = foveal.create_model('test_convnext')
    x = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match='-4 to 3'):
        model.forward_intermediates(x, [4])
    with pytest.raises(ValueError, match=r'NHCW.*NCHW, NHWC, NLC'):
        model.forward_intermediates(x, output_fmt='NHCW')


def test_checkpoints_that_do_not_fit(tmp_path: Any) -> None:
    model = foveal.create_model('test_convnext')
    with pytest.raises(FileNotFoundError, match=r'nowhere\.safetensors'):
        load_checkpoint(model, tmp_path / 'nowhere.safetensors')
    weights = model.state_dict()
    renamed = {name.replace('head.fc', 'head.classifier'): value.clone() for name, value in weights.items()}
    save_file(renamed, tmp_path / 'renamed.safetensors')
    with pytest.raises(WeightsError, match=r'missing: head\.fc\.weight.*unexpected: head\.classifier'):
        load_checkpoint(model, tmp_path / 'renamed.safetensors')
    save_file({**weights, 'head.fc.weight': torch.zeros(5, 64)}, tmp_path / 'shape.safetensors')
    with pytest.raises(WeightsError, match=r'head\.fc\.weight is \(5, 64\), the model has \(1000, 64\)'):
        load_checkpoint(model, tmp_path / 'shape.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'shape.safetensors').read_bytes()[:1000])
    with pytest.raises(WeightsError, match='cannot read'):
        load_checkpoint(model, tmp_path / 'cut.safetensors')
    before = {name: value.clone() for name, value in weights.items()}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Hostile:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> Any:
        return print, ('executed',)


def test_a_pickle_is_never_run(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({'weight': Hostile()}, tmp_path / 'bomb.pth')
    with pytest.raises(WeightsError, match=r'bomb\.pth'):
        read_weights(tmp_path / 'bomb.pth')
    assert 'executed' not in capsys.readouterr().out


def test_wrapped_checkpoints_load(tmp_path: Any) -> None:
    model = foveal.create_model('test_convnext')
    wrapped = {f'module._orig_mod.{name}': value for name, value in model.state_dict().items()}
    torch.save({'epoch': 3, 'state_dict': wrapped}, tmp_path / 'run.pth')
    fresh = foveal.create_model('test_convnext', checkpoint_path=tmp_path / 'run.pth')
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True))
