"""A run as its folder tells it."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from foveal.engine.metrics import METRICS
from foveal.engine.selection import best_first, evaluated

EVALUATION, PROVENANCE = 'evaluation.json', 'provenance.json'
Row = dict[str, float]


@dataclass(frozen=True)
class RunFolder:
    """A run, read from its folder; what is not there yet is empty.

    Attributes:
        path: The folder.
        config: What was asked.
        history: metrics.csv, a row an epoch.
        updates: updates.csv.
        evaluation: Of the best epoch.
        provenance: Data, versions and sessions.
        bad: Images that could not be read, each with its set, index, name, reason and times.
    """

    path: Path
    config: dict[str, Any]
    history: list[Row]
    updates: list[Row]
    evaluation: dict[str, Any]
    provenance: dict[str, Any]
    bad: list[dict[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> 'RunFolder':
        """Reads a folder.

        Raises:
            FileNotFoundError: It is no run's.
            ValueError: A file of it is damaged; names it.
        """
        path = Path(path)
        if not (path / 'config.yaml').is_file():
            raise FileNotFoundError(f"{path} is no run's folder: it has no config.yaml")
        try:
            config = yaml.safe_load((path / 'config.yaml').read_text(encoding='utf-8'))
        except yaml.YAMLError as error:
            raise ValueError(f'{path / "config.yaml"} is damaged: {error}') from error
        bad = [
            {'set': name, **sample}
            for file in sorted(path.glob('bad_samples*.json'))
            for name, found in read_json(file).items()
            for sample in found['samples']
        ]
        evaluation, provenance = (read_json(path / name) for name in (EVALUATION, PROVENANCE))
        history, updates = (read_rows(path / f'{name}.csv') for name in ('metrics', 'updates'))
        return cls(path, config, history, updates, evaluation, provenance, bad)

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.path.resolve().name

    @property
    def metric(self) -> str:
        """The column that makes an epoch the best."""
        return self.config.get('metric') or next(
            (column for column in ('val_top1', 'val_map', 'val_r2') if column in self.columns),
            'val_top1',
        )

    @cached_property
    def best(self) -> Row | None:
        """The row of the best epoch."""
        return next(map(dict, best_first(self.history, self.metric)), None)

    @cached_property
    def last(self) -> Row | None:
        """The row of the last epoch that was evaluated."""
        return next(map(dict, reversed(evaluated(self.history))), None)

    @cached_property
    def columns(self) -> list[str]:
        """The columns of metrics.csv."""
        return max(map(list, self.history), key=len, default=[])

    @property
    def scores(self) -> list[str]:
        """The columns that hold scores."""
        return [column for column in self.columns if column.partition('_')[2] in METRICS]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Starts of the run, the first one first."""
        return self.provenance.get('sessions', [])

    @property
    def total_epochs(self) -> int:
        """Of the run to its end."""
        return self.provenance.get('epochs') or self.config['epochs']

    @property
    def state(self) -> str:
        """finished, stopped, failed or unfinished: killed, or still going on."""
        if len(self.history) >= self.total_epochs:
            return 'finished'
        state = self.sessions[-1]['state'] if self.sessions else 'running'
        return 'unfinished' if state == 'running' else state

    @property
    def seconds(self) -> float:
        """Of training, evaluation aside."""
        return sum(row['seconds'] for row in self.history)


def read_json(path: Path) -> dict[str, Any]:
    """A file's content, {} where there is none."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is damaged: {error}') from error


def read_rows(path: Path) -> list[Row]:
    """The rows of a .csv of numbers, without empty cells; one that was cut off in writing is left out."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding='utf-8', newline='') as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path} is damaged: {error}') from error
