"""Charts as SVG that takes its colours from the page: they follow light and dark mode and need no script."""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 36
MOST = 400  # points of a line: more are not told apart at this width
COLOURS = 8  # of lines, in style.css
PERCENT = ' %'  # behind a value


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: For the legend.
        xs, ys: Points; those whose y is no number are left out.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn by chart.html: all places are in its own units, y downwards.

    Attributes:
        title: Of the chart.
        summary: What a reader who does not see it is told.
        lines: Label and path of each.
        xticks, yticks: Place and text.
        bands: Left edge, width, middle and text of the stripes that tell their values.
    """

    title: str
    summary: str
    lines: list[tuple[str, str]]
    xticks: list[tuple[float, str]]
    yticks: list[tuple[float, str]]
    bands: list[tuple[float, float, float, str]]


def chart(title: str, lines: Sequence[Line], unit: str = '', start_at_zero: bool = False) -> Chart | None:
    """Lines over epochs.

    Args:
        title: What is drawn.
        lines: At least one.
        unit: Behind each value.
        start_at_zero: Whether the y axis begins there.

    Returns:
        The chart; None where there is nothing to draw.
    """
    points = [thinned(line) for line in lines]
    every = [point for line in points for point in line]
    if not every:
        return None
    (left, right), (low, high) = spread(x for x, _ in every), spread(y for _, y in every)
    ceiling = 100 if unit == PERCENT and high <= 100 else math.inf
    yticks = [y for y in MaxNLocator(5).tick_values(0 if start_at_zero else low, high) if y <= ceiling]
    bottom, top = yticks[0], max(yticks[-1], high)
    xticks = [x for x in MaxNLocator(8, integer=True).tick_values(left, right) if left <= x <= right]

    def across(x: float) -> float:
        return round(LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(TOP + (top - y) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    paths = []
    for line, some in zip(lines, points, strict=True):
        path = 'M' + 'L'.join(f'{across(x)},{down(y)}' for x, y in some) if some else ''
        # a point alone is a dot
        paths.append((line.label, path + ('h.01' if len(some) == 1 else '')))
    return Chart(
        title,
        '; '.join(describe(line.label, some, unit) for line, some in zip(lines, points, strict=True) if some),
        paths,
        [(across(x), f'{x:g}') for x in xticks],
        [(down(y), f'{y:g}') for y in yticks],
        stripes(lines, points, across, unit),
    )


def spread(values: Any) -> tuple[float, float]:
    """The smallest and the largest, never the same."""
    some = list(values)
    low, high = min(some), max(some)
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def thinned(line: Line) -> list[tuple[float, float]]:
    """The finite points of a line, evenly fewer where there are too many."""
    some = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    step = -(-len(some) // MOST) or 1
    return some[::step] + (some[-1:] if (len(some) - 1) % step else [])


def describe(label: str, points: Sequence[tuple[float, float]], unit: str) -> str:
    """A line in words."""
    ys = [y for _, y in points]
    return f'{label}: from {ys[0]:.4g} to {ys[-1]:.4g}{unit}, between {min(ys):.4g} and {max(ys):.4g}'


def stripes(lines: Sequence[Line], points: Any, across: Any, unit: str) -> list[tuple[float, float, float, str]]:
    """A stripe around each x, with the values there."""
    at: dict[float, list[str]] = {}
    for line, some in zip(lines, points, strict=True):
        for x, y in some:
            at.setdefault(x, []).append(f'{line.label}: {y:.5g}{unit}')
    xs = sorted(at)
    edges = [across(xs[0]), *(across((a + b) / 2) for a, b in itertools.pairwise(xs)), across(xs[-1])]
    return [
        (left, round(max(right - left, 1), 1), across(x), '\n'.join([f'epoch {x:g}', *at[x]]))
        for x, (left, right) in zip(xs, itertools.pairwise(edges), strict=True)
    ]


def heat(shares: np.ndarray) -> str:
    """Shares in [0, 1] (rows, columns) as a picture, a pixel each: the same blue, more or less of it.

    Returns:
        A data URI; transparent where the share is 0, so that it suits a light page and a dark one.
    """
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    pixels[..., :3] = (0x2B, 0x7F, 0xC4)
    # small shares are what one looks for off the diagonal
    pixels[..., 3] = np.round(255 * np.sqrt(shares.clip(0, 1)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return f'data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'
