"""Pictures of a run: its curves, its confusions, its guesses."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from foveal.data import ImageDataset
from foveal.data.images import decode
from foveal.data.stream import StreamDataset
from foveal.engine.metrics import METRICS, of_validation, told
from foveal.engine.selection import evaluated

if TYPE_CHECKING:
    from foveal.engine.calibration import Calibrated
    from foveal.engine.evaluate import Scores
    from foveal.engine.top_losses import Mistake

# colours that stay apart for colour-blind readers (Okabe and Ito 2008)
BLUE, ORANGE, GREEN, GREY = '#0072B2', '#D55E00', '#009E73', '#8a8a8a'
NUMBERED = 20  # more classes than this are drawn without numbers in the cells
NAMED = 50  # and more than this without names
DRAWN = 2000  # and more than this not at all: a pixel each


def curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Losses and accuracy over the epochs.

    Args:
        history: Rows with epoch, train_loss and, at least in one, val_loss and the further scores of the validation.
    """
    figure = Figure(figsize=(10, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    judged = evaluated(history)
    marker = 'o' if len(history) < 30 else None
    lines = [(left, 'train_loss', 'training (augmented, smoothed)', BLUE), (left, 'val_loss', 'validation', ORANGE)]
    there = [name for name in of_validation(judged[0]) if name in METRICS and not METRICS[name].lower]
    for name, colour in zip(there, (ORANGE, GREY, GREEN, BLUE), strict=False):
        best = told(name, max(row[f'val_{name}'] for row in judged))
        lines.append(
            (right, f'val_{name}', f'{METRICS[name].title}, best{best.removeprefix(METRICS[name].title)}', colour)
        )
    for axes, key, label, colour in lines:
        rows = [row for row in history if key in row]
        values = ([row[column] for row in rows] for column in ('epoch', key))
        axes.plot(*values, label=label, color=colour, marker=marker, markersize=4)
    for axes, title in ((left, 'Loss'), (right, 'Validation (%)' if METRICS[there[0]].unit else 'Validation')):
        axes.set_title(title)
        axes.set_xlabel('epoch')
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False)
    return figure


def rates(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], stairs: bool = False) -> Figure:
    """Learning rates over a run.

    Args:
        lines: Label -> epochs done and rates.
        stairs: Whether a rate holds until the next one, rather than leading to it.
    """
    figure = Figure(figsize=(7, 3.5), layout='constrained')
    axes = figure.subplots()
    for (label, (epochs, values)), colour in zip(lines.items(), itertools.cycle((BLUE, ORANGE, GREEN, GREY))):
        axes.plot(epochs, values, label=label, color=colour, drawstyle='steps-post' if stairs else 'default')
    axes.set(xlabel='epoch', ylabel='learning rate', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    return figure


def confusion(counts: torch.Tensor, classes: Sequence[str]) -> Figure:
    """True classes against guesses, in percent of the true class.

    Args:
        counts: int64 (classes, classes), true class by guess.
        classes: Their names.
    """
    count = len(classes)
    share = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(max(4.5, 0.5 * count + 2), 16)
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap='Blues', vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label='% of the true class', shrink=0.8)
    if count <= NUMBERED:
        for row, column in counts.nonzero().tolist():
            value = share[row, column].item()
            text = f'{value:.0f}' if value >= 1 else f'{value:.1f}'
            axes.text(column, row, text, ha='center', va='center', fontsize=8, color='w' if value > 50 else 'k')
    if count <= NAMED:
        axes.set_xticks(range(count), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
        axes.set_yticks(range(count), classes)
    right = 100 * counts.diag().sum().item() / max(counts.sum().item(), 1)
    axes.set(xlabel='guess', ylabel='true class', title=f'{counts.sum().item():,} images, {right:.2f} % right')
    return figure


def confusion_of(scores: 'Scores', classes: Sequence[str]) -> Figure | None:
    """The confusions of an evaluation; of many classes those that occur or were named.

    Args:
        scores: Of the evaluation.
        classes: Names of all classes.

    Returns:
        The figure; None where there are more classes than pixels.
    """
    if len(classes) <= NAMED:
        return confusion(scores.confusion, classes)
    met, counts = scores.met()
    return confusion(counts, [classes[i] for i in met.tolist()]) if len(met) <= DRAWN else None


def mistakes(
    rows: Sequence['Mistake'], images: ImageDataset | StreamDataset, classes: Sequence[str], columns: int = 4
) -> Figure | None:
    """A sheet of images that a model is wrong about, with what it made of them.

    Args:
        rows: The images.
        images: Where they are.
        classes: Names of the classes.
        columns: Most images in a row.

    Returns:
        The figure; None of no images, and of a stream, which gives none again.
    """
    if isinstance(images, StreamDataset) or not rows:
        return None
    pictures = [as_image(decode(images.read(row.index), images.channels)) for row in rows]
    titles = [f'is {classes[row.truth]} (loss {row.loss:.2f})' for row in rows]
    guesses = [
        [(classes[row.guess], row.guess_probability), (classes[row.truth], row.truth_probability)][
            : 1 + (row.guess != row.truth)
        ]
        for row in rows
    ]
    return sheet(pictures, titles, guesses, columns)


def reliability(calibrated: 'Calibrated') -> Figure:
    """Accuracy over confidence, and how many images lie where (arXiv:1706.04599, figure 1)."""
    count = len(calibrated.counts)
    middles = [(i + 0.5) / count for i in range(count)]
    there = calibrated.counts > 0
    figure = Figure(figsize=(4.6, 5.4), layout='constrained')
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    upper.bar(middles, calibrated.accuracy, 0.92 / count, color=BLUE, label='accuracy')
    gaps = (calibrated.confidence - calibrated.accuracy) * there
    hatched = {'color': 'none', 'edgecolor': ORANGE, 'hatch': '////', 'label': 'gap to the confidence'}
    upper.bar(middles, gaps, 0.92 / count, calibrated.accuracy, **hatched)
    upper.plot([0, 1], [0, 1], color=GREY, linestyle='--', linewidth=1)
    title = f'calibration error {calibrated.ece:.2f} %'
    if calibrated.temperature is not None:
        title += f', best temperature {calibrated.temperature:.2f}'
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel='accuracy', title=title)
    lower.bar(middles, 100 * calibrated.counts / max(calibrated.counts.sum(), 1), 0.92 / count, color=GREY)
    lower.set(xlabel='confidence of the first guess', ylabel='% of images')
    figure.legend(frameon=False, loc='outside lower center', ncols=2)
    for axes in (upper, lower):
        axes.spines[['top', 'right']].set_visible(False)
    return figure


