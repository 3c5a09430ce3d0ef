"""Image sizes and batch sizes that change from batch to batch (progressive learning, arXiv:2104.00298)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SCHEDULES = ('constant', 'progressive')


@dataclass(frozen=True)
class SizeSchedule:
    """Which of several sizes each batch has, decided by (seed, epoch, batch), the same on every rank.

    Attributes:
        batch_sizes: Samples a batch and rank, one for each choice.
        weights: How often each choice is drawn, relatively; evenly where absent.
        seed: Of the draws.
        schedule: constant (the weights hold throughout) or progressive (they are centred on a choice that moves from
            the first to the last over the epochs).
        epochs: Length of the progress.
        spread: Half the width of the moving window, as a share of all choices.
        random_mix: Share of the batches, in progressive, that are drawn by the weights alone.
    """

    batch_sizes: Sequence[int]
    weights: Sequence[float] | None = None
    seed: int = 0
    schedule: str = 'constant'
    epochs: int | None = None
    spread: float = 0.65
    random_mix: float = 0.1

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f'batch_size_choices must each be at least 1, got {list(self.batch_sizes)}')
        weights = self.weights
        if weights is not None and (len(weights) != len(self.batch_sizes) or min(weights) < 0 or not sum(weights) > 0):
            raise ValueError(f'batch_choice_weights must be {len(self.batch_sizes)} weights, got {list(weights)}')
        if self.schedule not in SCHEDULES:
            raise ValueError(f'batch_choice_schedule must be one of {", ".join(SCHEDULES)}, got {self.schedule!r}')
        if self.schedule == 'progressive' and (self.epochs is None or self.epochs < 1):
            raise ValueError(f'batch_schedule_epochs must be at least 1 for progressive sizes, got {self.epochs}')
        if not self.spread > 0:
            raise ValueError(f'batch_schedule_spread must be above 0, got {self.spread}')
        if not 0 <= self.random_mix <= 1:
            raise ValueError(f'batch_schedule_random_mix must be in [0, 1], got {self.random_mix}')

    def chances(self, progress: np.ndarray) -> np.ndarray:
        """Probability of each choice.

        Args:
            progress: Share of the schedule that is done, in [0, 1], (batches,).

        Returns:
            (batches, choices).
        """
        count = len(self.batch_sizes)
        base = np.ones(count) if self.weights is None else np.asarray(self.weights, float)
        base = np.broadcast_to(base / base.sum(), (len(progress), count))
        if self.schedule == 'constant' or count == 1:
            return base
        centre = np.minimum(progress, 1)[:, None] * (count - 1)
        # never narrower than from one choice to the next, so that some choice is always within
        width = max(self.spread * (count - 1), 1)
        near = base * np.maximum(0, 1 - np.abs(np.arange(count) - centre) / width)
        total = near.sum(1, keepdims=True)
        near = np.where(total > 0, near / np.where(total > 0, total, 1), base)
        return (1 - self.random_mix) * near + self.random_mix * base

    def choices(self, epoch: int, samples: int | None, batches: int | None, world_size: int) -> np.ndarray:
        """The choice of every batch of an epoch.

        Args:
            epoch: From 0.
            samples: What an epoch may use up, over all ranks; the batch that would exceed it is left out.
            batches: Number of batches; as many as the samples give where absent.
            world_size: Ranks.

        Returns:
            int64 (batches,).
        """
        most = batches if batches is not None else (samples or 0) // (min(self.batch_sizes) * world_size)
        # an epoch's progress is that of its average batch, when its length depends on the draws
        steps = np.arange(most) / most if batches else np.full(most, 0.5)
        last = max(1, (self.epochs or 1) - 1 / max(1, most))
        cumulative = self.chances((epoch + steps) / last).cumsum(1)
        draws = np.random.default_rng((self.seed, epoch)).random(most)
        chosen = np.minimum((draws[:, None] >= cumulative).sum(1), len(self.batch_sizes) - 1)
        if batches is None:
            used = np.cumsum(np.asarray(self.batch_sizes)[chosen] * world_size)
            chosen = chosen[: np.searchsorted(used, samples or 0, side='right')]
        return chosen
