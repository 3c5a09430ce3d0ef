"""The learning-rate range test: the rate rises with every update, and the loss tells which rates are of use."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from matplotlib.figure import Figure

from foveal.data import Loader
from foveal.engine import distributed
from foveal.engine.build import build, open_data, updates_per_epoch, wrap
from foveal.engine.config import TrainConfig, check_train
from foveal.engine.figures import BLUE, GREY, ORANGE
from foveal.engine.guards import Guard
from foveal.engine.precision import set_products
from foveal.engine.run import Run
from foveal.engine.train import get_ready, update

SMOOTHING = 0.9  # share of the running mean of the loss that stays with each update
EDGE = 5  # updates at the start whose mean is of too few losses to be judged


@dataclass
class RangeTest:
    """What a range test measured.

    Attributes:
        rates: Learning rate of each update.
        losses: Loss of each update, before it was made.
        diverged: Whether the loss rose so far that the test stopped.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    diverged: bool = False

    @property
    def smooth(self) -> list[float]:
        """Running mean of the losses; its start is corrected for the mean beginning at zero (arXiv:1412.6980, 3)."""
        mean, result = 0.0, []
        for count, loss in enumerate(self.losses, 1):
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            result.append(mean / (1 - SMOOTHING**count))
        return result

    @property
    def lowest(self) -> int:
        """Where the smoothed loss is lowest."""
        smooth = self.smooth
        return min(range(min(EDGE, len(smooth) - 1), len(smooth)), key=smooth.__getitem__)

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls fastest over the logarithm of the rate, before it is lowest.

        None where the loss never fell.
        """
        smooth, logs = self.smooth, [math.log(rate) for rate in self.rates]
        inner = range(max(EDGE, 1), self.lowest)
        slopes = {i: (smooth[i + 1] - smooth[i - 1]) / (logs[i + 1] - logs[i - 1]) for i in inner}
        steepest = min(slopes, key=slopes.__getitem__, default=None)
        return None if steepest is None or slopes[steepest] >= 0 else self.rates[steepest]


def range_test(config: TrainConfig, lowest: float, highest: float, updates: int, diverged: float) -> RangeTest:
    """Trains for some updates, with a rate that rises by the same factor each time (arXiv:1506.01186, section 3.3).

    The data, model, loss and optimizer are those of a training with this configuration; warm-up and schedule are not.
    Nothing is written: the weights that come out are of no use, and those that went in stay as they are.

    Args:
        config: Of the training.
        lowest, highest: Learning rate of the first and of the last update; groups keep their ratios to it.
        updates: How many, if the loss allows.
        diverged: Stop when the smoothed loss is so many times its lowest value, or no number.

    Raises:
        ValueError, OSError: Something asked cannot be done.
    """
    if not 0 < lowest < highest:
        raise ValueError(f'lowest and highest must be rates, 0 < lowest < highest, got {lowest} and {highest}')
    if updates < 2 * EDGE:
        raise ValueError(f'updates must be at least {2 * EDGE}, got {updates}')
    if not diverged > 1:
        raise ValueError(f'diverged must be above 1, got {diverged}')
    config = replace(config, nonfinite='skip', nonfinite_limit=1, ema=0.0, evaluate_plain=False)
    check_train(config)
    process = distributed.start(config.device, config.threads)
    if process.world_size > 1:
        distributed.finish()
        raise ValueError('lr-find runs in one process; the rate that it finds holds for the global batch it was given')
    set_products(config.precision)
    run, loader, _ = build(config, process, *open_data(config))
    ratios = [group.get('lr_ratio', 1.0) * group.get('lr_scale', 1.0) for group in run.optimizer.param_groups]
    found = RangeTest()
    for number, make in enumerate(endless_updates(run, loader, process)):
        found.rates.append(lowest * (highest / lowest) ** (number / (updates - 1)))
        for group, ratio in zip(run.optimizer.param_groups, ratios, strict=True):
            group['lr'] = found.rates[-1] * ratio
        found.losses.append(make().item())
        smooth = found.smooth
        if math.isnan(found.losses[-1]) or (number >= EDGE and smooth[-1] > diverged * min(smooth[EDGE:])):
            found.diverged = True
            break
        if number + 1 == updates:
            break
    if math.isnan(found.losses[-1]):
        found.rates, found.losses = found.rates[:-1], found.losses[:-1]
    if len(found.losses) <= EDGE:
        raise ValueError(f'the loss was no number after {len(found.losses)} updates; give a lower lowest rate')
    return found


def endless_updates(run: Run, loader: Loader, process: distributed.Process) -> Iterator[Callable[[], torch.Tensor]]:
    """Functions that make an update each and return its loss, epoch after epoch without end."""
    task, accum = wrap(run.task, run.config, process), run.config.grad_accum
    while True:
        loader.set_epoch(run.epoch)
        batches = iter(loader)
        mix = get_ready(run, task, process)
        guard = Guard(run, loader, process)
        for run.step in range(updates_per_epoch(loader, accum)):
            count = min(accum, len(loader) - run.step * accum)
            yield partial(update, run, task, batches, count, mix, process, guard)
        run.epoch += 1


def draw(found: RangeTest) -> Figure:
    """The loss over the rate, and the suggestion."""
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color=GREY, alpha=0.4, linewidth=1, label='loss of each update')
    axes.plot(found.rates, found.smooth, color=BLUE, label='smoothed')
    if found.suggestion is not None:
        axes.axvline(found.suggestion, color=ORANGE, linestyle='--', label=f'falls fastest: {found.suggestion:.2g}')
    low, high = limits(found.smooth)
    axes.set(xscale='log', xlabel='learning rate', ylabel='loss', ylim=(low, high))
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    return figure


def limits(smooth: Sequence[float]) -> tuple[float, float]:
    """The range of losses that is drawn: where it diverges, it would hide the rest."""
    low, start = min(smooth), smooth[0]
    margin = max(start - low, 0.1 * abs(start), torch.finfo(torch.float32).tiny)
    return low - 0.2 * margin, max(start, low) + 0.8 * margin
