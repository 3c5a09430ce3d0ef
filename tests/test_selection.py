"""Which epochs are kept, and where a run stops."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal.engine import checkpoint
from foveal.engine.build import build, open_data
from foveal.engine.config import TrainConfig
from foveal.engine.distributed import Process
from foveal.engine.evaluate import evaluate
from foveal.engine.goals import Goal, ManyLabels, Numbers, OneLabel
from foveal.engine.judging import ValidateConfig
from foveal.engine.log import forget_updates
from foveal.engine.metrics import METRICS
from foveal.engine.selection import best_first
from foveal.engine.train import train
from foveal.engine.validate import Validator
from foveal.report.folder import RunFolder
from foveal.report.page import write_report
from tests.images import write_folder
from tests.runs import broken_and_whole

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # hard to tell apart, so that scores rise and fall
    near = {'blue': (100, 100, 120), 'green': (100, 120, 100), 'red': (120, 100, 100)}
    return write_folder(tmp_path_factory.mktemp('data') / 'colours', per_class=16, **near)


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return replace(config, epochs=3, mixup=0.2)


def rows(run: str, name: str = 'metrics') -> list[dict[str, float]]:
    """A .csv of a run, without what a clock says."""
    with (Path(run) / f'{name}.csv').open() as file:
        return [
            {key: float(value) for key, value in row.items() if key not in ('seconds', 'images_per_second')}
            for row in csv.DictReader(file)
        ]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path, 'last').weights


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_epochs_that_are_not_evaluated(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They change nothing of what is learnt, and are never the best."""
    config = replace(config, epochs=5, keep=3, metric='train_loss', milestones=[1])
    every = replace(config, output=str(tmp_path / 'every'))
    train(every)
    config = replace(config, val_interval=2)
    broken, whole = broken_and_whole(config, monkeypatch)
    assert equal(whole.weights, weights(Path(every.output)))
    for output in (config.output, broken.path.parent):
        known = RunFolder.read(output)
        assert [row['epoch'] for row in known.history] == [1, 2, 3, 4, 5]
        assert [row['epoch'] for row in known.history if 'val_top1' in row] == [2, 4, 5]
        of_all = [{**row, 'seconds': 0, 'images_per_second': 0} for row in RunFolder.read(every.output).history]
        for mine, its in zip(known.history, of_all, strict=True):
            assert its | mine | {'seconds': 0, 'images_per_second': 0} == its
        best = min((row for row in known.history if 'val_top1' in row), key=lambda row: row['train_loss'])
        assert known.best == best
        assert known.evaluation['epoch'] == checkpoint.load(output).header['epoch'] == best['epoch']
        names = sorted(path.name for path in (Path(output) / 'checkpoints').iterdir())
        assert names == [f'epoch-000{epoch}.safetensors' for epoch in (2, 4, 5)] + ['milestone-0001.safetensors']
    assert write_report(config.output).is_file()


def test_a_run_that_stops_before_its_first_evaluation(config: TrainConfig) -> None:
    config = replace(config, val_interval=3, stop_epoch=1)
    assert train(config).best is None
    assert not (Path(config.output) / 'best.safetensors').exists()
    assert RunFolder.read(config.output).best is None
    run = train(replace(config, stop_epoch=0, resume='auto'))
    assert run.best == run.history[2]['val_top1']


def test_a_batch_of_an_evaluation(config: TrainConfig) -> None:
    process = Process(0, 1, torch.device('cpu'))
    scores, sizes = [], []
    for size in (None, 5, 100):
        asked = replace(config, val_batch_size=size)
        run, train_loader, val_loader = build(asked, process, *open_data(asked))
        sizes.append([len(next(iter(loader)).images) for loader in (train_loader, val_loader)])
        scores.append(evaluate(run.model, val_loader, run.goal).to_dict())
    assert sizes == [[12, 12], [12, 5], [12, len(val_loader.dataset)]]
    for found in scores:
        # sums of other parts round otherwise
        assert found == pytest.approx(scores[0], rel=1e-6)


@pytest.mark.parametrize(
    ('metric', 'order'),
    [('val_loss', [2, 4, 3, 1]), ('val_top1', [1, 3, 4, 2]), ('val_r2', [3, 2, 4, 1]), ('plain_mae', [4, 1, 3, 2])],
)
def test_the_best_come_first(metric: str, order: list[int]) -> None:
    nan = math.nan
    values = {
        'val_loss': (nan, 0.1, 0.3, 0.1), 'val_top1': (9.0, nan, 9.0, 8.0), 'val_r2': (nan, -0.5, 0.2, -3.0),
        'plain_mae': (2.0, nan, 2.5, 1.0),
    }[metric]  # fmt: skip
    history = [{'epoch': i, 'val_loss': 0.0, metric: value} for i, value in enumerate(values, 1)]
    assert [row['epoch'] for row in best_first(history, metric)] == order