def as_image(pixels: np.ndarray) -> torch.Tensor:
    """Any image (height, width, channels) as uint8 (channels, height, width) of one or three channels, to look at."""
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, (2, 98))
        pixels = ((pixels - low) / max(high - low, 1e-9) * 255).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def sheet(
    images: Sequence[torch.Tensor], names: Sequence[str], guesses: Sequence[Sequence[tuple[str, float]]],
    columns: int = 6,
) -> Figure:  # fmt: skip
    """Images, each over bars of its guesses.

    Args:
        images: uint8 (channels, height, width) each.
        names: A title each.
        guesses: For each image its labels and probabilities, the likeliest first.
        columns: Most images in a row.
    """
    columns = min(columns, len(images), max(3, math.ceil(math.sqrt(len(images)))))
    rows = math.ceil(len(images) / columns)
    bars = max(1, *(len(guess) for guess in guesses))
    figure = Figure(figsize=(2.3 * columns, (2.5 + 0.24 * bars) * rows), layout='constrained')
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.1, 0.24 * bars] * rows)
    for axes in grid.flat:
        axes.axis('off')
    for i, (image, name, guess) in enumerate(zip(images, names, guesses, strict=True)):
        picture, chart = grid[2 * (i // columns)][i % columns], grid[2 * (i // columns) + 1][i % columns]
        picture.imshow(image.permute(1, 2, 0).numpy(), cmap='gray', vmin=0, vmax=255)
        picture.set_title(clip(name, 26), fontsize=8, color='#444444')
        chart.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5))
        chart.barh(range(len(guess)), [1] * len(guess), color='#eeeeee', height=0.86)
        chart.barh(
            range(len(guess)), [p for _, p in guess], color=['#7fb7d9'] + ['#cfe3ef'] * (len(guess) - 1), height=0.86
        )
        for row, (label, probability) in enumerate(guess):
            weight = 'bold' if row == 0 else 'normal'
            chart.text(0.02, row, clip(label, 18), va='center', fontsize=8, weight=weight)
            chart.text(0.98, row, f'{100 * probability:.1f} %', va='center', ha='right', fontsize=8, weight=weight)
    return figure


def clip(text: str, length: int) -> str:
    """The end of a long text: of a path it tells more than the start."""
    return text if len(text) <= length else '…' + text[-length + 1 :]
