"""Processes that run the trials of a sweep, so many at a time, until all are done or a signal says stop."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from foveal.engine.sweep import Trial
from foveal.files import write_text

LOOK_SECONDS = 0.5  # between two looks at the processes and at what they wrote


@dataclass
class Running:
    """A trial and its process."""

    trial: Trial
    process: subprocess.Popen[bytes]
    slot: int
    began: float
    log: IO[bytes]


def run_trials(
    trials: Sequence[Trial],
    folder: Path,
    base: Path,
    environments: Sequence[dict[str, str]],
    stop: threading.Event,
    told: Callable[[Trial | None], None],
) -> None:
    """Runs what is not finished; a trial that fails leaves the others alone.

    Args:
        trials: Their `status`, `history`, `seconds` and `error` are kept up to date.
        folder: Where each trial gets a folder, and a log under `logs`.
        base: YAML file of the options that all have in common.
        environments: One for each process at a time: what its environment has besides this one's.
        stop: Set from outside (a signal): processes are told to save and leave, and no more are begun.
        told: Called with a trial that began, ended or failed; and with None at every look.

    Raises:
        BlockingIOError: Another sweep is running there, or a trial that outlived one.
    """
    (folder / 'logs').mkdir(exist_ok=True)
    with claimed(folder) as claim:
        for trial in trials:
            recall(trial, folder)
        waiting = [trial for trial in trials if trial.status != 'finished']
        slots, running = list(range(len(environments))), list[Running]()
        stopping = False
        try:
            while running or (waiting and not stop.is_set()):
                while waiting and slots and not stop.is_set():
                    trial, slot = waiting.pop(0), slots.pop(0)
                    running.append(begin(trial, slot, folder, base, environments[slot], claim))
                    told(trial)
                if stop.is_set() and not stopping:
                    stopping = True
                    for each in running:
                        each.process.terminate()  # it saves and leaves
                for each in list(running):
                    each.trial.read(folder)
                    if each.process.poll() is not None:
                        running.remove(each)
                        slots.append(each.slot)
                        end(each, folder, stopping)
                        told(each.trial)
                told(None)
                time.sleep(LOOK_SECONDS)
        finally:
            for each in running:
                each.process.kill()
                each.process.wait()
                each.log.close()


@contextmanager
def claimed(folder: Path) -> Iterator[int]:
    """Within the block no other sweep can run in a folder, nor after it while a process holds what this gives.

    Raises:
        BlockingIOError: One does already.
    """
    with (folder / 'logs' / 'lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f'a sweep is running in {folder}, or a trial that outlived one') from error
        yield file.fileno()


def begin(trial: Trial, slot: int, folder: Path, base: Path, environment: dict[str, str], claim: int) -> Running:
    """Starts a trial's process, or goes on with it where it was."""
    trial.status, trial.error = 'running', ''
    log = (folder / 'logs' / f'{trial.name}.txt').open('ab')
    process = subprocess.Popen(
        command(trial, folder, base),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, **environment},
        pass_fds=[claim],
        process_group=0,  # a terminal's Ctrl-C is for the sweep, which tells its trials once
    )
    return Running(trial, process, slot, time.monotonic(), log)


def command(trial: Trial, folder: Path, base: Path) -> list[str]:
    """What runs a trial, or goes on with it."""
    common = [sys.executable, '-m', 'foveal.cli', 'train', '--config', str(base)]
    return [*common, *trial.arguments(), '--output', str(folder / trial.name), '--resume', 'auto']


def end(running: Running, folder: Path, stopping: bool) -> None:
    """Notes what has come of a trial."""
    running.log.close()
    trial, code = running.trial, running.process.returncode
    trial.seconds += time.monotonic() - running.began
    trial.read(folder)
    trial.status = 'finished' if code == 0 else 'stopped' if stopping else 'failed'
    if trial.status == 'failed':
        said = (folder / 'logs' / f'{trial.name}.txt').read_text(encoding='utf-8', errors='replace').strip()
        trial.error = said.rpartition('\n')[2] if code > 0 and said else f'ended by signal {-code}'
    outcome = {'status': trial.status, 'seconds': trial.seconds, 'error': trial.error}
    write_text(folder / 'logs' / f'{trial.name}.json', json.dumps(outcome))


def recall(trial: Trial, folder: Path) -> None:
    """Takes what an earlier sitting left of a trial."""
    path = folder / 'logs' / f'{trial.name}.json'
    if path.is_file():
        outcome = json.loads(path.read_text(encoding='utf-8'))
        trial.status, trial.seconds, trial.error = outcome['status'], outcome['seconds'], outcome['error']
        if not (folder / trial.name).is_dir():
            trial.status = 'waiting'
    trial.read(folder)