@pytest.mark.parametrize(
    ('goal', 'outputs', 'targets'),
    [
        (OneLabel(['a', 'b']), torch.eye(2), torch.arange(2)),
        (ManyLabels(['a', 'b']), torch.eye(2), torch.eye(2)),
        (Numbers(['a', 'b'], (0.0, 0.0), (1.0, 1.0)), torch.eye(2), torch.eye(2)),
    ],
)
def test_goals_say_what_their_scores_are(goal: Goal, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    meter = goal.meter(torch.device('cpu'))
    meter.update(outputs, targets)
    assert ('count', *goal.scores) == tuple(meter.compute().to_dict())
    assert set(goal.scores) <= METRICS.keys()
    assert goal.metric in goal.scores


@pytest.mark.parametrize(('metric', 'best'), [('val_loss', min), ('plain_top1', max)])
def test_an_epoch_is_the_best_by_any_column(config: TrainConfig, metric: str, best: type[min]) -> None:
    run = train(replace(config, metric=metric, ema=0.5, evaluate_plain=True, keep=2))
    history = rows(config.output)
    found = best(history, key=lambda row: row[metric])
    assert run.best == found[metric]
    assert checkpoint.load(Path(config.output)).header['epoch'] == found['epoch']
    ranked = sorted(history, key=lambda row: row[metric], reverse=best is max)[:2]
    kept = {path.name for path in (Path(config.output) / 'checkpoints').iterdir()}
    assert kept == {f'epoch-{row["epoch"]:04.0f}.safetensors' for row in ranked}


def test_the_weights_beside_their_mean(config: TrainConfig, folder: Path) -> None:
    train(replace(config, ema=0.8, evaluate_plain=True))
    last = rows(config.output)[-1]
    measure = ValidateConfig(source='', data=str(folder), device='cpu', workers=0)
    process = Process(0, 1, torch.device('cpu'))
    path = f'{config.output}/last.safetensors'
    for kind, mean in (('val', True), ('plain', False)):
        found = Validator(replace(measure, ema=mean), process)(path).result
        assert (last[f'{kind}_loss'], last[f'{kind}_top1']) == (pytest.approx(found['loss']), found['top1'])
    assert last['val_loss'] != last['plain_loss']


def test_milestones_stay_and_a_run_goes_on_from_one(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, milestones=[1, 2], keep=1, log_updates=3))
    folder = Path(config.output) / 'checkpoints'
    kept = sorted(path.name for path in folder.iterdir())
    assert kept[1:] == ['milestone-0001.safetensors', 'milestone-0002.safetensors']
    branch = tmp_path / 'branch'
    train(TrainConfig(resume=str(folder / kept[1]), output=str(branch)))
    assert rows(str(branch)) == rows(config.output)
    assert equal(weights(branch), weights(Path(config.output)))


def test_a_run_stops_within_its_schedule(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = replace(config, log_updates=3, output=str(tmp_path / 'whole'))
    train(whole)
    part = replace(config, log_updates=3, stop_epoch=2)
    assert train(part).epoch == 2
    assert rows(part.output) == rows(whole.output)[:2]
    assert 'stopped after 2 epochs' in capsys.readouterr().out
    train(TrainConfig(resume=part.output))
    assert rows(part.output) == rows(whole.output)
    assert equal(weights(Path(part.output)), weights(Path(whole.output)))
    ours, theirs = rows(part.output, 'updates'), rows(whole.output, 'updates')
    assert [row['update'] for row in ours] == [3, 7, 11]
    assert ours == theirs


def test_losses_of_updates_add_up_to_the_epochs(config: TrainConfig) -> None:
    train(replace(config, epochs=2, log_updates=2))
    updates = [row['loss'] for row in rows(config.output, 'updates')]
    means = [(a + b) / 2 for a, b in zip(updates[::2], updates[1::2], strict=True)]
    assert means == pytest.approx([row['train_loss'] for row in rows(config.output)], rel=1e-6)  # float32


def test_updates_that_are_made_again_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / 'updates.csv'
    path.write_text('update,epoch,loss\n10,1.0,2.5\n20,2.0,2.0\n30,3.0,1.5\n40,4.')
    forget_updates(path, 20)
    assert path.read_text() == 'update,epoch,loss\n10,1.0,2.5\n20,2.0,2.0\n'
    forget_updates(tmp_path / 'none.csv', 20)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'metric': 'val_top2'}, "metric must be a column of metrics.csv, got 'val_top2'; did you mean 'val_top"),
        ({'metric': 'plain_top1'}, "got 'plain_top1'"),
        ({'metric': 'lr'}, "got 'lr'; legal are train_loss, val_loss, val_top1, val_top5"),
        ({'milestones': [0, 2]}, r'milestones must be epochs, counted from 1, got \[0, 2\]'),
        ({'evaluate_plain': True}, 'evaluate_plain is for runs with ema'),
        ({'stop_epoch': -1}, 'stop_epoch must be at least 0'),
    ],
)
def test_mistakes_are_named(config: TrainConfig, options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(replace(config, **options))  # type: ignore[arg-type]
