"""Schedules that fall in steps, at regular times or at milestones."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from foveal.scheduler.base import Scheduler


@dataclass(eq=False)
class StepLRScheduler(Scheduler):
    """Multiplies the rate by `decay_rate` every `decay_t`.

    Attributes:
        decay_t: Time between two steps; infinity for a constant rate.
        decay_rate: Factor of a step.
    """

    decay_t: float
    _: KW_ONLY
    decay_rate: float = 1.0
    warmup_prefix: bool | None = True

    def __post_init__(self) -> None:
        if not self.decay_t > 0:
            raise ValueError(f'decay_t must be above 0, got {self.decay_t}')
        super().__post_init__()

    def curve(self, peak: float, t: float) -> float:
        return peak * self.decay_rate ** (t // self.decay_t)


@dataclass(eq=False)
class MultiStepLRScheduler(Scheduler):
    """Multiplies the rate by `decay_rate` at each milestone, as torch's MultiStepLR does.

    Attributes:
        decay_t: The milestones: times after which the rate is lower.
        decay_rate: Factor of a step.
    """

    decay_t: Sequence[float]
    _: KW_ONLY
    decay_rate: float = 1.0
    warmup_prefix: bool | None = True

    def __post_init__(self) -> None:
        self.decay_t = sorted(self.decay_t)
        super().__post_init__()

    def curve(self, peak: float, t: float) -> float:
        return peak * self.decay_rate ** bisect_right(self.decay_t, t)
