"""`foveal sweep`: many trainings, each with other options."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.engine.config import TrainConfig, to_plain

if TYPE_CHECKING:
    from rich.table import Table

    from foveal.engine.sweep import Trial

SHOWN_ROWS = 40  # of a table that is drawn anew again and again


@dataclass
class SweepConfig(TrainConfig):
    """Train with every combination of some options, or with random ones; other options are those of `foveal train`.

    The same command again goes on: what is finished stays, what was interrupted goes on, what failed is tried again.
    """

    grid: str | dict[str, Any] = field(default_factory=dict)
    """Every combination of values: 'opt=adamw,lamb lr=1e-3,3e-3'; in YAML a list for each option. A dot leads into an
    option that holds others: model_options.drop_path_rate=0,0.1."""
    random: str | dict[str, Any] = field(default_factory=dict)
    """Values drawn at random: 'lr=log(1e-4,1e-2) mixup=uniform(0,1) batch_size=int(16,64) opt=sgd,adamw'."""
    trials: int = 10
    """Random draws, for each combination of the grid."""
    search_seed: int = 0
    """Decides the draws; of more trials later the first are the same."""
    jobs: int = 0
    """Trials at a time; 0: one a CUDA device, or one on the CPU, whose cores they share."""


# of the options that trials share, what may change when a sweep goes on: where things are, not what
FREE = {'data_root', 'download', 'workers', 'device', 'threads', 'output', 'resume'}


def run(config: SweepConfig) -> int:
    """Runs the trials; leaves sweep.yaml, results.csv, results.png and a folder for each in the output.

    Returns:
        0; 1 where a trial failed; 130 where a signal ended the sweep early.

    Raises:
        ValueError, OSError: Something asked cannot be done, of any trial, or the folder holds another sweep; nothing
            has been trained.
    """
    from foveal.engine.stopping import stop_signals
    from foveal.engine.sweep import assignments, plan
    from foveal.engine.sweep_figure import draw
    from foveal.engine.sweep_pool import run_trials
    from foveal.files import replacing

    for name in ('trials', 'jobs', 'search_seed'):
        if getattr(config, name) < (name == 'trials'):
            raise ValueError(f'{name} must be at least {int(name == "trials")}, got {getattr(config, name)}')
    if config.resume:
        raise ValueError('resume is for one run; the same sweep command again goes on')
    asked = {flag: assignments(getattr(config, flag), flag) for flag in ('grid', 'random')}
    trials = plan(asked['grid'], asked['random'], config.trials, config.search_seed)
    folder = Path(config.output or f'runs/sweep-{config.model}-{Path(config.data).name}')
    common = {field.name: to_plain(config)[field.name] for field in fields(TrainConfig)} | {'output': '', 'resume': ''}
    check_trials(trials, common)
    base = prepare(folder, {**asked, 'search_seed': config.search_seed}, common)
    environments = places(config)
    print(f'{len(trials)} trials, {len(environments)} at a time, in {folder}', flush=True)
    with stop_signals() as stop, telling(trials, folder) as told:
        run_trials(trials, folder, base, environments, stop, told)
    write_table(trials, folder)
    if any(trial.history for trial in trials):
        with replacing(folder / 'results.png') as temporary:
            draw(trials).savefig(temporary, dpi=120)
    print_results(trials, folder)
    if any(trial.status in ('waiting', 'stopped') for trial in trials):
        print('stopped; the same command goes on')
        return 130
    return int(any(trial.status == 'failed' for trial in trials))


def check_trials(trials: 'Sequence[Trial]', common: dict[str, Any]) -> None:
    """Refuses what cannot work before anything is written.

    Args:
        trials: What each has of its own.
        common: Options that all have.

    Raises:
        ValueError: Names the trial, and what is wrong with it.
    """
    import tempfile
    from argparse import ArgumentError

    import yaml

    from foveal.cli import build_parser, parse
    from foveal.engine.config import check_train
    from foveal.engine.schedule import check_schedule

    if taken := sorted({'output', 'resume'} & trials[0].options.keys()):
        raise ValueError(f'{", ".join(taken)} cannot be tried: every trial has a folder of its own')
    parser = build_parser()
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary) / 'base.yaml'
        draft.write_text(yaml.safe_dump(common), encoding='utf-8')
        for trial in trials:
            try:
                _, config = parse(['train', '--config', str(draft), *trial.arguments()], parser)
                check_train(config)
                check_schedule(config)
            except (ArgumentError, ValueError) as error:
                raise ValueError(f'trial {trial.name} ({said(trial)}): {error}') from error


def prepare(folder: Path, search: dict[str, Any], common: dict[str, Any]) -> Path:
    """Makes the sweep's folder, or finds the same sweep in it; returns the file of what all trials have in common.

    Raises:
        ValueError: The folder holds another sweep.
        OSError: It holds something else, or cannot be written.
    """
    import yaml

    from foveal.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    path, base = folder / 'sweep.yaml', folder / 'base.yaml'
    if path.is_file():
        earlier, before = (yaml.safe_load(file.read_text(encoding='utf-8')) for file in (path, base))
        differing = [key for key in search if earlier.get(key) != search[key]]
        differing += [key for key in common if key not in FREE and before.get(key) != common[key]]
        if differing:
            raise ValueError(f'{folder} holds another sweep ({", ".join(differing)}); choose another output')
    elif any(file != base for file in folder.iterdir()):
        raise FileExistsError(f'{folder} already holds something else; choose another output')
    write_text(base, yaml.safe_dump(common, sort_keys=False))
    write_text(path, yaml.safe_dump(search, sort_keys=False))
    return base


def places(config: SweepConfig) -> list[dict[str, str]]:
    """What the environment of each process at a time has of its own: a CUDA device, or a share of the cores."""
    import os

    import torch

    if config.device == 'cuda' or (config.device == 'auto' and torch.cuda.is_available()):
        # the devices that this process may use, by the names that it knows them by
        visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
        devices = visible.split(',') if visible else [str(i) for i in range(torch.cuda.device_count())]
        return [{'CUDA_VISIBLE_DEVICES': devices[i % len(devices)]} for i in range(config.jobs or len(devices))]
    jobs = config.jobs or 1
    return [{'OMP_NUM_THREADS': str(max(1, torch.get_num_threads() // jobs))} for _ in range(jobs)]


@contextmanager
def telling(trials: 'Sequence[Trial]', folder: Path) -> Iterator[Any]:
    """Gives the function that is told of trials: it keeps results.csv, and a table on a terminal or lines elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    live_table = Live(as_table(trials), console=console, auto_refresh=False, transient=True)
    with live_table if console.is_terminal else nullcontext() as live:

        def told(trial: 'Trial | None') -> None:
            if live is not None:
                live.update(as_table(trials), refresh=True)
            if trial is None:
                return
            write_table(trials, folder)
            if live is None:
                reached = f', {trial.metric} {trial.best:.4g}' if trial.history else ''
                why = f': {trial.error}' if trial.error else ''
                print(f'{trial.name} {said(trial)}: {trial.status}{reached}{why}', flush=True)

        yield told


