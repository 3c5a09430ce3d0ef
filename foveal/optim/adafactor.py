"""Adafactor: the second moment of a matrix as an outer product (arXiv:1804.04235); also Big Vision's."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Traits, mean


class Adafactor(Optimizer):
    """Adafactor (arXiv:1804.04235, algorithms 4 and 5): little state, steps relative to the size of the tensors."""

    lr: float | None = None  # learning rate; None takes the paper's relative step, min(0.01, 1 / sqrt(step))
    eps: float = 1e-30  # added to the squared gradient
    eps_scale: float = 1e-3  # least size of a tensor in `scale_parameter`
    clip_threshold: float = 1.0  # largest root mean square of a step before the learning rate
    decay_rate: float = -0.8  # of the second moment: beta2 is 1 - step ** decay_rate
    betas: tuple[float, float] | None = None  # the first is that of a momentum of the steps; None keeps none
    weight_decay: float = 0.0
    scale_parameter: bool = True  # with `lr` None, multiply the rate by the root mean square of the tensor
    warmup_init: bool = False  # with `lr` None, begin with 1e-6 * step
    min_dim_size_to_factor: int = 16  # dimensions must be larger for their second moment to be factored
    zeros_if: ClassVar = {'betas': 'exp_avg'}
    decay = 'own'
    traits: ClassVar = {'': Traits('rows'), 'factored': Traits('tensors')}
    branches_on_step = True

    def complete(self, values: dict[str, Any]) -> None:
        if values['warmup_init'] and values['lr'] is not None:
            raise ValueError(f'warmup_init is for the relative step, with lr None; lr is {values["lr"]}')

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        pair = factors(p.shape, group['min_dim_size_to_factor'])
        return f'factored {pair[0]} {pair[1]}' if pair else ''

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        pair = factors(p.shape, group['min_dim_size_to_factor'])
        if not pair:
            return {'exp_avg_sq': torch.zeros_like(p), **super().init(p, group)}
        row, column = (torch.zeros_like(p.select(dim, 0)) for dim in reversed(pair))
        return {'exp_avg_sq_row': row, 'exp_avg_sq_col': column, **super().init(p, group)}

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        rate = group['lr']
        if rate is None:
            rate = min(1e-6 * step if group['warmup_init'] else 1e-2, step**-0.5)
        scales = group['lr'] is None and group['scale_parameter']
        return {'rate': rate, 'scales': scales, 'weight2': step ** group['decay_rate']}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        square, dims = g * g, tuple(int(dim) + 1 for dim in h.kind.split()[1:])
        if dims:
            rows, columns = s.exp_avg_sq_row.unsqueeze(dims[1]), s.exp_avg_sq_col.unsqueeze(dims[0])
            d = by_factors(g, moments(square, rows, columns, dims, h.eps, h.weight2), h.clip_threshold, rate(p, h))
        else:
            d = by_squares(g, s.exp_avg_sq.lerp_(square + h.eps, h.weight2), h.clip_threshold, rate(p, h))
        return d if s.exp_avg is None else s.exp_avg.lerp_(d, 1 - h.beta1)

    @staticmethod
    def finish(p: Tensor, d: Tensor, h: Any) -> Tensor:
        return d + rate(p, h) * h.decay * p


def averages(dim: int, *tensors: Tensor) -> Sequence[Tensor]:
    """Means over a dimension, which is kept as one of 1.

    Where it is not the last, sums of 32 or 8 come first, so that memory is read in few streams, and little of what one
    thread writes is read by another.
    """
    n = tensors[0].shape[dim]
    few = next((few for few in (32, 8) if n > few and n % few == 0), None)
    if few is None or dim + 1 == tensors[0].ndim:
        return [x.mean(dim, keepdim=True) for x in tensors]
    sums = torch.stack([x.unflatten(dim, (n // few, few)).sum(dim + 1) for x in tensors])
    return (sums.sum(dim + 1, keepdim=True) / n).unbind()


def moments(
    square: Tensor, rows: Tensor, columns: Tensor, dims: Sequence[int], floor: float, weight: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves running means over dims[1] (rows) and dims[0] (columns) towards squared gradients.

    Returns:
        The inverse roots of the rows, the means over dims[0] of the squares over the rows, and the mean of the rows
        over the columns.
    """
    rows = kept(rows.lerp_(averages(dims[1], square)[0] + floor, weight))
    weights = kept(rows.rsqrt())
    weighed, plain = averages(dims[0], square * weights.square(), square)  # in one pass over what is in the cache
    return weights, weighed, rows.mean(dims[0], keepdim=True) / columns.lerp_(plain + floor, weight)


