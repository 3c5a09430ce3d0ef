"""Which epoch of a run is the best."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from foveal.engine.metrics import METRICS, of_validation
from foveal.errors import near


def lower_is_better(column: str) -> bool:
    """Whether a column of metrics.csv, such as val_loss, falls as a model gets better."""
    return METRICS[column.partition('_')[2]].lower


def merit(value: float, column: str) -> float:
    """A value of a column as a number that rises as a model gets better; what is no number is the worst."""
    if math.isnan(value):
        return -math.inf
    return -value if lower_is_better(column) else value


def is_better(value: float, best: float | None, column: str) -> bool:
    """Whether a value of a column is the best so far; of several equal ones the first is."""
    return best is None or merit(value, column) > merit(best, column)


def evaluated(history: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of metrics.csv of epochs that were evaluated; the others have no scores."""
    return [row for row in history if of_validation(row)]


def best_first(history: Iterable[Mapping[str, Any]], column: str) -> list[Mapping[str, Any]]:
    """Rows of metrics.csv of evaluated epochs by merit; of equal ones the earlier first."""
    return sorted(evaluated(history), key=lambda row: (-merit(row[column], column), row['epoch']))


def check_metric(column: str, scores: Sequence[str], plain: bool) -> None:
    """Refuses a column that a run will not have.

    Args:
        column: What an epoch is to be judged by.
        scores: That its evaluations give, such as top1.
        plain: Whether the weights themselves are evaluated beside their running mean.

    Raises:
        ValueError: Names the legal columns.
    """
    kinds = ('val', 'plain') if plain else ('val',)
    legal = ['train_loss', *(f'{kind}_{score}' for kind in kinds for score in scores)]
    if column not in legal:
        raise ValueError(f'metric must be a column of metrics.csv, got {column!r}{near(column, legal)}')
