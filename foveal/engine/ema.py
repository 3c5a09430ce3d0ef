"""A running mean of a model's weights, which often judges better than the weights themselves."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from foveal.engine.distributed import local
from foveal.optim.program import round_randomly


class Ema:
    """Exponential moving average of weights and buffers (Polyak and Juditsky 1992; decay warm-up as in TensorFlow's).

    In bfloat16 each mean is rounded up or down at random in proportion: to the nearest, steps of 1 - decay would be
    lost.

    Args:
        model: Whose weights are averaged. The average starts as a copy.
        decay: Share of the average that an update keeps, in [0, 1).
        warmup: Let the decay rise as 1 - (1 + updates / `gamma`) ** -`power` until it reaches `decay`.
        gamma, power: Of the warm-up; 1 and 2/3 reach 0.999 after 32 thousand updates.
        min_decay: Least decay.
        update_after: Updates in which the average just follows the weights.
        device: Where the average lies; the model's own where absent.
        dtype: Floating dtype of the average, such as torch.bfloat16; the model's own where absent.

    Attributes:
        model: The averaged model, in evaluation mode.

    Raises:
        ValueError: A decay outside its range.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9999,
        warmup: bool = False,
        gamma: float = 1.0,
        power: float = 2 / 3,
        min_decay: float = 0.0,
        update_after: int = 0,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 <= min_decay <= decay < 1:
            raise ValueError(f'decay must be in [min_decay={min_decay}, 1), got {decay}')
        self.decay, self.warmup, self.gamma, self.power = decay, warmup, gamma, power
        self.min_decay, self.update_after = min_decay, update_after
        self.model = copy.deepcopy(model).eval().requires_grad_(False).to(device=device, dtype=dtype)

    def decay_at(self, update: int) -> float:
        """The decay of an update, counted from 1; 0 copies the weights."""
        since = update - self.update_after - 1
        if since <= 0:
            return 0.0
        decay = 1 - (1 + since / self.gamma) ** -self.power if self.warmup else self.decay
        return max(self.min_decay, min(decay, self.decay))

    @torch.no_grad()
    def update(self, model: nn.Module, update: int) -> None:
        """Takes the model's weights into the average.

        Args:
            model: As at construction, after an update of its weights.
            update: Number of that update, from 1.
        """
        decay = self.decay_at(update)
        averages, currents = ([local(t) for t in tensors(of)] for of in (self.model, model))
        whole: tuple[list[Tensor], list[Tensor]] = ([], [])
        for average, current in zip(averages, currents, strict=True):
            if not average.is_floating_point() or decay == 0:
                average.copy_(current)
            elif average.dtype == current.dtype and average.device == current.device:
                whole[0].append(average)
                whole[1].append(current)
            else:
                mean = average.float().lerp(current.to(average.device, torch.float32), 1 - decay)
                average.copy_(round_randomly(mean) if average.dtype == torch.bfloat16 else mean)
        if whole[0]:
            torch._foreach_lerp_(*whole, 1 - decay)

    def judged(self, model: nn.Module) -> nn.Module:
        """The average as a model of the trained one's precision and device: itself, or a copy."""
        own, its = next(self.model.parameters()), next(model.parameters())
        if (own.dtype, own.device) == (its.dtype, its.device):
            return self.model
        copied = copy.deepcopy(model).eval().requires_grad_(False)
        copied.load_state_dict(self.model.state_dict())
        return copied


def tensors(model: nn.Module) -> Any:
    """Weights and buffers, in the order that copies of a model share."""
    yield from model.parameters()
    yield from model.buffers()
