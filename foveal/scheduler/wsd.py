"""Warm-up, stable, decay (arXiv:2404.06395, 2405.18392): most of a run at one rate, then a quick fall."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

from foveal.errors import near
from foveal.scheduler.base import Scheduler

STABLE = ('constant', 'rsqrt', 'power')
DECAY = ('1-sqrt', 'linear', 'cosine', 'power', 'exp')


@dataclass(eq=False)
class WSDLRScheduler(Scheduler):
    """Warms up, stays or falls slowly, and decays to `lr_min`; warm-up comes before `t_initial`.

    Attributes:
        t_initial: Length of the stable part and the decay together.
        decay_t: Length of the decay, its end.
        lr_min: Rate at the end.
        stable_fn: constant, rsqrt (arXiv:2106.04560) or power, of 1 + t / stable_timescale.
        stable_timescale: Length of the warm-up if not given.
        stable_power: Of power.
        decay_fn: 1-sqrt, linear, cosine, power, exp, or a function from progress, 0 to 1, to height, 1 to 0.
        decay_power: Of power: 1 - progress ** decay_power.
        decay_ratio: Of exp: what an exponential would end at before it is stretched to reach `lr_min`.
    """

    t_initial: float
    decay_t: float
    _: KW_ONLY
    lr_min: float = 0.0
    stable_fn: str = 'constant'
    stable_timescale: float | None = None
    stable_power: float = 0.5
    decay_fn: str | Callable[[float], float] = '1-sqrt'
    decay_power: float = 0.5
    decay_ratio: float = 0.1
    warmup_prefix: bool | None = field(default=True, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.decay_t <= self.t_initial:
            raise ValueError(f'decay_t must be in (0, t_initial={self.t_initial}], got {self.decay_t}')
        if not self.lr_min >= 0:
            raise ValueError(f'lr_min must be at least 0, got {self.lr_min}')
        if self.stable_fn not in STABLE:
            raise ValueError(f'stable_fn {self.stable_fn!r} is unknown{near(self.stable_fn, STABLE)}')
        if isinstance(self.decay_fn, str) and self.decay_fn not in DECAY:
            raise ValueError(f'decay_fn {self.decay_fn!r} is unknown{near(self.decay_fn, DECAY)}')
        if not 0 < self.decay_ratio < 1:
            raise ValueError(f'decay_ratio must be in (0, 1), got {self.decay_ratio}')
        self.stable_timescale = self.warmup_t if self.stable_timescale is None else self.stable_timescale
        if self.stable_fn != 'constant' and not self.stable_timescale > 0:
            raise ValueError(
                f'stable_timescale must be above 0 with {self.stable_fn}, got {self.stable_timescale}; '
                'where there is no warm-up to take it from, give it'
            )
        super().__post_init__()

    def stable(self, t: float) -> float:
        """Share of the peak at t, the decay aside."""
        if self.stable_fn == 'constant':
            return 1.0
        power = 0.5 if self.stable_fn == 'rsqrt' else self.stable_power
        return (1 + t / self.stable_timescale) ** -power  # type: ignore[operator]

    def decay(self, progress: float) -> float:
        """What is left of the stable rate at a share of the decay in [0, 1)."""
        if callable(self.decay_fn):
            return self.decay_fn(progress)
        if self.decay_fn == 'linear':
            return 1 - progress
        if self.decay_fn == 'cosine':
            return (1 + math.cos(math.pi * progress)) / 2
        if self.decay_fn == 'exp':
            return (self.decay_ratio**progress - self.decay_ratio) / (1 - self.decay_ratio)
        return 1 - progress ** (0.5 if self.decay_fn == '1-sqrt' else self.decay_power)

    def curve(self, peak: float, t: float) -> float:
        if t >= self.t_initial:
            return self.lr_min
        rate = max(peak * self.stable(t), self.lr_min)
        decayed = t - (self.t_initial - self.decay_t)
        return rate if decayed <= 0 else self.lr_min + (rate - self.lr_min) * self.decay(decayed / self.decay_t)

    def get_cycle_length(self) -> int:
        """When the schedule ends, warm-up included; rounded up."""
        return math.ceil(self.t_initial + self.warmup_t)
