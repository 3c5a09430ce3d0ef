"""Whether a model is right as often as its probabilities say."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from foveal.engine.distributed import total
from foveal.engine.multi_label import gathered

BINS = 15  # of the papers' reports
COLDEST, HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Calibrated:
    """Confidence against accuracy, in bins of equal width.

    Attributes:
        counts: Images in each bin (bins,).
        confidence, accuracy: Their mean probability of the first guess, and the share of right guesses, in [0, 1]; 0
            where a bin is empty.
        temperature: Divides the logits so that the cross-entropy is smallest; None where it was not asked for.
        loss: Cross-entropy at that temperature.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    temperature: float | None = None
    loss: float | None = None

    @property
    def ece(self) -> float:
        """Expected calibration error in percent (arXiv:1706.04599, equation 3)."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(100 * (gaps * self.counts).sum() / max(self.counts.sum(), 1))

    @property
    def mce(self) -> float:
        """Largest gap of a bin, in percent."""
        return float(100 * np.abs(self.confidence - self.accuracy)[self.counts > 0].max(initial=0))

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        result: dict[str, Any] = {'ece': self.ece, 'mce': self.mce}
        if self.temperature is not None:
            result |= {'temperature': self.temperature, 'loss_at_temperature': self.loss}
        bins = zip(self.counts.tolist(), self.confidence.tolist(), self.accuracy.tolist(), strict=True)
        result['bins'] = [{'count': int(n), 'confidence': c, 'accuracy': a} for n, c, a in bins]
        return result


class Calibration:
    """Adds up batches.

    Args:
        device: Where batches are.
        bins: Bins of (0, 1].
        fit: Keep all logits, 4 bytes an image and class, to find the temperature.
    """

    def __init__(self, device: torch.device, bins: int = BINS, fit: bool = False):
        self.bins, self.fit = bins, fit
        # of each bin: images, confidence, right ones
        self.sums = torch.zeros(3, bins, dtype=torch.float64, device=device)
        self.logits: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Takes logits (batch, classes) and class indices (batch,)."""
        confidence, guesses = logits.softmax(1).max(1)
        # bin m holds ((m - 1) / bins, m / bins]
        bins = (confidence * self.bins).ceil().long().clamp(1, self.bins) - 1
        right = (guesses == targets).double()
        self.sums.index_add_(1, bins, torch.stack([torch.ones_like(right), confidence.double(), right]))
        if self.fit:
            self.logits.append(logits.cpu())
            self.targets.append(targets.cpu())

    def compute(self) -> Calibrated:
        """What was found; under torchrun in the images of all processes."""
        counts, confidence, right = total(self.sums).cpu().numpy()
        some = np.maximum(counts, 1)
        if not self.fit:
            return Calibrated(counts, confidence / some, right / some)
        logits = torch.from_numpy(gathered(torch.cat(self.logits)))
        targets = torch.from_numpy(gathered(torch.cat(self.targets)))
        temperature = best_temperature(logits, targets)
        loss = cross_entropy(logits.double() / temperature, targets).item()
        return Calibrated(counts, confidence / some, right / some, temperature, loss)


def best_temperature(logits: Tensor, targets: Tensor, steps: int = 40) -> float:
    """The temperature of least cross-entropy (arXiv:1706.04599, section 4.2), in [0.01, 100].

    The loss is convex in 1 / T with the slope mean(E[z] - z_y), whose sign is bisected on a log scale. A model that is
    right every time has no best temperature: it gets the lowest.

    Args:
        logits: float32 (images, classes).
        targets: Class indices (images,).
        steps: Halvings; 40 of them leave less than float64's rounding.
    """
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    true = logits.gather(1, targets[:, None]).double().sum().item()
    for _ in range(steps):
        middle = (low + high) / 2
        expected = sum(
            ((part * float(np.exp(middle))).softmax(1) * part).sum().item()
            for part in (chunk.double() for chunk in logits.split(4096))
        )
        low, high = (low, middle) if expected > true else (middle, high)
    return float(np.exp(-(low + high) / 2))
