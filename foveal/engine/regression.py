"""How well a model gives numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.engine.distributed import total


@dataclass(frozen=True)
class NumberScores:
    """What an evaluation of numbers found; of several numbers an image the means over them.

    Attributes:
        count: Images, each counted once.
        loss: Mean squared error in standard deviations of the training targets.
        mae, rmse: Mean absolute error and root of the mean squared error, in the targets' own unit.
        r2: Share of the variance that is explained: 1 at best, 0 for whoever always says the mean of these images.
        each: (numbers, 3): mae, rmse and r2 of each number; r2 is not a number where all targets are the same.
    """

    count: int
    loss: float
    mae: float
    rmse: float
    r2: float
    each: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ('count', 'loss', 'mae', 'rmse', 'r2')}

    def per_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The scores of each number."""
        rows = [[None if np.isnan(x) else float(f'{x:.6g}') for x in row] for row in self.each.tolist()]
        return [
            {'class': name, 'mae': mae, 'rmse': rmse, 'r2': r2}
            for name, (mae, rmse, r2) in zip(names, rows, strict=True)
        ]


class NumbersMeter:
    """Adds up batches.

    Args:
        mean, std: Of each number in training: outputs are in standard deviations above the mean.
        device: Where batches are.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.mean, self.std = (torch.tensor(x, dtype=torch.float64, device=device) for x in (mean, std))
        self.count = torch.zeros(1, dtype=torch.float64, device=device)
        # of each number: errors, their squares, targets, their squares; standardised, so that differences keep digits
        self.sums = torch.zeros(4, len(mean), dtype=torch.float64, device=device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes outputs, standardised, and targets, in their unit, of a batch, both (batch, numbers)."""
        truths = (targets.double() - self.mean) / self.std
        errors = outputs.double() - truths
        self.sums += torch.stack([errors.abs().sum(0), errors.square().sum(0), truths.sum(0), truths.square().sum(0)])
        self.count += len(outputs)

    def compute(self) -> NumberScores:
        """The scores; under torchrun those of all processes together.

        Raises:
            ValueError: There was no image.
        """
        count = int(total(self.count).item())
        if not count:
            raise ValueError('there is no image to score')
        absolute, squared, truths, squares = total(self.sums).cpu().numpy() / count
        std = self.std.cpu().numpy()
        variance = squares - truths**2
        # what cancellation leaves of a variance of nothing
        known = variance > 1e-12 * np.maximum(squares, 1)
        r2 = np.where(known, 1 - squared / np.where(known, variance, 1), np.nan)
        each = np.stack([absolute * std, np.sqrt(squared) * std, r2], 1)
        explained = float(r2[known].mean()) if known.any() else 0.0
        mae, rmse = each[:, :2].mean(0).tolist()
        return NumberScores(count, float(squared.mean()), mae, rmse, explained, each)
