"""The one schedule with a memory: the rate falls when the metric no longer gets better."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from foveal.scheduler.base import Scheduler

# what decides the future of a ReduceLROnPlateau
MEMORY = ('best', 'num_bad_epochs', 'cooldown_counter', 'last_epoch')


@dataclass(eq=False, kw_only=True)
class PlateauLRScheduler(Scheduler):
    """Multiplies the rate by `decay_rate` when the metric has not got better for more than `patience_t` epochs.

    torch's ReduceLROnPlateau watches the metric; metrics of the warm-up do not count.

    Attributes:
        decay_rate: Factor of a step, below 1.
        patience_t: Epochs to wait.
        threshold: Least relative gain that counts.
        cooldown_t: Epochs after a step in which none counts as bad.
        lr_min: Lowest rate.
        mode: max for metrics that grow, min for losses.
    """

    decay_rate: float = 0.1
    patience_t: int = 10
    threshold: float = 1e-4
    cooldown_t: int = 0
    lr_min: float = 0.0
    mode: Literal['max', 'min'] = 'max'
    t_in_epochs: bool = field(default=True, init=False)
    watch: ReduceLROnPlateau = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.decay_rate < 1:
            raise ValueError(f'decay_rate must be in (0, 1), got {self.decay_rate}')
        if self.mode not in ('max', 'min'):
            raise ValueError(f'mode must be max or min, got {self.mode!r}')
        # it lowers the rate of an optimizer of nothing, which is our factor
        share = torch.optim.SGD([torch.zeros(0)], lr=1.0)
        self.watch = ReduceLROnPlateau(
            share, self.mode, self.decay_rate, self.patience_t, self.threshold, cooldown=self.cooldown_t, eps=0
        )
        super().__post_init__()

    @property
    def share(self) -> dict[str, Any]:
        """The group whose `lr` is the share of the peak that is left."""
        return self.watch.optimizer.param_groups[0]

    def curve(self, peak: float, t: float) -> float:
        del t
        return max(peak * self.share['lr'], self.lr_min)

    def step(self, epoch: float, metric: float | None = None) -> None:
        """Call after an epoch with the number of epochs done and what they led to.

        Raises:
            ValueError: No metric.
        """
        if metric is None:
            raise ValueError('plateau follows a metric: call step(epoch, metric)')
        if epoch > self.warmup_t:
            self.watch.step(metric)
        self.set(epoch)

    def state_dict(self) -> dict[str, Any]:
        memory = {name: getattr(self.watch, name) for name in MEMORY}
        return {'t': self.t, 'share': self.share['lr'], **memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.share['lr'] = state['share']
        for name in MEMORY:
            setattr(self.watch, name, state[name])
        super().load_state_dict(state)