def by_factors(g: Tensor, second: tuple[Tensor, Tensor, Tensor], limit: Any, rate: Any = 1.0) -> Tensor:
    """The gradient over the root of its second moment, which is rows times columns over the mean of the rows.

    Args:
        second: What `moments` gives.
        limit: Largest root mean square of the result before the rate; None leaves it.
    """
    weights, weighed, scales = second
    if limit is not None:  # without a pass over the result
        rate = rate / (mean(weighed * scales).sqrt() / limit).clamp(min=1.0)
    return weights * g * kept(rate * scales.sqrt())


def by_squares(g: Tensor, squares: Tensor, limit: Any, rate: Any = 1.0) -> Tensor:
    """Likewise by a full second moment."""
    # of stacked vectors inductor's kernels fail with a KeyError where `rsqrt` is used again (torch 2.14)
    d = g * (squares.rsqrt() if squares.shape[0] == 1 else (-0.5 * squares.log()).exp())
    return rate * d if limit is None else rate / (rms(d) / limit).clamp(min=1.0) * d


def kept(x: Tensor) -> Tensor:
    """The same, on a CPU written to memory: inductor would compute it again for every few elements it is used for."""
    return x.as_strided(x.shape, x.stride()) if x.device.type == 'cpu' else x


def rate(p: Tensor, h: Any) -> Any:
    """The learning rate of each tensor, by its size where asked."""
    return h.rate * rms(p).clamp(min=h.eps_scale) if h.scales else h.rate


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


class AdafactorBigVision(Optimizer):
    """Adafactor with a capped beta2, momentum in half precision no relative step (arXiv:2106.04560, section 3.4)."""

    lr: float = 1.0
    min_dim_size_to_factor: int = 16  # a tensor whose second largest dimension is smaller keeps a full second moment
    decay_rate: float = 0.8  # of the second moment: beta2 is 1 - (step - decay_offset) ** -decay_rate
    decay_offset: int = 0  # steps to leave out of that count, in fine-tuning
    beta2_cap: float = 0.999  # largest beta2
    momentum: float | None = 0.9  # of the steps; None keeps none
    momentum_dtype: str | torch.dtype = 'bfloat16'  # in which it is stored
    eps: float | None = None  # added to the squared gradient; None is 1e-30
    weight_decay: float = 0.0
    clipping_threshold: float | None = None  # largest root mean square of a step before the rate; None leaves it
    unscaled_wd: bool = False  # do not multiply the decay by the learning rate
    traits: ClassVar = {'': Traits('rows'), 'factored': Traits('tensors')}
    branches_on_step = True

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        if p.ndim < 2 or sorted(p.shape)[-2] < group['min_dim_size_to_factor']:
            return ''
        small, large = sorted(range(p.ndim), key=lambda dim: p.shape[dim])[-2:]  # of equal ones the later is larger
        return f'factored {small} {large}'

    def decays(self, group: dict[str, Any]) -> str:
        return 'fixed' if group['unscaled_wd'] else 'decoupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state, dims = {}, [int(dim) for dim in self.kind(p, group).split()[1:]]
        for name, dim in zip(('exp_avg_sq_c', 'exp_avg_sq_r'), dims, strict=False):
            state[name] = torch.zeros_like(p.select(dim, 0).unsqueeze(dim))
        if not dims:
            state['exp_avg_sq'] = torch.zeros_like(p)
        if group['momentum'] is not None:
            state['exp_avg'] = torch.zeros_like(p, dtype=getattr(torch, group['momentum_dtype']))
        return state

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        count = max(step - group['decay_offset'], 1)
        floor = 1e-30 if group['eps'] is None else group['eps']
        return {'floor': floor, 'beta2': min(group['beta2_cap'], 1 - count ** -group['decay_rate'])}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        square, dims = g * g, tuple(int(dim) + 1 for dim in h.kind.split()[1:])
        if dims:
            second = moments(square, s.exp_avg_sq_r, s.exp_avg_sq_c, dims, h.floor, 1 - h.beta2)
            d = by_factors(g, second, h.clipping_threshold)
        else:
            d = by_squares(g, s.exp_avg_sq.lerp_(square + h.floor, 1 - h.beta2), h.clipping_threshold)
        return h.lr * (d if h.momentum is None else s.exp_avg.lerp_(d, 1 - h.momentum))
