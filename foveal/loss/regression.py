"""Losses for images with numbers: outputs and targets are (batch, numbers)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveal.errors import near

REGRESSION_LOSS_TYPES = ('mse', 'l1', 'huber')


class Standardized(nn.Module):
    """A loss of outputs that tell how many standard deviations a number is above its mean.

    So learning rates and Huber's delta mean the same whatever unit the numbers have.

    Args:
        loss: Of outputs and targets in that unit.
        mean, std: Of each number; std above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, loss: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer('mean', torch.tensor(mean))
        self.register_buffer('std', torch.tensor(std))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs (batch, numbers) for targets (batch, numbers) in their own unit."""
        return self.loss(outputs, (targets - self.mean) / self.std)


def create_regression_loss(loss_type: str = 'mse', huber_delta: float = 1.0) -> nn.Module:
    """Builds the loss of a model that gives numbers.

    Args:
        loss_type: mse, l1, or huber (Huber 1964: squared below `huber_delta`, linear above).
        huber_delta: Above 0.

    Returns:
        A module of (outputs, targets).

    Raises:
        ValueError: An unknown loss, or a delta that is not above 0.
    """
    if loss_type not in REGRESSION_LOSS_TYPES:
        raise ValueError(f'loss_type {loss_type!r} is unknown{near(loss_type, REGRESSION_LOSS_TYPES)}')
    if not huber_delta > 0:
        raise ValueError(f'huber_delta must be above 0, got {huber_delta}')
    if loss_type == 'mse':
        return nn.MSELoss()
    return nn.L1Loss() if loss_type == 'l1' else nn.HuberLoss(delta=huber_delta)
