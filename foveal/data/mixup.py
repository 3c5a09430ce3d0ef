"""Targets with uncertainty: label smoothing (arXiv:1512.00567) and mixup (arXiv:1710.09412)."""

import torch
from torch.nn.functional import one_hot


def soft_targets(targets: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Class indices (batch,) as distributions (batch, classes) with `smoothing` spread over all classes."""
    return one_hot(targets, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def mixup(images: torch.Tensor, targets: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Blends a batch with itself in reverse order.

    Args:
        images: Float (batch, channels, height, width).
        targets: Distributions (batch, classes).
        share: Weight of each image itself, in [0, 1]; drawn from Beta(alpha, alpha) in the paper.

    Returns:
        Blended images and targets.
    """
    return images.flip(0).lerp(images, share), targets.flip(0).lerp(targets, share)
