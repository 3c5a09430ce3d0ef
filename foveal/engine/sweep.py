"""Trials of a sweep: which options are tried, with which values, and what has come of each."""

import csv
import itertools
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foveal.engine.selection import best_first, evaluated, merit
from foveal.errors import near

DRAW = re.compile(r'(\w+)\((.*)\)')
DIGITS = 4  # of a drawn number: what a reader can type again


@dataclass
class Trial:
    """One training run of a sweep.

    Attributes:
        number: From 0; names its folder.
        options: What it has of its own: option -> value. A dot leads into an option that holds others.
        status: waiting, running, finished, failed or stopped.
        history: Rows of its metrics.csv, of epochs that were evaluated.
        metric: The column that says how good an epoch was.
        seconds: Spent on it, over all sittings.
        error: Why it failed.
    """

    number: int
    options: dict[str, Any]
    status: str = 'waiting'
    history: list[dict[str, float]] = field(default_factory=list)
    metric: str = ''
    seconds: float = 0.0
    error: str = ''

    @property
    def name(self) -> str:
        """The name of its folder and its log."""
        return f'{self.number:03}'

    @property
    def last(self) -> float:
        """The metric after its last epoch; NaN before the first."""
        return self.history[-1][self.metric] if self.history else math.nan

    @property
    def best(self) -> float:
        """The metric after its best epoch; NaN before the first."""
        return best_first(self.history, self.metric)[0][self.metric] if self.history else math.nan

    def arguments(self) -> list[str]:
        """Its options as flags of `foveal train`."""
        return [
            f'--{name}={value if isinstance(value, str) else json.dumps(value)}' for name, value in self.options.items()
        ]

    def read(self, folder: Path) -> None:
        """Takes what its run has written so far."""
        metrics, config = folder / self.name / 'metrics.csv', folder / self.name / 'config.yaml'
        if metrics.is_file() and config.is_file():
            with metrics.open(encoding='utf-8', newline='') as file:
                rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
            self.history = [dict(row) for row in evaluated(rows)]
            self.metric = yaml.safe_load(config.read_text(encoding='utf-8'))['metric']


def assignments(asked: str | Mapping[str, Any], flag: str) -> dict[str, Any]:
    """Options and what is asked of each: of a mapping, or of a text such as `opt=adamw,lamb lr=1e-3,1e-2`.

    Raises:
        ValueError: A part of the text is no assignment.
    """
    if not isinstance(asked, str):
        return {key.replace('-', '_'): value for key, value in asked.items()}
    result = {}
    for part in re.findall(r'(?:[^\s([{]|\([^)]*\)|\[[^]]*\]|\{[^}]*\})+', asked):
        name, equals, value = part.partition('=')
        if not equals or not name:
            raise ValueError(f'{flag} {part!r} is no assignment: write OPTION=VALUE,VALUE')
        result[name.replace('-', '_')] = value
    return result


def choices(value: Any) -> list[Any]:
    """Values to choose from: a list, or a text with commas between them.

    Raises:
        ValueError: None, or the text cannot be read.
    """
    if isinstance(value, str):
        try:
            value = yaml.safe_load(f'[{value}]')
        except yaml.YAMLError as error:
            raise ValueError(f'{value!r} is no list of values: {error}') from error
    found = value if isinstance(value, list) else [value]
    if not found:
        raise ValueError('no values to try')
    return found


def distribution(said: Any) -> Callable[[np.random.Generator], Any]:
    """What draws a value: `uniform(a,b)`, `log(a,b)` (its logarithm is uniform), `int(a,b)` (both included), or values.

    Raises:
        ValueError: Another distribution, or bounds that it cannot have.
    """
    found = DRAW.fullmatch(said.strip()) if isinstance(said, str) else None
    if found is None:
        values = choices(said)
        return lambda rng: values[int(rng.integers(len(values)))]
    kind, inside = found.groups()
    if kind not in ('uniform', 'log', 'int'):
        raise ValueError(f'{said!r}: no distribution is called {kind}{near(kind, ("uniform", "log", "int"))}')
    try:
        low, high = (float(bound) for bound in inside.split(','))
    except ValueError as error:
        raise ValueError(f'{said!r}: {kind} takes two numbers, the lowest and the highest') from error
    if (
        not low < high
        or (kind == 'log' and low <= 0)
        or (kind == 'int' and not (low.is_integer() and high.is_integer()))
    ):
        wanted = {'uniform': 'the lower first', 'log': '0 < lowest < highest', 'int': 'whole numbers, the lower first'}
        raise ValueError(f'{said!r}: {kind} needs {wanted[kind]}')
    if kind == 'int':
        return lambda rng: int(rng.integers(int(low), int(high) + 1))
    if kind == 'log':
        return lambda rng: rounded(math.exp(rng.uniform(math.log(low), math.log(high))))
    return lambda rng: rounded(rng.uniform(low, high))


def rounded(value: float) -> float:
    """A number with few digits, so that what is shown is what was run."""
    return float(f'{value:.{DIGITS}g}')


def plan(grid: Mapping[str, Any], random: Mapping[str, Any], trials: int, seed: int) -> list[Trial]:
    """The trials: every combination of the grid, with each of the random draws.

    A draw depends on the seed, its number and the option's name alone, so that more trials later begin with the same.

    Args:
        grid: Option -> values.
        random: Option -> distribution.
        trials: Random draws; of no use without `random`.
        seed: Of the draws.

    Raises:
        ValueError: Nothing to try, an option in both, or values that cannot be read.
    """
    if both := sorted(grid.keys() & random.keys()):
        raise ValueError(f'{", ".join(both)}: in the grid and random as well')
    if not grid and not random:
        raise ValueError('nothing to try: give --grid OPTION=VALUE,VALUE or --random OPTION=log(LOWEST,HIGHEST)')
    values = {name: choices(value) for name, value in grid.items()}
    draws = {name: distribution(said) for name, said in random.items()}
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    found = []
    for number in range(trials if draws else 1):
        streams = {name: np.random.default_rng([seed, number, zlib.crc32(name.encode())]) for name in draws}
        drawn = {name: draw(streams[name]) for name, draw in draws.items()}
        found += [{**point, **drawn} for point in points]
    return [Trial(number, options) for number, options in enumerate(found)]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first; those without a figure come last."""
    return sorted(trials, key=lambda trial: -merit(trial.best, trial.metric) if trial.history else math.inf)


def table(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row a trial, the best first."""
    return [
        {
            'trial': trial.name,
            **trial.options,
            'status': trial.status,
            'epochs': int(trial.history[-1]['epoch']) if trial.history else 0,
            'metric': trial.metric,
            'best': trial.best if trial.history else '',
            'last': trial.last if trial.history else '',
            'seconds': round(trial.seconds, 1),
            'error': trial.error,
        }
        for trial in ranked(trials)
    ]
