"""Learning rate as a pure function of progress."""

import math
from dataclasses import dataclass

import torch

SCHEDULES = ('cosine', 'constant')


@dataclass
class Scheduler:
    """Sets the learning rate of every group of an optimizer. It has no state: the step decides all.

    The groups' rates at construction are the peak; a group's `lr_scale` multiplies whatever comes out.

    Attributes:
        optimizer: Whose `lr` is set.
        sched: cosine (arXiv:1608.03983, one cycle) or constant.
        total: Steps until the schedule ends, exactly at `min_lr`.
        warmup: The first steps, in which the rate rises in a line from `warmup_lr` to the peak.
        warmup_lr: Rate at step 0 of the warm-up.
        min_lr: Rate at the end.
        step_on_epochs: Whether steps are epochs or updates.
    """

    optimizer: torch.optim.Optimizer
    sched: str
    total: int
    warmup: int
    warmup_lr: float
    min_lr: float
    step_on_epochs: bool

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault('initial_lr', group['lr'])
        self.set(0)

    def rate(self, peak: float, step: float) -> float:
        """The learning rate at a step, for a group whose highest rate is `peak`."""
        if step < self.warmup:
            return self.warmup_lr + (peak - self.warmup_lr) * step / self.warmup
        if self.sched == 'constant':
            return peak
        progress = min((step - self.warmup) / max(self.total - self.warmup, 1), 1.0)
        return self.min_lr + (peak - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2

    def set(self, step: float) -> None:
        for group in self.optimizer.param_groups:
            group['lr'] = self.rate(group['initial_lr'], step) * group.get('lr_scale', 1.0)

    def step(self, epoch: int) -> None:
        """Call after an epoch with the number of epochs done."""
        if self.step_on_epochs:
            self.set(epoch)

    def step_update(self, num_updates: int) -> None:
        """Call after an update with the number of updates done."""
        if not self.step_on_epochs:
            self.set(num_updates)


def create_scheduler(
    optimizer: torch.optim.Optimizer,
    sched: str = 'cosine',
    num_epochs: int = 300,
    warmup_epochs: float = 0,
    warmup_lr: float = 1e-5,
    min_lr: float = 0.0,
    updates_per_epoch: int = 0,
    step_on_epochs: bool = False,
) -> tuple[Scheduler, int]:
    """Builds the schedule of a run.

    Args:
        optimizer: Whose groups hold the peak rates.
        sched: cosine or constant.
        num_epochs: Length of the run, warm-up included.
        warmup_epochs: Length of the warm-up; a part of an epoch is fine when stepping on updates.
        warmup_lr: Rate that the warm-up starts from.
        min_lr: Rate that cosine ends at.
        updates_per_epoch: Needed when stepping on updates.
        step_on_epochs: Change the rate between epochs only.

    Returns:
        The scheduler and the number of epochs.

    Raises:
        ValueError: An unknown schedule, a warm-up as long as the run, or no updates to step on.
    """
    if sched not in SCHEDULES:
        raise ValueError(f'sched must be one of {", ".join(SCHEDULES)}, got {sched!r}')
    if num_epochs < 1:
        raise ValueError(f'num_epochs must be at least 1, got {num_epochs}')
    if not 0 <= warmup_epochs < num_epochs:
        raise ValueError(f'warmup_epochs must be in [0, num_epochs={num_epochs}), got {warmup_epochs}')
    if not step_on_epochs and updates_per_epoch < 1:
        raise ValueError(f'updates_per_epoch must be at least 1 to step on updates, got {updates_per_epoch}')
    scale = 1 if step_on_epochs else updates_per_epoch
    warmup = round(warmup_epochs * scale)
    return Scheduler(optimizer, sched, num_epochs * scale, warmup, warmup_lr, min_lr, step_on_epochs), num_epochs
