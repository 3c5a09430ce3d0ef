"""Schedules that fall from the peak to the lowest rate, once or in cycles: cosine, tanh, polynomial."""

import math
from dataclasses import KW_ONLY, dataclass

from foveal.scheduler.base import Scheduler


@dataclass(eq=False)
class CyclicLRScheduler(Scheduler):
    """Falls from the peak to `lr_min` along a `shape`, again in each cycle, and stays there.

    Attributes:
        t_initial: Length of the first cycle, in which warm-up counts unless it is a prefix.
        lr_min: Rate at the end of a cycle.
        cycle_mul: Length of a cycle over that of the one before it, at least 1.
        cycle_decay: Peak of a cycle over that of the one before it.
        cycle_limit: Number of cycles.
    """

    t_initial: float
    _: KW_ONLY
    lr_min: float = 0.0
    cycle_mul: float = 1.0
    cycle_decay: float = 1.0
    cycle_limit: int = 1

    def __post_init__(self) -> None:
        if not self.t_initial > 0:
            raise ValueError(f't_initial must be above 0, got {self.t_initial}')
        if not self.lr_min >= 0:
            raise ValueError(f'lr_min must be at least 0, got {self.lr_min}')
        if not self.cycle_mul >= 1:
            raise ValueError(f'cycle_mul must be at least 1, got {self.cycle_mul}')
        if self.cycle_limit < 1:
            raise ValueError(f'cycle_limit must be at least 1, got {self.cycle_limit}')
        if self.warmup_prefix is None and not self.warmup_t < self.t_initial:
            raise ValueError(f'warmup_t must be below t_initial={self.t_initial}, got {self.warmup_t}')
        super().__post_init__()

    def shape(self, progress: float) -> float:
        """Height of the curve, 1 to 0, at a share of the cycle in [0, 1)."""
        raise NotImplementedError

    def curve(self, peak: float, t: float) -> float:
        length, cycle = self.t_initial, 0
        while t >= length and cycle < self.cycle_limit:
            t, length, cycle = t - length, length * self.cycle_mul, cycle + 1
        if cycle == self.cycle_limit:
            return self.lr_min
        hidden = self.warmup_t if self.warmup_prefix is None and cycle == 0 else 0
        height = self.shape((t - hidden) / (length - hidden))
        return self.lr_min + (peak * self.cycle_decay**cycle - self.lr_min) * height

    def get_cycle_length(self, cycles: int | None = None) -> int:
        """When so many cycles (all of them, if not given) have ended, warm-up as a prefix included; rounded up."""
        lengths = (self.t_initial * self.cycle_mul**i for i in range(cycles or self.cycle_limit))
        return math.ceil(sum(lengths) + (self.warmup_t if self.warmup_prefix else 0))


@dataclass(eq=False, kw_only=True)
class CosineLRScheduler(CyclicLRScheduler):
    """Half a cosine (SGDR, arXiv:1608.03983).

    Attributes:
        k_decay: Exponent on progress (arXiv:2004.05909): above 1 the rate stays high for longer.
    """

    k_decay: float = 1.0

    def shape(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress**self.k_decay)) / 2


@dataclass(eq=False, kw_only=True)
class TanhLRScheduler(CyclicLRScheduler):
    """A hyperbolic tangent (arXiv:1806.01593).

    Attributes:
        lb, ub: The part of the tangent that is used. From -7 to 3, the height falls from 0.9999992 to 0.0025.
    """

    lb: float = -7.0
    ub: float = 3.0

    def __post_init__(self) -> None:
        if not self.lb < self.ub:
            raise ValueError(f'lb must be below ub, got lb={self.lb}, ub={self.ub}')
        super().__post_init__()

    def shape(self, progress: float) -> float:
        return (1 - math.tanh(self.lb * (1 - progress) + self.ub * progress)) / 2

    def warm_rate(self, peak: float) -> float:
        return self.curve(peak, self.warmup_t) if self.warmup_prefix is False else peak


@dataclass(eq=False, kw_only=True)
class PolyLRScheduler(CyclicLRScheduler):
    """A power of what is left; of power 1, a line.

    Attributes:
        power: The exponent.
        k_decay: Exponent on progress (arXiv:2004.05909): above 1 the rate stays high for longer.
    """

    power: float = 0.5
    k_decay: float = 1.0

    def shape(self, progress: float) -> float:
        return (1 - progress**self.k_decay) ** self.power
