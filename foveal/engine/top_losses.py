"""The images that a model is most wrong about."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from foveal.engine import distributed


@dataclass(frozen=True)
class Mistake:
    """One image and what was made of it.

    Attributes:
        index: In the data set.
        loss: Cross-entropy.
        truth, guess: Class indices.
        truth_probability, guess_probability: What the model gave them.
    """

    index: int
    loss: float
    truth: int
    guess: int
    truth_probability: float
    guess_probability: float

    def to_dict(self, name: str, classes: list[str]) -> dict[str, Any]:
        """For a report, with names."""
        return asdict(self) | {'name': name, 'truth': classes[self.truth], 'guess': classes[self.guess]}


class TopLosses:
    """Keeps the images of the largest losses, on the device: nothing waits for it before the end.

    Args:
        keep: How many.
    """

    def __init__(self, keep: int = 48):
        self.keep = keep
        self.kept: tuple[Tensor, ...] = ()

    def update(self, logits: Tensor, targets: Tensor, addresses: Tensor) -> None:
        """Takes logits (batch, classes), class indices (batch,) and addresses (batch, 3)."""
        losses = cross_entropy(logits, targets, reduction='none')
        chances = logits.softmax(1)
        guesses = chances.max(1)
        indices = addresses[:, 1].to(logits.device, non_blocking=True)
        truth_chances = chances.gather(1, targets[:, None])[:, 0]
        columns: tuple[Tensor, ...] = (indices, losses, targets, guesses.indices, truth_chances, guesses.values)
        if self.kept:
            columns = tuple(torch.cat(pair) for pair in zip(self.kept, columns, strict=True))
        worst = columns[1].argsort(descending=True, stable=True)[: self.keep]
        self.kept = tuple(column[worst] for column in columns)

    def compute(self) -> list[Mistake]:
        """The worst first; under torchrun of all processes."""
        rows = [Mistake(*row) for row in zip(*(column.tolist() for column in self.kept), strict=True)]
        return largest([row for rows in distributed.gather(rows) for row in rows], self.keep)


def largest(rows: list[Mistake], keep: int) -> list[Mistake]:
    """The rows of the largest losses; of equal ones, the first in the data set."""
    return sorted(rows, key=lambda row: (-row.loss, row.index))[:keep]
