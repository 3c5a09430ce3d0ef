"""What every schedule shares: warm-up, noise, groups, and stepping by epochs or by updates."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch


@dataclass(eq=False)
class Scheduler:
    """Sets the learning rate of every group of an optimizer, as a pure function of the time `t`.

    A schedule is a subclass with a `curve`. Nothing is carried from step to step, so that a run goes on exactly from
    any `t`.

    The groups' rates at construction are the peaks; or their `initial_lr`, which torch's schedulers leave too, where an
    optimizer's state was loaded before. A group's `lr_scale` multiplies whatever comes out. Groups of
    `foveal.optim.param_groups` with layer-wise decay have scaled rates already: their `lr_ratio` scales the start of
    the warm-up and the lowest rate alike, so that the ratio between groups holds at every step.

    Attributes:
        optimizer: Whose rates are set.
        warmup_t: Length of the warm-up, in which the rate rises in a line to the peak; a fraction is fine.
        warmup_lr_init: Rate at its start.
        warmup_prefix: Whether the curve begins after the warm-up. Else it runs from the start, hidden by the warm-up;
            with None, the first cycle of a schedule that has cycles is squeezed to begin where the warm-up ends.
        t_in_epochs: Whether t counts epochs (`step`) or updates (`step_update`).
        noise_range_t: Where rates are noisy: from this t on, or within [start, end).
        noise_pct: Noise beyond this share of the rate is drawn again.
        noise_std: Its standard deviation, as a share of the rate.
        noise_seed: Decides it, together with t.

    Raises:
        ValueError: A number out of its range.
    """

    optimizer: torch.optim.Optimizer
    _: KW_ONLY
    warmup_t: float = 0
    warmup_lr_init: float = 0.0
    warmup_prefix: bool | None = False
    t_in_epochs: bool = True
    noise_range_t: float | Sequence[float] | None = None
    noise_pct: float = 0.67
    noise_std: float = 1.0
    noise_seed: int = 42
    t: float = field(default=0, init=False)

    def __post_init__(self) -> None:
        for name in ('warmup_t', 'warmup_lr_init'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name} must be at least 0, got {getattr(self, name)}')
        for name in ('noise_pct', 'noise_std'):
            if self.noise_range_t is not None and not getattr(self, name) > 0:
                raise ValueError(f'{name} must be above 0, got {getattr(self, name)}')
        if isinstance(self.noise_range_t, Sequence) and len(self.noise_range_t) not in (1, 2):
            raise ValueError(f'noise_range_t must be a start or a pair (start, end), got {self.noise_range_t}')
        self.set(0)

    def curve(self, peak: float, t: float) -> float:
        """The rate at t, warm-up and noise aside, for a group whose highest rate is `peak`."""
        raise NotImplementedError

    def warm_rate(self, peak: float) -> float:
        """The rate that the warm-up leads to."""
        return peak

    def rate(self, peak: float, t: float) -> float:
        """The rate at t, noise aside, for a group whose highest rate is `peak`."""
        if t < self.warmup_t:
            return self.warmup_lr_init + t * (self.warm_rate(peak) - self.warmup_lr_init) / self.warmup_t
        return self.curve(peak, t - self.warmup_t if self.warmup_prefix else t)

    def noise(self, t: float) -> float:
        """The factor on every rate at t; 1 outside of the noisy range."""
        if self.noise_range_t is None:
            return 1.0
        start, *end = self.noise_range_t if isinstance(self.noise_range_t, Sequence) else [self.noise_range_t]
        if t < start or (end and t >= end[0]):
            return 1.0
        generator = torch.Generator().manual_seed(self.noise_seed + int(t))
        while abs(noise := self.noise_std * torch.randn(1, generator=generator).item()) >= self.noise_pct:
            pass
        return 1 + noise

    def set(self, t: float) -> None:
        """Sets all rates to those at t."""
        self.t = t
        noise = self.noise(t)
        for group in self.optimizer.param_groups:
            # a copy, since a rate that is a tensor is changed in place below
            peak = group.setdefault('initial_lr', group['lr'] + 0)
            ratio = group.get('lr_ratio', 1.0)
            rate = self.rate(float(peak) / ratio, t) * ratio * group.get('lr_scale', 1.0) * noise
            if isinstance(group['lr'], torch.Tensor):
                group['lr'].fill_(rate)
            else:
                group['lr'] = rate

    def step(self, epoch: float, metric: float | None = None) -> None:
        """Call after an epoch with the number of epochs done; only plateau looks at the metric."""
        del metric
        if self.t_in_epochs:
            self.set(epoch)

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """Call after an update with the number of updates done."""
        del metric
        if not self.t_in_epochs:
            self.set(num_updates)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {'t': self.t}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the saved schedule was, and sets its rates."""
        self.set(state['t'])
