"""Draws the pictures of docs/schedules.md: `python examples/schedules.py`."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from foveal.engine import figures
from foveal.scheduler import create_scheduler

DOCS = Path(__file__).parent.parent / 'docs'
UPDATES = 50  # an epoch
SHOWN: dict[str, dict[str, Any]] = {
    'cosine': {},
    'cosine, 3 cycles': dict(sched='cosine', num_epochs=8, cycle_limit=3, cycle_decay=0.6),
    'cosine, k_decay=2': dict(sched='cosine', k_decay=2.0),
    'tanh': {},
    'poly, decay_rate=1': dict(sched='poly', decay_rate=1.0),
    'step, decay_epochs=6': dict(sched='step', decay_epochs=6, decay_rate=0.4),
    'wsd': {},
    'rsqrt, decay_epochs=6': dict(sched='rsqrt', decay_epochs=6),
    'constant, noise=0.6': dict(sched='constant', noise=0.6, noise_pct=0.15, step_on_epochs=True),
}


def curve(sched: str = 'cosine', num_epochs: int = 24, **options: Any) -> tuple[list[float], list[float]]:
    """Epochs done and learning rates of a run with a peak of 1."""
    settings: dict[str, Any] = dict(warmup_epochs=3, step_on_epochs=False, updates_per_epoch=UPDATES) | options
    scheduler, epochs = create_scheduler(torch.optim.SGD([torch.zeros(0)], lr=1.0), sched, num_epochs, **settings)
    assert scheduler is not None
    unit = 1 if scheduler.t_in_epochs else UPDATES
    steps = range(epochs * unit + 1)
    return [t / unit for t in steps], [scheduler.rate(1.0, t) * scheduler.noise(t) for t in steps]


def overview() -> Figure:
    """Every kind of schedule."""
    figure = Figure(figsize=(9, 5.4), layout='constrained')
    for axes, (title, options) in zip(figure.subplots(3, 3, sharey=True).flat, SHOWN.items(), strict=True):
        axes.plot(*curve(**({'sched': title} | options)), color=figures.BLUE)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0, 1.25)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.supxlabel('epoch')
    figure.supylabel('learning rate')
    return figure


def warmups() -> Figure:
    """What warmup_prefix does to a cosine of 20 epochs, 5 of them warm-up."""
    ways = {'None (default)': None, 'False': False, 'True': True}
    lines = {
        f'warmup_prefix={name}': curve(num_epochs=20, warmup_epochs=5, min_lr=0.05, warmup_prefix=way)
        for name, way in ways.items()
    }
    figure = figures.rates(lines)
    figure.axes[0].axvline(20, color=figures.GREY, linestyle=':')
    return figure


if __name__ == '__main__':
    for name, drawn in (('schedules', overview()), ('warmup', warmups())):
        drawn.savefig(DOCS / f'{name}.png', dpi=80)
