"""How good a model is on a data set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

from foveal.data.loader import Loader
from foveal.engine.distributed import total
from foveal.engine.multi_label import gathered
from foveal.engine.precision import autocast
from foveal.engine.sharding import in_step

if TYPE_CHECKING:
    from foveal.engine.goals import AnyScores, Goal
    from foveal.engine.top_losses import TopLosses


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        count: Images, each counted once.
        loss: Mean cross-entropy.
        top1, top5: Percent of images whose class is the first, or among the first five guesses (all, where there are
            fewer classes).
        num_classes: Classes of the logits.
        truths, guesses: int64 (count,), the true class and the first guess of every image, in no order.
    """

    count: int
    loss: float
    top1: float
    top5: float
    num_classes: int
    truths: Tensor
    guesses: Tensor

    def to_dict(self) -> dict[str, Any]:
        return {'count': self.count, 'loss': self.loss, 'top1': self.top1, 'top5': self.top5}

    @cached_property
    def confusion(self) -> Tensor:
        """int64 (classes, classes), true class by first guess."""
        pairs = torch.bincount(self.truths * self.num_classes + self.guesses, minlength=self.num_classes**2)
        return pairs.view(self.num_classes, self.num_classes)

    def met(self) -> tuple[Tensor, Tensor]:
        """The classes that occur or were named, int64 (met,), and `confusion` among them."""
        pairs = torch.stack([self.truths, self.guesses])
        classes, places = pairs.unique(return_inverse=True)
        counts = torch.bincount(places[0] * len(classes) + places[1], minlength=len(classes) ** 2)
        return classes, counts.view(len(classes), len(classes))

    @cached_property
    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each class, float64 (classes,): images rightly named so, images of it, images named so."""
        right = self.truths[self.truths == self.guesses]
        counted = (torch.bincount(x, minlength=self.num_classes).double() for x in (right, self.truths, self.guesses))
        return tuple(counted)  # type: ignore[return-value]

    def per_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Of each class: images, percent recognised (recall), percent right where it was named (precision), F1."""
        right, there, named = self.counts
        columns = (classes, there, 100 * right / there, 100 * right / named, 200 * right / (there + named))
        return [
            {
                'class': name,
                'count': int(count),
                'recall': rounded(recall),
                'precision': rounded(precision),
                'f1': rounded(f1),
            }
            for name, count, recall, precision, f1 in zip(*columns, strict=True)
        ]

    def averages(self) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 in percent, averaged in three ways.

        micro counts all decisions together, macro is the mean over the classes that occur or were named, weighted the
        mean over images. What is undefined, as the precision of a class that was never named, counts as 0.
        """
        right, there, named = self.counts
        met = (there + named) > 0
        of_class = {
            'precision': right / named.clamp(min=1),
            'recall': right / there.clamp(min=1),
            'f1': 2 * right / (there + named).clamp(min=1),
        }
        weight = there / there.sum().clamp(min=1)
        return {
            'micro': dict.fromkeys(of_class, self.top1),
            'macro': {name: 100 * values[met].mean().item() for name, values in of_class.items()},
            'weighted': {name: 100 * (values * weight).sum().item() for name, values in of_class.items()},
        }


def rounded(percent: Tensor) -> float | None:
    """A percentage for a report; None where there was nothing to count."""
    return None if percent.isnan() else round(float(percent), 3)


class Meter:
    """Adds up the batches of an evaluation with one label an image.

    Args:
        num_classes: Classes of the logits.
        device: Where batches are.
    """

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, hits of five guesses
        self.pairs: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Takes logits (batch, classes) and class indices (batch,)."""
        guesses = logits.topk(min(5, self.num_classes)).indices
        loss = cross_entropy(logits, targets, reduction='sum').double()
        self.sums += torch.stack([loss, (guesses == targets[:, None]).any(1).sum().double()])
        self.pairs.append(torch.stack([targets, guesses[:, 0]], 1))

    def compute(self) -> Scores:
        """The scores; under torchrun those of all processes together.

        Raises:
            ValueError: There was no image.
        """
        mine = torch.cat(self.pairs).cpu() if self.pairs else torch.zeros(0, 2, dtype=torch.int64)
        truths, guesses = torch.from_numpy(np.ascontiguousarray(gathered(mine).T))
        count = len(truths)
        if not count:
            raise ValueError('there is no image to score')
        loss, top5 = total(self.sums).tolist()
        top1 = (truths == guesses).sum().item()
        return Scores(count, loss / count, 100 * top1 / count, 100 * top5 / count, self.num_classes, truths, guesses)


def without_gradients(model: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """What makes a block keep nothing for gradients.

    Of a sharded model `no_grad`: before torch 2.15, `fully_shard` cannot gather weights in inference mode.
    """
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    return torch.no_grad if sharded else torch.inference_mode


def outputs(model: nn.Module, loader: Loader, precision: str = 'fp32') -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Runs a model over a loader.

    Args:
        model: Maps images to logits; left in evaluation mode.
        loader: Of `create_loader`, not training.
        precision: Of `engine.precision`.

    Yields:
        float32 logits (batch, classes), targets and addresses of each batch.

    Raises:
        UnreadableImageError: An image that cannot be decoded.
    """
    model.eval()
    inference = without_gradients(model)
    for batch, own in in_step(model, loader):
        with inference(), autocast(loader.device, precision):
            logits = model(batch.images)
        if own:
            yield logits.float(), batch.targets, batch.addresses


def evaluate(
    model: nn.Module, loader: Loader, goal: 'Goal', precision: str = 'fp32', worst: 'TopLosses | None' = None
) -> 'AnyScores':
    """Scores a model; under torchrun every process gets the scores of all.

    Args:
        model, loader, precision: As of `outputs`.
        goal: What the model is to tell of the images, which says how it is scored.
        worst: Takes note of the images of the largest losses, where they have one label each.

    Raises:
        UnreadableImageError: An image that cannot be decoded.
        ValueError: There is no image.
    """
    meter = goal.meter(loader.device)
    for logits, targets, addresses in outputs(model, loader, precision):
        meter.update(logits, targets)
        if worst is not None:
            worst.update(logits, targets, addresses)
    return meter.compute()
