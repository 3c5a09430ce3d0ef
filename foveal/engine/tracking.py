"""Sending what a run tells to trackers, beside the training and at no risk to it."""

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from foveal.engine.config import TrainConfig, to_plain
from foveal.engine.trackers import Start, Tracker
from foveal.errors import check_options, near
from foveal.files import write_text

# the classes of engine/trackers.py, and what each needs
CLASSES = {'tensorboard': 'TensorBoard', 'wandb': 'WandB', 'mlflow': 'MLflow'}
WAITING = 1000  # entries that may wait for a slow server
LONGEST_CLOSE = 60.0  # seconds that the end of a run waits for what is still to be sent


def check_tracking(config: TrainConfig) -> None:
    """Refuses trackers that cannot be had, before anything is read.

    Raises:
        ValueError: An unknown tracker, or options of one that is not asked for.
        ModuleNotFoundError: Its package is absent; says what to install.
    """
    for name in config.track:
        if name not in CLASSES:
            raise ValueError(f'track must be of {", ".join(CLASSES)}, got {name!r}{near(name, CLASSES)}')
        if find_spec(name) is None:
            raise ModuleNotFoundError(f'track {name} needs its package: pip install {name}')
    check_options('track_options', config.track_options, config.track)


class Background:
    """A tracker whose calls run in a thread of its own: a slow one is not waited for, what fails is left out.

    Args:
        name: For messages.
        tracker: What is called.
    """

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker, self.lost = name, tracker, 0
        self.calls: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        # a daemon: a server that never answers does not keep the process from ending
        self.thread = threading.Thread(target=self.work, name=f'track-{name}', daemon=True)
        self.thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Has a call made when those before it are."""
        try:
            self.calls.put_nowait(call)
        except queue.Full:
            self.lose('it does not keep up')

    def work(self) -> None:
        """Makes the calls, until there is None."""
        while (call := self.calls.get()) is not None:
            try:
                call()
            except Exception as error:
                self.lose(f'{type(error).__name__}: {error}')

    def lose(self, reason: str) -> None:
        """Counts an entry that did not arrive; says so of the first."""
        self.lost += 1
        if self.lost == 1:
            print(f'track {self.name}: {reason}; training goes on', flush=True)

    def close(self, state: str) -> None:
        """Waits, for a while, until everything is sent.

        Args:
            state: finished, stopped or failed.
        """
        for last in (partial(self.tracker.close, state), None):
            try:
                self.calls.put(last, timeout=LONGEST_CLOSE)
            except queue.Full:
                break
        self.thread.join(LONGEST_CLOSE)
        if self.thread.is_alive():
            print(f'track {self.name}: not done after {LONGEST_CLOSE:.0f} s; the rest is left', flush=True)
        if self.lost:
            print(f'track {self.name}: {self.lost} entries did not arrive; the folder of the run has all', flush=True)


class Trackers:
    """All trackers of a run, on its main process.

    Args:
        config: Which, and how.
        output: Folder of the run; tracking.json there holds their ids, by which a run that goes on finds them.
        update: Updates done so far, by a run that goes on; None for a new one.

    Raises:
        OSError: One cannot be started. Of a run that goes on it is left out instead.
    """

    def __init__(self, config: TrainConfig, output: Path, update: int | None) -> None:
        known = output / 'tracking.json'
        ids = json.loads(known.read_text(encoding='utf-8')) if known.is_file() else {}
        self.started: list[Background] = []
        for name in config.track:
            options = config.track_options.get(name, {})
            title = config.track_name or output.resolve().name
            start = Start(output, config.track_project, title, to_plain(config), options, ids.get(name), update)
            try:
                tracker: Tracker = getattr(import_module('foveal.engine.trackers'), CLASSES[name])(start)
            except Exception as error:
                said = f'track {name} cannot be started: {error}'
                if update is None:
                    raise OSError(said) from error
                print(f'{said}; training goes on', flush=True)
                continue
            ids[name] = tracker.id
            self.started.append(Background(name, tracker))
        if self.started:
            write_text(known, json.dumps(ids))

    def log(self, values: Mapping[str, float], update: int) -> None:
        """Sends numbers as of an update."""
        for background in self.started:
            background.submit(partial(background.tracker.log, dict(values), update))

    def close(self, files: Sequence[Path], update: int, state: str) -> None:
        """Sends pictures and pages, and ends.

        Args:
            files: .png or .html.
            update: They are as of this one.
            state: finished, stopped or failed.
        """
        for background in self.started:
            for path in files:
                background.submit(partial(background.tracker.show, path, update))
        for background in self.started:
            background.close(state)
