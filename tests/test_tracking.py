"""Trackers are told what the files of a run say, go on with a run that goes on, and never hold it up."""

import csv
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal.engine import checkpoint, trackers, tracking
from foveal.engine.config import TrainConfig
from foveal.engine.distributed import Process
from foveal.engine.log import Journal
from foveal.engine.train import train

torch.set_num_threads(1)


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return replace(config, log_updates=2)


def rows(run: str, name: str) -> list[dict[str, float]]:
    with (Path(run) / f'{name}.csv').open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def told(run: str) -> dict[str, list[tuple[int, float]]]:
    """What the two files say, as trackers are to have it: name -> updates and values."""
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in rows(run, 'metrics'):
        for key, value in row.items():
            expected.setdefault(key, []).append((4 * int(row['epoch']), value))
    for row in rows(run, 'updates'):
        for key in ('loss', 'lr', 'images_per_second'):
            expected.setdefault(f'update/{key}', []).append((int(row['update']), row[key]))
    return expected


def go_on(config: TrainConfig) -> None:
    """A run that stops after an epoch, and goes on."""
    train(replace(config, stop_epoch=1))
    train(replace(config, resume='auto'))


def test_tensorboard_has_the_run(config: TrainConfig) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go_on(replace(config, track=['tensorboard']))
    events = EventAccumulator(str(Path(config.output) / 'tensorboard')).Reload()
    found = {key: [(event.step, event.value) for event in events.Scalars(key)] for key in events.Tags()['scalars']}
    expected = told(config.output)
    assert found.keys() == expected.keys()
    for key, points in expected.items():
        assert [step for step, _ in found[key]] == [step for step, _ in points]
        # event files hold float32
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in points], rel=1e-6)
    assert {'curves', 'confusion', 'worst'} <= set(events.Tags()['images'])
    assert b'test_convnext' in events.Tensors('config/text_summary')[0].tensor_proto.string_val[0]


@pytest.mark.filterwarnings('default::DeprecationWarning')  # mlflow's own, of its database
def test_mlflow_has_the_run(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # where its files go
    place = f'sqlite:///{tmp_path}/mlflow.db'
    options = {'mlflow': {'tracking_uri': place, 'tags': {'who': 'me'}}}
    go_on(replace(config, track=['mlflow'], track_project='colours', track_name='try', track_options=options))
    client = MlflowClient(place)
    (experiment,) = client.search_experiments(filter_string="name = 'colours'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags['who']) == ('try', 'FINISHED', 'me')
    assert run.data.params['lr'] == '0.002'
    for key, points in told(config.output).items():
        history = client.get_metric_history(run.info.run_id, key)
        assert [(point.step, point.value) for point in history] == points
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {'config.yaml', 'curves.png', 'confusion.png', 'worst.png', 'report.html'}


def test_wandb_has_the_run(config: TrainConfig) -> None:
    """Without a network, its files are what there is to look at."""
    go_on(replace(config, track=['wandb'], track_options={'wandb': {'mode': 'offline', 'tags': ['try']}}))
    kept = sorted((Path(config.output) / 'wandb').glob('offline-run-*'))
    assert len(kept) == 2
    # the id is the end of the name: both are the same run
    assert len({path.name.rpartition('-')[2] for path in kept}) == 1
    for path in kept:
        (log,) = path.glob('run-*.wandb')
        content = log.read_bytes()
        assert b'update/loss' in content
        assert b'val_top1' in content
        assert b'test_convnext' in content
    shown = {path.name.partition('_')[0] for folder in kept for path in (folder / 'files').rglob('*_*.*')}
    assert shown == {'curves', 'confusion', 'worst', 'report'}


class Broken:
    """A tracker whose server is gone."""

    id = 'one'

    def __init__(self, start: trackers.Start) -> None:
        self.start = start

    def log(self, values: Mapping[str, float], update: int) -> None:
        raise ConnectionError(f'nobody there at {update} for {len(values)}')

    def show(self, path: Path, update: int) -> None:
        raise ConnectionError(f'nobody there at {update} for {path}')

    def close(self, state: str) -> None:
        raise ConnectionError(f'nobody there for a run that is {state}')


class Hanging(Broken):
    """A tracker whose server does not answer."""

    answer = threading.Event()

    def log(self, values: Mapping[str, float], update: int) -> None:
        self.answer.wait(60)


class Refusing(Broken):
    """A tracker that cannot be started."""

    def __init__(self, start: trackers.Start) -> None:
        raise ConnectionError('nobody there')


def replace_tracker(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    monkeypatch.setattr(trackers, kind.__name__, kind, raising=False)
    monkeypatch.setitem(tracking.CLASSES, 'tensorboard', kind.__name__)


@pytest.mark.parametrize('kind', [Broken, Hanging])
def test_a_tracker_that_fails_does_not_touch_the_run(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type
) -> None:
    plain = replace(config, output=str(tmp_path / 'plain'))
    train(plain)
    replace_tracker(monkeypatch, kind)
    # six entries are to be sent, besides three pictures, a page and the end
    monkeypatch.setattr(tracking, 'WAITING', 4)
    monkeypatch.setattr(tracking, 'LONGEST_CLOSE', 0.2)
    capsys.readouterr()
    Hanging.answer.clear()
    train(replace(config, track=['tensorboard']))
    Hanging.answer.set()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith('track tensorboard')]
    assert said[0].endswith('training goes on')
    assert sum('training goes on' in line for line in said) == 1
    assert said[-1].endswith('entries did not arrive; the folder of the run has all')
    ours, theirs = (checkpoint.load(Path(run.output), 'last').weights for run in (config, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(rows(config.output, 'updates')) == 4


def test_a_tracker_that_does_not_start(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracked = replace(config, track=['tensorboard'])
    with monkeypatch.context() as patch:
        replace_tracker(patch, Refusing)
        with pytest.raises(OSError, match='track tensorboard cannot be started: nobody there'):
            train(tracked)
    # what was asked for can be asked for again
    train(replace(tracked, stop_epoch=1))
    replace_tracker(monkeypatch, Refusing)
    assert train(replace(tracked, resume='auto')).epoch == 2
    assert 'cannot be started: nobody there; training goes on' in capsys.readouterr().out


def test_other_processes_tell_nothing(config: TrainConfig, tmp_path: Path) -> None:
    run = train(replace(config, epochs=1, warmup_epochs=0, track=['tensorboard']))
    empty = tmp_path / 'empty'
    empty.mkdir()
    with Journal(run, empty, Process(1, 2, torch.device('cpu')), {'validation': None}, 4) as journal:
        with journal.progress() as advance:
            advance(torch.zeros(()))
        journal.epoch({}, True, None)
    assert not [*empty.iterdir()]


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'track': ['tensorbord']}, "track must be of tensorboard, wandb, mlflow, got 'tensorbord'; did you mean"),
        ({'track_options': {'wandb': {}}}, "track_options has no option 'wandb'"),
        ({'log_updates': -1}, 'log_updates must be at least 0'),
    ],
)
def test_mistakes_are_named(config: TrainConfig, options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(replace(config, **options))  # type: ignore[arg-type]
    assert not Path(config.output).exists()


def test_an_absent_package_is_named(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='track wandb needs its package: pip install wandb'):
        train(replace(config, track=['wandb']))
