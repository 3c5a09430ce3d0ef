"""Averages of checkpoints and checkpoints cut down: real files, sums by NumPy, the command line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from torch import Tensor

import foveal
from foveal.cli import main
from foveal.data import Preprocess
from foveal.engine import checkpoint
from foveal.engine.average import average, fingerprint, greedy_soup
from foveal.weights import read_weights

HEADER = {
    'model': 'test_resnet',
    'model_options': {},
    'classes': ['a', 'b'],
    'preprocess': Preprocess().to_dict(),
    'epoch': 1,
    'metrics': {},
}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes the checkpoint of a small model whose weights a seed decides."""

    def write(seed: int, name: str | None = None, **header: Any) -> Path:
        torch.manual_seed(seed)
        model = foveal.create_model('test_resnet', num_classes=2)
        model.bn1.num_batches_tracked += seed
        path = tmp_path / f'{name or seed}.safetensors'
        checkpoint.save(path, model, {**HEADER, **header}, {'optimizer:0.exp_avg': torch.zeros(3)})
        return path

    return write


def test_mean_of_three(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [make(seed) for seed in (1, 2, 3)]
    out = tmp_path / 'mean.safetensors'
    assert main(['average', *map(str, paths), '--output', str(out)]) == 0
    mean, files = load_numpy(out), [load_numpy(path) for path in paths]
    assert mean.keys() == read_weights(paths[0]).keys() - {'optimizer:0.exp_avg'}
    for name, value in mean.items():
        if name.endswith('num_batches_tracked'):
            assert value == files[2][name]
        else:
            expected = np.mean([file[name].astype(np.float64) for file in files], axis=0)
            np.testing.assert_array_equal(value, expected.astype(np.float32))
    # it is a model that can be used
    assert checkpoint.load_model(str(out)).classes == ['a', 'b']
    assert fingerprint(read_weights(out))[:8] in capsys.readouterr().out


def test_one_is_itself(make: Make) -> None:
    path = make(1)
    assert fingerprint(average([path]).tensors) == fingerprint(checkpoint.load(path).weights)


def test_other_models_do_not_mix(make: Make, tmp_path: Path) -> None:
    first = make(1)
    with pytest.raises(ValueError, match='has another classes than'):
        average([first, make(2, classes=['a', 'c'])])
    plain = tmp_path / 'plain.pth'
    weights = dict(checkpoint.load(first).weights)
    torch.save({**weights, 'fc.weight': torch.zeros(3, 1)}, plain)
    other = tmp_path / 'other.pth'
    torch.save({'state_dict': weights}, other)
    with pytest.raises(ValueError, match=r'fc.weight is \(3, 1\) there'):
        average([other, plain])
    with pytest.raises(ValueError, match='nothing to average'):
        average([])


@pytest.mark.parametrize('wrapped', [True, False])
def test_clean(make: Make, tmp_path: Path, wrapped: bool) -> None:
    source = make(1, 'last')
    weights = checkpoint.load(source).weights
    if wrapped:
        source = tmp_path / 'last.pth.tar'
        torch.save({'state_dict': {f'module.{name}': t for name, t in weights.items()}, 'epoch': 3}, source)
    assert main(['clean', str(source)]) == 0
    target = tmp_path / f'last-clean-{fingerprint(weights)[:8]}.safetensors'
    cleaned = read_weights(target)
    assert cleaned.keys() == weights.keys()
    assert all(torch.equal(cleaned[name], weights[name]) for name in weights)
    assert checkpoint.is_checkpoint(target) == (not wrapped)
    foveal.create_model('test_resnet', num_classes=2, checkpoint_path=str(target))


def test_clean_halves_and_says_nothing_of_its_model(make: Make, tmp_path: Path) -> None:
    out = tmp_path / 'out.safetensors'
    assert main(['clean', str(make(1)), '--output', str(out), '--half', '--plain', '--no-hash']) == 0
    assert {t.dtype for t in read_weights(out).values()} == {torch.float16, torch.int64}
    assert not checkpoint.is_checkpoint(out)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['average', 'none.safetensors'], 'none.safetensors'),
        (['average', 'a', 'b', '--greedy'], 'give --data'),
        (['clean', 'none.pth'], 'none.pth'),
        (['clean', 'none.pth', '--output', 'x.pth'], 'must end in .safetensors'),
        (['average', 'a', '--output', 'no/folder.safetensors'], 'folder no does not exist'),
    ],
)
def test_what_a_person_gets_wrong(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def score(weights: Mapping[str, Tensor]) -> float:
    """Stands for a validation: how near a weight is to 1."""
    return -abs(weights['w'].item() - 1)


@pytest.mark.parametrize(
    ('values', 'chosen'), [((0.8, 1.1, 5.0), (1.1, 0.8)), ((1.0, 0.0), (1.0,)), ((0.5, 2.0, 1.4), (1.4, 0.5))]
)
def test_greedy(tmp_path: Path, values: tuple[float, ...], chosen: tuple[float, ...]) -> None:
    """1.1 alone is 0.1 off, with 0.8 it is 0.05 off, and 5.0 only harms; and so on, by hand."""
    paths = {}
    for value in values:
        paths[tmp_path / f'{value}.pth'] = value
        torch.save({'w': torch.tensor(value)}, tmp_path / f'{value}.pth')
    assert tuple(paths[Path(path)] for path in greedy_soup(list(paths), score)) == chosen
