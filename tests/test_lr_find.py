"""The learning-rate range test."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foveal
from foveal import cli
from foveal.engine import lr_find
from foveal.engine.config import TrainConfig
from foveal.engine.lr_find import RangeTest, range_test
from foveal.save import save_pretrained
from tests.images import write_folder

torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A training of four updates an epoch, in a folder where nothing else is."""
    data = write_folder(tmp_path / 'colours')
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return TrainConfig(
        data=str(data), model='test_convnext', img_size=32, batch_size=12, workers=0, device='cpu', threads=1, opt='sgd'
    )


def test_the_mean_is_a_weighted_mean() -> None:
    losses = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    weights = [0.9 ** np.arange(n)[::-1] for n in range(1, 7)]
    expected = [np.average(losses[: len(w)], weights=w) for w in weights]
    # float64 sums in another order
    np.testing.assert_allclose(RangeTest([1.0] * 6, losses).smooth, expected, rtol=1e-12)


@pytest.mark.parametrize('middle', [1e-4, 1e-2])
def test_the_steepest_place_of_a_known_curve_is_found(middle: float) -> None:
    rates = np.geomspace(1e-7, 1, 400)
    losses = 2 - np.tanh(2 * np.log10(rates / middle)) + 100 * np.maximum(0, rates - 0.3)
    found = RangeTest(rates.tolist(), losses.tolist())
    assert found.suggestion is not None
    # the mean of 400 updates over seven decades lags by about ten updates, a sixth of a decade
    assert 1 < found.suggestion / middle < 10 ** (1 / 4)
    assert 10 * middle < found.rates[found.lowest] < 0.4


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    rates = np.geomspace(1e-7, 1, 50).tolist()
    assert RangeTest(rates, np.linspace(1, 2, 50).tolist()).suggestion is None


def test_rates_rise_by_a_factor_until_the_loss_diverges(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used: list[list[float]] = []
    original = lr_find.update

    def update(run: Any, *rest: Any) -> torch.Tensor:
        used.append([group['lr'] for group in run.optimizer.param_groups])
        return original(run, *rest)

    monkeypatch.setattr(lr_find, 'update', update)
    found = range_test(replace(config, layer_decay=0.5), 1e-5, 1e3, 40, 4.0)
    assert found.diverged
    assert len(found.rates) == len(found.losses) < 40
    assert all(math.isfinite(loss) for loss in found.losses)
    expected = np.geomspace(1e-5, 1e3, 40)[: len(found.rates)]
    # forty float64 products
    np.testing.assert_allclose(found.rates, expected, rtol=1e-12)
    # groups keep their ratios, the highest is the one that is told
    rows = np.array(used)[: len(found.rates)]
    np.testing.assert_allclose(rows.max(1), expected, rtol=1e-12)
    np.testing.assert_allclose(rows / rows.max(1, keepdims=True), np.broadcast_to(rows[0] / rows[0].max(), rows.shape))
    assert len(set(rows[0])) > 2
    capsys.readouterr()


def test_nothing_is_left_but_a_picture(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_pretrained(foveal.create_model('test_convnext', num_classes=3), Path('../weights'))
    weights = Path('../weights/model.safetensors').read_bytes()
    command = ['lr-find', '--data', config.data, '--model', 'test_convnext', '--img-size', '32', '--batch-size', '12']
    command += ['--workers', '0', '--device', 'cpu', '--threads', '1', '--opt', 'adamw', '--updates', '60']
    command += ['--checkpoint', '../weights/model.safetensors', '--lowest', '1e-5', '--highest', '1e-2']
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert 'suggestion: --lr ' in out
    assert 1e-5 < float(out.split('suggestion: --lr ')[1].split()[0]) < 1e-2
    assert os.listdir() == ['lr_find.png']
    assert Path('lr_find.png').read_bytes().startswith(b'\x89PNG')
    assert Path('../weights/model.safetensors').read_bytes() == weights


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ((1e-2, 1e-3, 20, 4.0), '0 < lowest < highest'),
        ((0.0, 1e-3, 20, 4.0), '0 < lowest < highest'),
        ((1e-5, 1e-3, 3, 4.0), 'updates must be at least 10'),
        ((1e-5, 1e-3, 20, 1.0), 'diverged must be above 1'),
        ((1e30, 1e36, 20, 4.0), 'give a lower lowest rate'),
    ],
)
def test_what_cannot_be_is_refused(config: TrainConfig, arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        range_test(config, *arguments)
