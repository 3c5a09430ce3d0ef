"""Adafactor as vision transformers were trained with it in Big Vision (arXiv:2106.04560)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.adafactor import rms
from foveal.optim.engine import Optimizer, Options, Traits


class AdafactorBigVision(Optimizer):
    """Adafactor with a capped beta2, momentum in half precision and no relative step (arXiv:2106.04560, section 3.4).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        min_dim_size_to_factor: A tensor whose second largest dimension is smaller keeps a full second moment.
        decay_rate: Of the second moment: beta2 is 1 - (step - decay_offset) ** -decay_rate.
        decay_offset: Steps to leave out of that count, in fine-tuning.
        beta2_cap: Largest beta2.
        momentum: Of the steps; None keeps none.
        momentum_dtype: In which it is stored.
        eps: Added to the squared gradient; None is 1e-30.
        weight_decay: Decoupled.
        clipping_threshold: Largest root mean square of a step before the learning rate; None leaves it.
        unscaled_wd: Do not multiply the decay by the learning rate.
        **options: See `foveal.optim.Options`.
    """

    traits: ClassVar = {'': Traits('rows'), 'factored': Traits('tensors')}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        min_dim_size_to_factor: int = 16,
        decay_rate: float = 0.8,
        decay_offset: int = 0,
        beta2_cap: float = 0.999,
        momentum: float | None = 0.9,
        momentum_dtype: str | torch.dtype = 'bfloat16',
        eps: float | None = None,
        weight_decay: float = 0.0,
        clipping_threshold: float | None = None,
        unscaled_wd: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own: dict[str, Any] = dict(lr=lr, min_dim_size_to_factor=min_dim_size_to_factor, decay_rate=decay_rate)
        own |= dict(decay_offset=decay_offset, beta2_cap=beta2_cap, momentum=momentum)
        own |= dict(momentum_dtype=str(momentum_dtype).removeprefix('torch.'), eps=eps)
        own |= dict(weight_decay=weight_decay, clipping_threshold=clipping_threshold, unscaled_wd=unscaled_wd)
        super().__init__(params, own, options)

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        if p.ndim < 2 or sorted(p.shape)[-2] < group['min_dim_size_to_factor']:
            return ''
        small, large = sorted(range(p.ndim), key=lambda dim: p.shape[dim])[-2:]  # of equal ones the later is larger
        return f'factored {small} {large}'

    def decays(self, group: dict[str, Any]) -> str:
        return 'fixed' if group['unscaled_wd'] else 'decoupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = {}
        kind = self.kind(p, group)
        if kind:
            small, large = map(int, kind.split()[1:])
            state['exp_avg_sq_r'] = torch.zeros_like(p.select(large, 0).unsqueeze(large))
            state['exp_avg_sq_c'] = torch.zeros_like(p.select(small, 0).unsqueeze(small))
        else:
            state['exp_avg_sq'] = torch.zeros_like(p)
        if group['momentum'] is not None:
            state['exp_avg'] = torch.zeros_like(p, dtype=getattr(torch, group['momentum_dtype']))
        return state

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        count = max(step - group['decay_offset'], 1)
        floor = 1e-30 if group['eps'] is None else group['eps']
        return {'floor': floor, 'beta2': min(group['beta2_cap'], 1 - count ** -group['decay_rate'])}

    branches_on_step = True

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        lr: float,
        beta2: float,
        floor: float,
        clipping_threshold: float | None,
        kind: str,
        momentum: float | None = None,
        exp_avg_sq: Tensor | None = None,
        exp_avg_sq_r: Tensor | None = None,
        exp_avg_sq_c: Tensor | None = None,
        exp_avg: Tensor | None = None,
    ) -> Tensor:
        square = g * g + floor
        if exp_avg_sq is not None:
            d = g * exp_avg_sq.lerp_(square, 1 - beta2).rsqrt()
        else:
            assert exp_avg_sq_r is not None
            assert exp_avg_sq_c is not None
            small, large = (int(dim) + 1 for dim in kind.split()[1:])
            rows = exp_avg_sq_r.lerp_(square.mean(large, keepdim=True), 1 - beta2)
            columns = exp_avg_sq_c.lerp_(square.mean(small, keepdim=True), 1 - beta2)
            d = g * (rows / rows.mean(small, keepdim=True)).rsqrt() * columns.rsqrt()
        if clipping_threshold is not None:
            d = d / (rms(d) / clipping_threshold).clamp(min=1.0)
        if exp_avg is not None:
            assert momentum is not None
            d = exp_avg.lerp_(d, 1 - momentum)
        return lr * d
