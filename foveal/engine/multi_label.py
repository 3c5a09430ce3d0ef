"""How good a model is where an image has any number of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from foveal.engine.distributed import total


@dataclass(frozen=True)
class MultiLabelScores:
    """What an evaluation with several labels found; all but counts and loss in percent.

    Attributes:
        count: Images, each counted once.
        loss: Mean binary cross-entropy.
        map: Mean over classes of the average precision, of classes that occur.
        micro_f1: F1 of all decisions together.
        macro_f1: Mean over classes of their F1; 0 for a class neither there nor named.
        sample_f1: Mean over images of their F1; 0 for an image with no label and none named.
        precisions: Average precision of each class (classes,); not a number for one that does not occur.
    """

    count: int
    loss: float
    map: float
    micro_f1: float
    macro_f1: float
    sample_f1: float
    precisions: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        names = ('count', 'loss', 'map', 'micro_f1', 'macro_f1', 'sample_f1')
        return {name: getattr(self, name) for name in names}

    def per_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """The average precision of each class."""
        return [
            {'class': name, 'average_precision': None if np.isnan(value) else round(value, 3)}
            for name, value in zip(classes, self.precisions.tolist(), strict=True)
        ]


class MultiLabelMeter:
    """Adds up batches.

    Args:
        num_classes: Classes of the logits.
        device: Where batches are.
        threshold: Probability from which on a class counts as named.
    """

    def __init__(self, num_classes: int, device: torch.device, threshold: float = 0.5) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f'threshold must be in (0, 1), got {threshold}')
        self.threshold = threshold
        # of each class: rightly named, named, there
        self.counts = torch.zeros(3, num_classes, dtype=torch.float64, device=device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # images, their loss, their F1
        self.scores: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Takes logits and targets (0 or 1) of a batch, both (batch, classes)."""
        probabilities, there = logits.sigmoid(), targets > 0.5
        named = probabilities >= self.threshold
        right = named & there
        self.counts += torch.stack([right.sum(0), named.sum(0), there.sum(0)])
        either = named.sum(1) + there.sum(1)
        f1 = (2 * right.sum(1) / either.clamp(min=1)).double().sum()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, there.to(logits), reduction='none')
        self.sums += torch.stack([torch.full_like(f1, len(logits)), loss.mean(1).double().sum(), f1])
        self.scores.append(probabilities.float().cpu())
        self.targets.append(there.cpu())

    def compute(self) -> MultiLabelScores:
        """The scores; under torchrun those of all processes together.

        Raises:
            ImportError: scikit-learn is missing.
        """
        try:
            from sklearn.metrics import average_precision_score
        except ImportError as error:
            raise ImportError('average precision needs scikit-learn: pip install foveal[metrics]') from error
        right, named, there = total(self.counts).cpu().numpy()
        count, loss, sample_f1 = total(self.sums).tolist()
        f1 = 2 * right / np.maximum(named + there, 1)
        scores, targets = gathered(torch.cat(self.scores)), gathered(torch.cat(self.targets))
        precisions = np.array(
            [
                average_precision_score(targets[:, i], scores[:, i]) if targets[:, i].any() else np.nan
                for i in range(targets.shape[1])
            ]
        )
        occurring = precisions[~np.isnan(precisions)]
        return MultiLabelScores(
            int(count),
            loss / count,
            100 * float(occurring.mean()) if len(occurring) else 0.0,
            100 * float(2 * right.sum() / max((named + there).sum(), 1)),
            100 * float(f1.mean()),
            100 * sample_f1 / count,
            100 * precisions,
        )


def gathered(rows: Tensor) -> np.ndarray:
    """The rows of all processes."""
    if not dist.is_initialized():
        return rows.numpy()
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows.numpy())
    return np.concatenate(parts)
