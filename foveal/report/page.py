"""The page of a run, or of several beside each other, as one HTML file that needs nothing else."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader

from foveal import __version__
from foveal.engine.config import TrainConfig, to_plain
from foveal.engine.metrics import METRICS
from foveal.engine.selection import lower_is_better
from foveal.files import write_text
from foveal.report.charts import COLOURS, PERCENT, Chart, Line, chart, heat
from foveal.report.folder import Row, RunFolder

NUMBERED = 20  # more classes than this are a picture, not a table
PAIRS = 20  # confusions that are listed
MOST_ROWS = 2000  # of a table: a browser takes more, a reader does not
DRAWN = 2000  # classes of a confusion matrix, a pixel each
# columns of metrics.csv that are no scores
OTHERS = {'epoch': 'epoch', 'lr': 'learning rate', 'seconds': 'seconds', 'images_per_second': 'images/s'}
KINDS = {'train': 'training', 'val': 'validation', 'plain': 'plain weights'}
PER_CLASS = {'class': 'class', 'count': 'images', 'average_precision': 'average precision %'}
PER_CLASS |= {'recall': 'recall %', 'precision': 'precision %', 'f1': 'F1 %', 'mae': 'MAE', 'rmse': 'RMSE', 'r2': 'R²'}
ALIGNED = ('average_precision', 'recall', 'precision', 'f1')
# of a configuration, what says where a run is, not what it is
PLACES = ('output', 'resume')


def write_report(path: str | Path, output: str | Path | None = None) -> Path:
    """Makes the report of a run from its folder alone.

    Args:
        path: The folder.
        output: File to write; report.html in the folder where absent.

    Returns:
        The file.

    Raises:
        FileNotFoundError, ValueError: No run's folder, or a damaged file in it.
        OSError: The report cannot be written.
    """
    run, output = RunFolder.read(path), Path(output or Path(path) / 'report.html')
    page = fill(
        'run.html',
        title=run.name,
        run=run,
        charts=[found for found in run_charts(run) if found],
        confusion=confusion_of(run),
        classes=[(key, PER_CLASS.get(key, key)) for key in (run.evaluation.get('per_class') or [{}])[0]],
        changed=changed_options(run.config),
        best_file=file_of(run.path / 'best.safetensors'),
        most_rows=MOST_ROWS,
    )
    write_text(output, page)
    return output


def write_comparison(paths: Sequence[str | Path], output: str | Path) -> Path:
    """Makes a page that sets runs beside each other; arguments, result and errors as of `write_report`."""
    runs = [RunFolder.read(path) for path in paths]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    every = dict.fromkeys(column for run in runs for column in (*run.scores, 'lr', 'images_per_second'))
    # one that a single run has is in that run's own report
    shared = [column for column in every if sum(column in run.columns for run in runs) > 1]
    lines = [
        chart(
            heading(column),
            [Line(name, *line_of(run.history, column)) for name, run in zip(names, runs, strict=True)],
            unit_of(column),
        )
        for column in shared
    ]
    configs = [{**to_plain(TrainConfig()), **run.config} for run in runs]
    options = [
        (key, [config.get(key) for config in configs])
        for key in dict.fromkeys(key for config in configs for key in config)
        if key not in PLACES and any(config.get(key) != configs[0].get(key) for config in configs)
    ]
    page = fill(
        'comparison.html',
        title=f'{len(runs)} runs',
        runs=list(zip(names, runs, strict=True)),
        scores=list(dict.fromkeys(column for run in runs for column in run.scores)),
        charts=[found for found in lines if found],
        options=options,
        classes=compared_classes(runs),
    )
    write_text(output, page)
    return Path(output)


def fill(name: str, **values: Any) -> str:
    """A page with its values in place."""
    return templates().get_template(name).render(**values)


@cache
def templates() -> Environment:
    """The pages to be filled. All that is put into them is escaped."""
    found = Environment(loader=PackageLoader('foveal.report'), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {'number': number, 'option': option, 'duration': duration, 'heading': heading}
    found.globals |= {'version': __version__, 'colours': COLOURS}
    return found


def number(value: float | None, column: str = '') -> str:
    """A number for a reader; of a column of metrics.csv, with its unit; of the table of classes, aligned."""
    if value is None:
        return ''
    name = column.partition('_')[2]
    if column in ALIGNED:
        return f'{value:.2f}'
    if name in METRICS:
        return f'{value:.2f} %' if METRICS[name].unit else f'{value:.4f}'
    return f'{value:,.0f}' if float(value).is_integer() else f'{value:.4g}'


def option(value: Any) -> str:
    """The value of an option as a YAML file holds it."""
    if value is None or value == '':
        return '-'
    if isinstance(value, (dict, list)):
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False).strip()
    return str(value).lower() if isinstance(value, bool) else str(value)


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {rest:02} s' if minutes else f'{seconds:.1f} s'


def heading(column: str) -> str:
    """What a column of metrics.csv is called."""
    kind, _, name = column.partition('_')
    return f'{KINDS[kind]} {METRICS[name].title}' if kind in KINDS and name in METRICS else OTHERS.get(column, column)


def line_of(rows: Sequence[Row], column: str) -> tuple[list[float], list[float]]:
    """A column over the epochs; of rows that lack it, nothing."""
    there = [row for row in rows if column in row]
    return [row['epoch'] for row in there], [row[column] for row in there]


def run_charts(run: RunFolder) -> list[Chart | None]:
    """The curves of a run: losses, scores, learning rate, throughput."""
    kinds = {'train_loss': 'training', 'val_loss': 'validation', 'plain_loss': 'plain weights'}
    losses = [Line(label, *line_of(run.history, column)) for column, label in kinds.items() if column in run.scores]
    drawn = [chart('Loss', losses)]
    scores = [column for column in run.scores if column not in kinds]
    for (errors, unit), columns in itertools.groupby(sorted(scores, key=scale_of), key=scale_of):
        lines = [Line(heading(column), *line_of(run.history, column)) for column in columns]
        title = 'Errors' if errors else 'Scores'
        drawn.append(chart(f'{title} ({unit.strip()})' if unit else title, lines, unit))
    rows = run.updates if len(run.updates) > len(run.history) else run.history
    drawn.append(chart('Learning rate', [Line('learning rate', *line_of(rows, 'lr'))], start_at_zero=True))
    speed = Line('images/s', *line_of(rows, 'images_per_second'))
    drawn.append(chart('Throughput in training (images/s)', [speed], start_at_zero=True))
    return drawn


def scale_of(column: str) -> tuple[bool, str]:
    """What scores have in common that are drawn in one chart: whether less is better, and their unit."""
    return lower_is_better(column), unit_of(column)


def unit_of(column: str) -> str:
    """What stands behind a value of a column."""
    metric = METRICS.get(column.partition('_')[2])
    return PERCENT if metric and metric.unit else ''


def confusion_of(run: RunFolder) -> dict[str, Any] | None:
    """The confusion matrix: a table of few classes, a picture of many; and the pairs that are confused most."""
    rows = run.evaluation.get('confusion')
    if not rows:
        return None
    names = [row['class'] for row in run.evaluation['per_class']]
    triples = np.array(rows, np.int64)
    # a few classes are all shown; of many those that occur or were named
    met = np.arange(len(names)) if len(names) <= NUMBERED else np.unique(triples[:, :2])
    places = np.searchsorted(met, triples[:, :2])
    of_class = np.bincount(places[:, 0], triples[:, 2], len(met))
    wrong = [
        (count, names[truth], names[guess], of_class[place])
        for (truth, guess, count), place in zip(triples.tolist(), places[:, 0].tolist(), strict=True)
        if truth != guess
    ]
    found: dict[str, Any] = {
        'names': [names[i] for i in met.tolist()],
        'pairs': sorted(wrong, key=lambda pair: (-pair[0], pair[1:3]))[:PAIRS],
        'counts': None,
        'picture': None,
    }
    if len(met) > DRAWN:
        return found
    counts = np.zeros((len(met), len(met)), np.int64)
    counts[places[:, 0], places[:, 1]] = triples[:, 2]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(met) <= NUMBERED:
        found |= {'counts': counts.tolist(), 'shares': shares.tolist()}
    else:
        found['picture'] = heat(shares)
    return found


def changed_options(config: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The options that are not the defaults: name, value, default."""
    defaults = to_plain(TrainConfig())
    return [(key, value, defaults.get(key)) for key, value in config.items() if value != defaults.get(key)]


def file_of(path: Path) -> dict[str, Any] | None:
    """A file's size and SHA-256; None where there is none."""
    if not path.is_file():
        return None
    with path.open('rb') as file:
        return {
            'name': path.name,
            'bytes': path.stat().st_size,
            'sha256': hashlib.file_digest(file, 'sha256').hexdigest(),
        }


def compared_classes(runs: Sequence[RunFolder]) -> dict[str, Any] | None:
    """The score of each class in each run, where all have the same classes: those that differ most first."""
    tables = [run.evaluation.get('per_class') for run in runs]
    if not all(tables):
        return None
    named = [[row['class'] for row in table] for table in tables if table]
    score = next(
        (key for key in ('recall', 'average_precision', 'mae') if all(key in table[0] for table in tables if table)),
        None,
    )
    if score is None or any(names != named[0] for names in named):
        return None
    rows = [(name, [table[i][score] for table in tables if table]) for i, name in enumerate(named[0])]

    def apart(row: tuple[str, list[float | None]]) -> float:
        known = [value for value in row[1] if value is not None]
        return min(known) - max(known) if known else 0.0

    return {'score': score, 'title': PER_CLASS[score], 'rows': sorted(rows, key=apart)[:MOST_ROWS]}
