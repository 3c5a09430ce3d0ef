"""Sweeps: what is tried, how trials are run, and what is left of them."""

import csv
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from foveal import cli
from foveal.engine import sweep_pool
from foveal.engine.sweep import Trial, assignments, choices, distribution, plan, ranked
from tests.images import write_folder

torch.set_num_threads(1)

# a training that takes no time: writes what `foveal train` writes, fails for an odd lr, waits where it is told to
FAKE = """
import pathlib, signal, sys, time
given = dict(argument[2:].split('=', 1) for argument in sys.argv[1:] if '=' in argument)
folder = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])
folder.mkdir(exist_ok=True)
with (folder.parent / 'order.txt').open('a') as file:
    file.write(folder.name + ' ')
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
if given['lr'] == '0.5':
    sys.exit('foveal: that is far too much')
(folder / 'config.yaml').write_text('metric: val_loss')
(folder / 'metrics.csv').write_text(f'epoch,val_loss\\n1,9.0\\n2,{given["lr"]}\\n3,7.0\\n')
if given['lr'] == '0.25' and not (folder.parent / 'go').exists():
    time.sleep(60)
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that take no time."""

    def command(trial: Trial, folder: Path, base: Path) -> list[str]:
        del base
        return [sys.executable, '-c', FAKE, *trial.arguments(), '--output', str(folder / trial.name)]

    monkeypatch.setattr(sweep_pool, 'command', command)
    monkeypatch.setattr(sweep_pool, 'LOOK_SECONDS', 0.02)


def rows(folder: Path) -> list[dict[str, str]]:
    """results.csv."""
    with (folder / 'results.csv').open() as file:
        return list(csv.DictReader(file))


def test_text_and_mappings_say_the_same() -> None:
    assert assignments('opt=adamw,lamb model-options.depths=[1, 1],[2,2] lr=log(1e-4, 1e-2)', 'grid') == {
        'opt': 'adamw,lamb', 'model_options.depths': '[1, 1],[2,2]', 'lr': 'log(1e-4, 1e-2)',
    }  # fmt: skip
    assert choices('adamw,lamb') == ['adamw', 'lamb']
    assert choices('[1, 1],[2,2]') == [[1, 1], [2, 2]]
    assert choices([0.1, None]) == [0.1, None]
    assert choices(3) == [3]


def test_a_grid_has_every_combination_with_every_draw() -> None:
    found = plan({'opt': 'a,b', 'x': [1, 2, 3]}, {'lr': 'log(1e-4,1e-2)', 'mix': 'uniform(0,1)'}, 4, seed=3)
    assert len(found) == 24
    assert [trial.number for trial in found] == list(range(24))
    pairs = {(trial.options['opt'], trial.options['x']) for trial in found}
    assert len(pairs) == 6
    assert len({(trial.options['lr'], trial.options['mix']) for trial in found}) == 4
    # more of them begin with the same; another seed draws others
    assert plan({'opt': 'a,b', 'x': [1, 2, 3]}, {'lr': 'log(1e-4,1e-2)', 'mix': 'uniform(0,1)'}, 9, 3)[:24] == found
    assert plan({}, {'lr': 'log(1e-4,1e-2)'}, 4, 3)[1].options['lr'] == found[6].options['lr']
    assert plan({}, {'lr': 'log(1e-4,1e-2)'}, 4, 4)[1].options['lr'] != found[6].options['lr']
    assert len(plan({'x': [1, 2]}, {}, 10, 0)) == 2


def test_draws_follow_their_distribution() -> None:
    rng = np.random.default_rng(0)
    for said, low, high, middle in (
        ('uniform(2,4)', 2, 4, 3), ('log(1e-4, 1e-2)', 1e-4, 1e-2, 1e-3), ('int(1, 3)', 1, 3, 2),
    ):  # fmt: skip
        draw = distribution(said)
        drawn = [draw(rng) for _ in range(400)]
        assert low <= min(drawn) <= max(drawn) <= high
        # the median of 400 draws: a binomial of 200 plus or minus 10, so 40 is four deviations
        assert 160 <= sum(value < middle for value in drawn) + sum(value == middle for value in drawn) / 2 <= 240
    draw = distribution('adamw,lamb')
    assert {draw(rng) for _ in range(30)} == {'adamw', 'lamb'}