def said(trial: 'Trial') -> str:
    """Its options in words."""
    return ' '.join(f'{name}={value}' for name, value in trial.options.items())


def as_table(trials: 'Sequence[Trial]') -> 'Table':
    """The trials, the best first."""
    from rich.table import Table

    from foveal.engine.sweep import table

    rows = table(trials)
    hidden = {'metric', *(name for name in ('error',) if not any(row[name] for row in rows))}
    metric = next((row['metric'] for row in rows if row['metric']), '')
    result = Table(box=None, pad_edge=False, header_style='bold')
    for name in rows[0]:
        if name not in hidden:
            title = f'{name} {metric}'.strip() if name in ('best', 'last') else name
            result.add_column(title, justify='left' if name in ('status', 'error') else 'right', overflow='fold')
    for row in rows[:SHOWN_ROWS]:
        cells = [
            f'{value:.4g}' if isinstance(value, float) else str(value)
            for name, value in row.items()
            if name not in hidden
        ]
        result.add_row(*cells)
    return result


def print_results(trials: 'Sequence[Trial]', folder: Path) -> None:
    """The table, and where everything is."""
    from rich.console import Console

    (Console() if sys.stdout.isatty() else Console(width=200)).print(as_table(trials))
    print(f'results.csv, results.png and the runs are in {folder}')


def write_table(trials: 'Sequence[Trial]', folder: Path) -> None:
    """results.csv: a row a trial, the best first."""
    import csv
    import io

    from foveal.engine.sweep import table
    from foveal.files import write_text

    rows, text = table(trials), io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / 'results.csv', text.getvalue())
