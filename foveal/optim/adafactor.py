"""Adafactor: the second moment of a matrix as an outer product (arXiv:1804.04235)."""

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options, Traits, mean


class Adafactor(Optimizer):
    """Adafactor (arXiv:1804.04235, algorithms 4 and 5): little state, steps relative to the size of the tensors.

    Args:
        params: Parameters or groups.
        lr: Learning rate; None takes the paper's relative step, min(0.01, 1 / sqrt(step)).
        eps: Added to the squared gradient.
        eps_scale: Least size of a tensor in `scale_parameter`.
        clip_threshold: Largest root mean square of a step before the learning rate.
        decay_rate: Of the second moment: beta2 is 1 - step ** decay_rate.
        betas: The first is that of a momentum of the steps; None keeps none.
        weight_decay: Decoupled.
        scale_parameter: With `lr` None, multiply the rate by the root mean square of the tensor.
        warmup_init: With `lr` None, begin with 1e-6 * step.
        min_dim_size_to_factor: Dimensions must be larger for their second moment to be factored.
        **options: See `foveal.optim.Options`.
    """

    traits: ClassVar = {'': Traits('rows'), 'factored': Traits('tensors')}

    def __init__(
        self,
        params: Any,
        lr: float | None = None,
        eps: float = 1e-30,
        eps_scale: float = 1e-3,
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        betas: tuple[float, float] | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        warmup_init: bool = False,
        min_dim_size_to_factor: int = 16,
        **options: Unpack[Options],
    ) -> None:
        if warmup_init and lr is not None:
            raise ValueError(f'warmup_init is for the relative step, with lr None; lr is {lr}')
        own: dict[str, Any] = dict(
            lr=lr, eps=eps, eps_scale=eps_scale, clip_threshold=clip_threshold, decay_rate=decay_rate
        )
        own |= dict(betas=betas, weight_decay=weight_decay, scale_parameter=scale_parameter)
        own |= dict(warmup_init=warmup_init, min_dim_size_to_factor=min_dim_size_to_factor)
        super().__init__(params, own, options)

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        pair = factors(p.shape, group['min_dim_size_to_factor'])
        return f'factored {pair[0]} {pair[1]}' if pair else ''

    def decays(self, group: dict[str, Any]) -> str:
        return 'own'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        pair = factors(p.shape, group['min_dim_size_to_factor'])
        if pair:
            state['exp_avg_sq_row'] = torch.zeros_like(p.select(pair[1], 0))
            state['exp_avg_sq_col'] = torch.zeros_like(p.select(pair[0], 0))
        else:
            state['exp_avg_sq'] = torch.zeros_like(p)
        if group['betas'] is not None:
            state['exp_avg'] = torch.zeros_like(p)
        return state

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        rate = group['lr']
        if rate is None:
            rate = min(1e-6 * step if group['warmup_init'] else 1e-2, step**-0.5)
        scales = group['lr'] is None and group['scale_parameter']
        return {'rate': rate, 'scales': scales, 'weight2': step ** group['decay_rate']}

    branches_on_step = True

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        rate: Any,
        weight2: float,
        eps: float,
        eps_scale: float,
        clip_threshold: float,
        kind: str,
        scales: bool,
        beta1: float = 0.0,
        exp_avg_sq: Tensor | None = None,
        exp_avg_sq_row: Tensor | None = None,
        exp_avg_sq_col: Tensor | None = None,
        exp_avg: Tensor | None = None,
    ) -> Tensor:
        square = g * g + eps
        if exp_avg_sq is not None:
            d = g * exp_avg_sq.lerp_(square, weight2).rsqrt()
        else:
            assert exp_avg_sq_row is not None
            assert exp_avg_sq_col is not None
            row, column = (int(dim) + 1 for dim in kind.split()[1:])
            rows = exp_avg_sq_row.lerp_(square.mean(column), weight2).unsqueeze(column)
            columns = exp_avg_sq_col.lerp_(square.mean(row), weight2).unsqueeze(row)
            d = g * (rows / rows.mean(row, keepdim=True)).rsqrt() * columns.rsqrt()
        d = d / (rms(d) / clip_threshold).clamp(min=1.0)
        if scales:
            rate = rate * rms(p).clamp(min=eps_scale)
        d = rate * d
        return d if exp_avg is None else exp_avg.lerp_(d, 1 - beta1)

    @staticmethod
    def finish(p: Tensor, d: Tensor, rate: Any, decay: float, scales: bool, eps_scale: float) -> Tensor:
        if scales:
            rate = rate * rms(p).clamp(min=eps_scale)
        return d + rate * decay * p


def rms(x: Tensor) -> Tensor:
    """Root mean square of each tensor of a stack (k, ...), as (k, 1, ...)."""
    return mean(x.square()).sqrt()


def factors(shape: Sequence[int], least: int) -> tuple[int, int] | None:
    """The dimensions that are factored: the first two, else the last two, where both are larger than `least`.

    The former are the channels of a convolution, the latter matrices behind dimensions of another kind.
    """
    for row, column in ((0, 1), (len(shape) - 2, len(shape) - 1)):
        if len(shape) > 1 and min(shape[row], shape[column]) > least:
            return row, column
    return None