@pytest.mark.parametrize(
    ('grid', 'random', 'said'),
    [
        ({}, {}, 'nothing to try'),
        ({'lr': '1,2'}, {'lr': 'log(1,2)'}, 'lr: in the grid and random as well'),
        ({'lr': []}, {}, 'no values'),
        ({}, {'lr': 'lgo(1,2)'}, "no distribution is called lgo; did you mean 'log'"),
        ({}, {'lr': 'log(0,2)'}, '0 < lowest'),
        ({}, {'lr': 'uniform(2,1)'}, 'the lower first'),
        ({}, {'lr': 'int(1,2.5)'}, 'whole numbers'),
        ({}, {'lr': 'log(1)'}, 'two numbers'),
    ],
)
def test_plans_that_cannot_be_are_refused(grid: dict[str, Any], random: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(grid, random, 1, 0)
    with pytest.raises(ValueError, match='no assignment'):
        assignments('lr', 'grid')


def test_the_best_come_first_by_the_metric_of_the_runs() -> None:
    def trial(number: int, metric: str, *values: float) -> Trial:
        return Trial(number, {}, history=[{'epoch': i, metric: v} for i, v in enumerate(values)], metric=metric)

    found = ranked([trial(0, 'val_loss', 3, 2, 4), Trial(1, {}), trial(2, 'val_loss', 1, 9), trial(3, 'val_loss', 5)])
    assert [each.number for each in found] == [2, 0, 3, 1]
    assert [each.number for each in ranked([trial(0, 'val_top1', 3, 2), trial(1, 'val_top1', 4)])] == [1, 0]
    assert (found[1].best, found[1].last) == (2, 4)
    assert math.isnan(found[3].best)


@pytest.mark.usefixtures('fake')
def test_a_failed_trial_is_a_row_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ['sweep', '--data', 'anything', '--grid', 'lr=0.5,0.125,0.0625', '--device', 'cpu', '--jobs', '2']
    command += ['--output', str(tmp_path / 'sweep')]
    assert cli.main(command) == 1
    found = rows(tmp_path / 'sweep')
    assert [(row['lr'], row['status'], row['best'], row['last'], row['epochs']) for row in found] == [
        ('0.0625', 'finished', '0.0625', '7.0', '3'), ('0.125', 'finished', '0.125', '7.0', '3'),
        ('0.5', 'failed', '', '', '0'),
    ]  # fmt: skip
    assert found[2]['error'] == 'foveal: that is far too much'
    assert 'far too much' in capsys.readouterr().out
    assert (tmp_path / 'sweep' / 'results.png').stat().st_size > 1000
    # again: only what failed
    assert cli.main(command) == 1
    order = (tmp_path / 'sweep' / 'order.txt').read_text().split()
    assert (sorted(order[:3]), order[3:]) == (['000', '001', '002'], ['000'])
    # another sweep does not take the folder
    assert cli.main([*command, '--epochs', '3']) == 2
    assert 'holds another sweep (epochs)' in capsys.readouterr().err


@pytest.mark.usefixtures('fake')
def test_a_signal_stops_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ['sweep', '--data', 'anything', '--grid', 'lr=0.125,0.25,0.0625', '--device', 'cpu']
    command += ['--output', str(tmp_path)]
    done = threading.Event()

    def interrupt() -> None:
        while not (tmp_path / '001' / 'metrics.csv').exists():
            time.sleep(0.05)
        with pytest.raises(BlockingIOError, match='a sweep is running'), sweep_pool.claimed(tmp_path):
            pass
        if not done.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert cli.main(command) == 130
    done.set()
    thread.join()
    assert {row['trial']: row['status'] for row in rows(tmp_path)} == {
        '000': 'finished', '001': 'stopped', '002': 'waiting',
    }  # fmt: skip
    (tmp_path / 'go').touch()
    assert cli.main(command) == 0
    assert (tmp_path / 'order.txt').read_text().split() == ['000', '001', '001', '002']
    assert {row['status'] for row in rows(tmp_path)} == {'finished'}


def test_each_trial_is_a_run_of_train(tmp_path: Path) -> None:
    data = write_folder(tmp_path / 'colours', per_class=4)
    command = ['sweep', '--data', str(data), '--model', 'test_convnext', '--img-size', '32', '--epochs', '1']
    command += ['--batch-size', '4', '--workers', '0', '--device', 'cpu', '--threads', '1', '--trials', '1']
    command += ['--random', 'lr=log(1e-4,1e-2)', '--grid', 'opt_options.eps=1e-6', '--output', str(tmp_path / 'sweep')]
    assert cli.main(command) == 0
    (row,) = rows(tmp_path / 'sweep')
    config = yaml.safe_load((tmp_path / 'sweep' / '000' / 'config.yaml').read_text())
    assert (config['lr'], config['opt_options']) == (float(row['lr']), {'eps': 1e-6})
    assert (row['metric'], row['status']) == ('val_top1', 'finished')


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--grid', 'lrr=1,2'], 'lrr'),
        (['--grid', 'lr=1,-2'], 'trial 001 (lr=-2): lr must be above 0'),
        (['--grid', 'epochs=two'], 'epochs'),
        (['--grid', 'output=a,b'], 'a folder of its own'),
        (['--grid', 'lr=1,2', '--trials', '0'], 'trials must be at least 1'),
        (['--grid', 'lr=1,2', '--resume', 'auto'], 'goes on'),
    ],
)
def test_what_no_trial_can_be_is_said_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert cli.main(['sweep', '--data', 'x', *options, '--output', str(tmp_path / 'sweep')]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'sweep').exists()
