"""`foveal schedule`: the learning rate of a training configuration, as a table and as a picture."""

from dataclasses import dataclass

from foveal.engine.config import TrainConfig

ROWS = 20


@dataclass
class ScheduleConfig(TrainConfig):
    """Show the learning rate over a run of `foveal train`, whose options and YAML files it takes."""

    updates_per_epoch: int = 100
    """Updates that an epoch is taken to have."""
    plot: str | None = None
    """Draw the rate to this picture (.png, .pdf, .svg)."""


def run(config: ScheduleConfig) -> int:
    """Prints the rate at the start of epochs, and draws it.

    Raises:
        ValueError, OSError: No such schedule, one that depends on what a run measures, or a picture in no folder.
    """
    import torch

    from foveal.engine import figures
    from foveal.engine.schedule import build_schedule
    from foveal.files import check_writable, replacing

    if config.sched in ('plateau', 'none'):
        raise ValueError(f'sched {config.sched} has no curve to show: plateau follows the metric of a run, none is lr')
    if not config.lr > 0:
        raise ValueError(f'lr must be above 0, got {config.lr}')
    check_writable(config.plot)
    scheduler, epochs = build_schedule(
        config, torch.optim.SGD([torch.zeros(0)], lr=config.lr), config.updates_per_epoch
    )
    assert scheduler is not None
    unit = 1 if scheduler.t_in_epochs else config.updates_per_epoch
    rates = [scheduler.rate(config.lr, t) * scheduler.noise(t) for t in range(epochs * unit + 1)]
    print_table(rates, unit)
    if config.plot:
        curve = [t / unit for t in range(len(rates))], rates
        with replacing(config.plot) as temporary:
            figures.rates({config.sched: curve}, stairs=scheduler.t_in_epochs).savefig(temporary, dpi=120)
    return 0


def print_table(rates: list[float], unit: int) -> None:
    """The rates at the start of some epochs, of each where they are few, and at the end of the last."""
    from rich.console import Console
    from rich.table import Table

    epochs = len(rates) // unit
    table = Table(box=None, pad_edge=False, header_style='bold')
    for title in ('epochs done', 'lr'):
        table.add_column(title, justify='right')
    for epoch in range(0, epochs, -(-epochs // ROWS)):
        table.add_row(str(epoch), f'{rates[epoch * unit]:.4g}')
    table.add_row(str(epochs), f'{rates[-1]:.4g}')
    Console().print(table)
