"""The scores that evaluations give: what readers call them, their unit, and which way is better. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A score.

    Attributes:
        title: What a reader calls it.
        unit: '%', or '' for a plain number.
        lower: Whether less is better.
    """

    title: str
    unit: str = '%'
    lower: bool = False


METRICS = {
    'loss': Metric('loss', '', lower=True),
    'top1': Metric('top-1'),
    'top5': Metric('top-5'),
    'map': Metric('mAP'),
    'micro_f1': Metric('F1 micro'),
    'macro_f1': Metric('F1 macro'),
    'sample_f1': Metric('F1 sample'),
    'mae': Metric('MAE', '', lower=True),
    'rmse': Metric('RMSE', '', lower=True),
    'r2': Metric('R2', ''),
}


def told(name: str, value: float, digits: int = 2) -> str:
    """A score as text: `top-1 93.25 %`; plain numbers with two digits more."""
    metric = METRICS[name]
    return f'{metric.title} {value:.{digits}f} %' if metric.unit else f'{metric.title} {value:.{digits + 2}f}'


def of_validation(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores in a row of metrics.csv, without the `val_` of their columns."""
    return {key.removeprefix('val_'): value for key, value in row.items() if key.startswith('val_')}
