"""How good a model is on a data set."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from foveal.data.loader import Loader
from foveal.engine.distributed import total


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        count: Images, each counted once.
        loss: Mean cross-entropy.
        top1, top5: Percent of images whose class is the first, or among the first five guesses (all, where there are
            fewer classes).
        confusion: int64 (classes, classes), true class by first guess.
    """

    count: int
    loss: float
    top1: float
    top5: float
    confusion: torch.Tensor

    def to_dict(self) -> dict[str, Any]:
        return {'count': self.count, 'loss': self.loss, 'top1': self.top1, 'top5': self.top5}

    def per_class(self, classes: list[str]) -> list[dict[str, Any]]:
        """Of each class: images, percent recognised (recall) and percent right where it was named (precision)."""
        right, true, named = self.confusion.diag(), self.confusion.sum(1), self.confusion.sum(0)
        columns = (classes, true, 100 * right / true, 100 * right / named)
        return [
            {'class': name, 'count': int(count), 'recall': rounded(recall), 'precision': rounded(precision)}
            for name, count, recall, precision in zip(*columns, strict=True)
        ]


def rounded(percent: torch.Tensor) -> float | None:
    """A percentage for a report; None where there was nothing to count."""
    return None if percent.isnan() else round(float(percent), 3)


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Loader, num_classes: int, precision: str = 'fp32') -> Scores:
    """Runs a model over a loader; under torchrun every process gets the scores of all.

    Args:
        model: Maps images to logits (batch, num_classes). It is left in evaluation mode.
        loader: Of `create_loader`, not training.
        num_classes: Classes of the logits.
        precision: fp32 or bf16.

    Returns:
        The scores.

    Raises:
        UnreadableImageError: An image that cannot be decoded.
    """
    model.eval()
    device = loader.device
    sums = torch.zeros(3, dtype=torch.float64)
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
    for images, targets in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == 'bf16'):
            logits = model(images)
        logits = logits.float()
        guesses = logits.topk(min(5, num_classes)).indices
        loss = cross_entropy(logits, targets, reduction='sum')
        top5 = (guesses == targets[:, None]).any(1).sum()
        sums += torch.stack([loss, top5.to(loss), torch.full_like(loss, len(targets))]).cpu().double()
        confusion += torch.bincount(targets * num_classes + guesses[:, 0], minlength=num_classes**2)
    confusion = total(confusion).cpu().view(num_classes, num_classes)
    # nccl reduces on the device only
    loss, top5, count = total(sums.to(device)).tolist()
    top1 = confusion.diag().sum().item()
    return Scores(int(count), loss / count, 100 * top1 / count, 100 * top5 / count, confusion)
