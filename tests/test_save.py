"""Models saved and loaded again; folders that timm wrote; folders replaced whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

import foveal
from foveal.weights import WeightsError, read_weights
from tests.tiny import TINY

SAVED = Path(__file__).parent / 'reference' / 'saved'  # written by timm: see tests/make_saved_reference.py
CLASSES = [f'class {i}' for i in range(11)]


def images(model: torch.nn.Module) -> torch.Tensor:
    return torch.randn(2, *model.preprocess.input_size, generator=torch.Generator().manual_seed(0))


def logits(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(x)


@pytest.mark.parametrize('family', sorted(TINY))
def test_every_family_comes_back(family: str, tmp_path: Path) -> None:
    """Options, weights, labels and preprocessing of a model that differs from its architecture in all of them."""
    name, options = TINY[family]
    model = foveal.create_model(name, **{**options, 'in_chans': 4, 'drop_rate': 0.1})
    folder = model.save_pretrained(tmp_path / 'saved', label_names=CLASSES)
    again = foveal.create_model(f'local-dir:{folder}', pretrained=True)
    own, other = model.state_dict(), again.state_dict()
    assert list(own) == list(other)
    assert all(torch.equal(own[key], other[key]) for key in own)
    assert again.preprocess == model.preprocess
    assert again.pretrained_cfg.label_names == tuple(CLASSES)
    x = images(model)
    # mapped weights start at other addresses than allocated ones, for which kernels add up in another order
    torch.testing.assert_close(logits(again, x), logits(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('file', ['model.safetensors', 'pytorch_model.bin'])
def test_a_folder_that_timm_wrote(file: str, tmp_path: Path) -> None:
    for name in ('config.json', file):
        shutil.copy(SAVED / name, tmp_path)
    model = foveal.create_model(f'local-dir:{tmp_path}', pretrained=True)
    x = torch.linspace(-2, 2, 3 * 32 * 48).reshape(1, 3, 32, 48)
    expected = torch.tensor(json.loads((SAVED / 'logits.json').read_text()))
    # single precision through two blocks, added up in another order
    torch.testing.assert_close(logits(model, x), expected, rtol=1e-4, atol=1e-6)
    assert model.pretrained_cfg.label_names == ('cat', 'dog', 'owl')
    assert model.pretrained_cfg.label_descriptions == {'owl': 'a bird of the night'}


def test_what_is_written_says_what_timm_says(tmp_path: Path) -> None:
    """The config that timm wrote, loaded and saved again: equal but for what foveal says better, and the card."""
    foveal.create_model(f'local-dir:{SAVED}', pretrained=True).save_pretrained(tmp_path / 'saved')
    theirs, ours = (json.loads((folder / 'config.json').read_text()) for folder in (SAVED, tmp_path / 'saved'))
    record = theirs['pretrained_cfg']
    record['input_size'] = [3, 32, 48]  # timm keeps the published size beside the options of another one
    assert ours == theirs
    with safe_open(tmp_path / 'saved' / 'model.safetensors', 'pt') as file:
        assert file.metadata() == {'format': 'pt'}


def test_a_changed_head_and_size_are_saved(tmp_path: Path) -> None:
    model = foveal.create_model('test_vit')
    model.reset_classifier(5)
    model.set_input_size((96, 64))
    again = foveal.create_model(f'local-dir:{model.save_pretrained(tmp_path / "m")}', pretrained=True)
    assert again.preprocess.input_size == (3, 96, 64)
    x = images(model)
    torch.testing.assert_close(logits(again, x), logits(model, x), rtol=1e-4, atol=1e-5)


def test_a_changed_pooling_is_saved(tmp_path: Path) -> None:
    model = foveal.create_model('test_resnet', num_classes=3)
    model.reset_classifier(3, 'catavgmax')
    again = foveal.create_model(f'local-dir:{model.save_pretrained(tmp_path / "m")}', pretrained=True)
    torch.testing.assert_close(logits(again, images(model)), logits(model, images(model)), rtol=1e-4, atol=1e-5)


def test_other_classes_drop_the_labels(tmp_path: Path) -> None:
    model = foveal.create_model('test_vit', num_classes=2)
    model.save_pretrained(tmp_path / 'a', label_names=['cat', 'dog'])
    other = foveal.create_model(f'local-dir:{tmp_path / "a"}', pretrained=True, num_classes=3)
    assert 'label_names' not in json.loads((other.save_pretrained(tmp_path / 'b') / 'config.json').read_text())


def test_parts(tmp_path: Path) -> None:
    model = foveal.create_model('test_vit')
    model.save_pretrained(tmp_path / 'm')
    model.save_pretrained(tmp_path / 'm', max_shard_size='500KB')
    names = {path.name for path in (tmp_path / 'm').iterdir()}
    assert 'model.safetensors' not in names  # the whole file of before went with the old folder
    index = json.loads((tmp_path / 'm' / 'model.safetensors.index.json').read_text())
    assert set(index['weight_map'].values()) == {name for name in names if name.startswith('model-')}
    weights = read_weights(tmp_path / 'm' / 'model.safetensors.index.json')
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    (tmp_path / 'm' / index['weight_map']['norm.weight']).unlink()
    with pytest.raises(WeightsError, match='which is not there'):
        read_weights(tmp_path / 'm' / 'model.safetensors.index.json')


def test_the_card(tmp_path: Path) -> None:
    model = foveal.create_model('test_vit')
    words = {'license': 'mit', 'description': 'Tells owls.', 'datasets': ['owls'], 'metrics': {'accuracy': 0.5}}
    card = (model.save_pretrained(tmp_path / 'm', card=words) / 'README.md').read_text()
    _, header, text = card.split('---\n', 2)
    assert yaml.safe_load(header) == {
        'tags': ['image-classification', 'foveal'],
        'library_name': 'timm',
        'license': 'mit',
        'datasets': ['owls'],
    }
    assert 'Tells owls.' in text
    assert '| accuracy | 0.5 |' in text
    model.save_pretrained(tmp_path / 'm')
    assert (tmp_path / 'm' / 'README.md').read_text() == card
    with pytest.raises(ValueError, match="card has no 'licence'; did you mean 'license'"):
        model.save_pretrained(tmp_path / 'm', card={'licence': 'mit'})


def test_what_cannot_be_saved_is_refused_before_the_folder_is_touched(tmp_path: Path) -> None:
    cut = foveal.create_model('test_vit')
    cut.prune_intermediate_layers([1])
    with pytest.raises(ValueError, match='was changed after it was built'):
        cut.save_pretrained(tmp_path / 'm')
    with pytest.raises(ValueError, match='label_names has 1 names; the model has 1000'):
        foveal.create_model('test_vit').save_pretrained(tmp_path / 'm', label_names=['cat'])
    with pytest.raises(ValueError, match='give the architecture'):
        type(cut)(embed_dim=12, depth=1, num_heads=2).save_pretrained(tmp_path / 'm')
    with pytest.raises(ValueError, match=r'norm_layer is .*which config.json cannot hold'):
        foveal.create_model('test_resnet', norm_layer=torch.nn.BatchNorm2d).save_pretrained(tmp_path / 'm')
    with pytest.raises(ValueError, match='test_resnet is not built by VisionTransformer'):
        foveal.create_model('test_vit').save_pretrained(tmp_path / 'm', architecture='test_resnet')
    assert not (tmp_path / 'm').exists()


def test_a_model_built_by_its_class(tmp_path: Path) -> None:
    cls = type(foveal.create_model('test_vit'))
    model = cls(img_size=32, patch_size=8, embed_dim=12, depth=1, num_heads=2, num_classes=4)
    folder = model.save_pretrained(tmp_path / 'm', architecture='vit_tiny_patch16_224')
    x = torch.randn(1, 3, 32, 32)
    again = foveal.create_model(f'local-dir:{folder}', pretrained=True)
    torch.testing.assert_close(logits(again, x), logits(model, x), rtol=1e-4, atol=1e-5)


def test_saving_over_the_folder_that_the_weights_are_mapped_from(tmp_path: Path) -> None:
    foveal.create_model('test_vit').save_pretrained(tmp_path / 'm')
    model = foveal.create_model(f'local-dir:{tmp_path / "m"}', pretrained=True)
    with torch.no_grad():
        model.head.bias += 1
    model.save_pretrained(tmp_path / 'm')
    again = foveal.create_model(f'local-dir:{tmp_path / "m"}', pretrained=True)
    assert torch.equal(again.head.bias, model.head.bias)


# The folder.


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    folder = tmp_path / 'm'
    (folder / '.git').mkdir(parents=True)
    (folder / 'notes.txt').write_text('mine')
    (folder / 'pytorch_model.bin').write_text('old weights')
    foveal.create_model('test_vit').save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {'.git', 'notes.txt', 'config.json', 'model.safetensors', 'README.md'}
    assert [path.name for path in tmp_path.iterdir()] == ['m']


@pytest.mark.parametrize('where', ['foveal.save.save_file', 'foveal.files.exchange', 'os.fsync'])
def test_an_error_leaves_the_old_folder(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foveal.create_model('test_vit', num_classes=2).save_pretrained(tmp_path / 'm')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'm').iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match='No space'):
        foveal.create_model('test_vit', num_classes=3).save_pretrained(tmp_path / 'm')
    assert {path.name: path.read_bytes() for path in (tmp_path / 'm').iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ['m']


def test_where_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems than Linux rename twice."""
    monkeypatch.setattr('ctypes.CDLL', lambda _: object())
    for classes in (2, 3):
        foveal.create_model('test_vit', num_classes=classes).save_pretrained(tmp_path / 'm')
    assert json.loads((tmp_path / 'm' / 'config.json').read_text())['num_classes'] == 3
    assert [path.name for path in tmp_path.iterdir()] == ['m']


def test_a_folder_that_cannot_be_renamed_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'm').mkdir()
    monkeypatch.setattr(Path, 'is_mount', lambda self: self.name == 'm')
    inode = (tmp_path / 'm').stat().st_ino
    foveal.create_model('test_vit', num_classes=3).save_pretrained(tmp_path / 'm')
    assert (tmp_path / 'm').stat().st_ino == inode
    assert {p.name for p in (tmp_path / 'm').iterdir()} == {'config.json', 'model.safetensors', 'README.md'}


KILLED = """
import os, signal, sys
import foveal, foveal.save
model = foveal.create_model('test_vit', num_classes=3)
write = foveal.save.save_file
def die(*args):
    write(*args)
    os.kill(os.getpid(), signal.SIGKILL)
foveal.save.save_file = die
model.save_pretrained(sys.argv[1])
"""


def test_a_killed_process_leaves_the_old_folder(tmp_path: Path) -> None:
    foveal.create_model('test_vit', num_classes=2).save_pretrained(tmp_path / 'm')
    done = subprocess.run([sys.executable, '-c', KILLED, str(tmp_path / 'm')], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert foveal.create_model(f'local-dir:{tmp_path / "m"}', pretrained=True).num_classes == 2
