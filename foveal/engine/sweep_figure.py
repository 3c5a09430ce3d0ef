"""A picture of a sweep: what each option's values led to."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from foveal.engine.figures import BLUE, ORANGE
from foveal.engine.sweep import Trial, ranked

DECADES = 10.0  # numbers that differ by this factor are drawn on a logarithmic scale
FEW = 4  # numbers are labelled one by one
COLUMNS = 3


def draw(trials: Sequence[Trial]) -> Figure:
    """The best metric of every trial over each of the options that were tried.

    Args:
        trials: Of which at least one has finished an epoch.
    """
    shown = [trial for trial in ranked(trials) if trial.history]
    names = list(shown[0].options)
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.axis('off')
    for name, axes in zip(names, grid.flat, strict=False):
        positions = place(axes, [trial.options[name] for trial in shown])
        reached = [trial.best for trial in shown]
        axes.scatter(positions[1:], reached[1:], color=BLUE, s=22, alpha=0.8)
        axes.scatter(positions[:1], reached[:1], color=ORANGE, s=44, label='best')
        axes.set(xlabel=name, ylabel=f'best {shown[0].metric}')
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), frameon=False, loc='outside upper right')
    return figure


def place(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Where values lie along an axis: numbers as they are, others side by side."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        if min(values) > 0 and max(values) / min(values) >= DECADES:
            axes.set_xscale('log')
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_formatter('{x:g}')
        elif len(set(values)) <= FEW:
            axes.set_xticks(sorted(set(values)))
        else:
            axes.locator_params(axis='x', nbins=5)
        return [float(value) for value in values]
    texts = sorted({str(value) for value in values})
    axes.set_xticks(range(len(texts)), texts)
    axes.set_xlim(-0.5, len(texts) - 0.5)
    return [float(texts.index(str(value))) for value in values]
