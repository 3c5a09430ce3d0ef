"""The schedule that a training configuration asks for."""

import inspect

import torch

from foveal.engine.config import TrainConfig
from foveal.errors import check_options
from foveal.scheduler import Scheduler, create_scheduler

# what has a field of its own, or follows from the data
FIXED = {'optimizer', 'sched', 'num_epochs', 'warmup_epochs', 'warmup_lr', 'min_lr', 'updates_per_epoch'}


def build_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, updates_per_epoch: int
) -> tuple[Scheduler | None, int]:
    """The scheduler of a run, which steps on updates unless told otherwise (plateau: on epochs), and its epochs.

    Raises:
        ValueError: An unknown schedule or option, or a number out of its range.
    """
    legal = set(inspect.signature(create_scheduler).parameters) - FIXED
    check_options('sched_options', config.sched_options, legal)
    options = {'step_on_epochs': config.sched == 'plateau', **config.sched_options}
    return create_scheduler(
        optimizer,
        config.sched,
        config.epochs,
        warmup_epochs=warmup_length(config),
        warmup_lr=config.warmup_lr,
        min_lr=config.min_lr,
        updates_per_epoch=updates_per_epoch,
        **options,
    )


def warmup_length(config: TrainConfig) -> float:
    """Epochs of the warm-up: what is asked, else 5, or a tenth of a run of less than 50 epochs."""
    return min(5.0, config.epochs / 10) if config.warmup_epochs is None else config.warmup_epochs


def check_schedule(config: TrainConfig) -> None:
    """Refuses a schedule that cannot be built, before data are read.

    Raises:
        ValueError: As `build_schedule`.
    """
    build_schedule(config, torch.optim.SGD([torch.zeros(0)], lr=config.lr), updates_per_epoch=1000)
