"""Prodigy: AdamW that finds its learning rate (arXiv:2306.06101)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class Prodigy(Optimizer):
    """Prodigy: Adam whose learning rate is an estimate d of the way to the solution (arXiv:2306.06101, algorithm 4).

    The estimate is one for all groups and is kept in each; groups may scale it by learning rates of their own.

    Args:
        params: Parameters or groups.
        lr: Factor of the estimate: leave it at 1 and let a schedule change it.
        betas: Of the momentum and of the squares.
        beta3: Of the estimate's sums; None takes sqrt(beta2).
        eps: Added, times d, to the root of the squares.
        weight_decay: Decoupled.
        use_bias_correction: Adam's bias corrections.
        safeguard_warmup: Leave the learning rate out of the estimate's denominator, for long warm-ups.
        d0: First estimate.
        d_coef: Factor of later ones.
        growth_rate: Most that the estimate grows by in a step.
        **options: See `foveal.optim.Options`.
    """

    branches_on_step: ClassVar[bool] = True

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = float('inf'),
        **options: Unpack[Options],
    ) -> None:
        beta3 = betas[1] ** 0.5 if beta3 is None else beta3
        defaults: dict[str, Any] = dict(lr=lr, betas=betas, beta3=beta3, eps=eps, weight_decay=weight_decay)
        defaults |= dict(use_bias_correction=use_bias_correction, safeguard_warmup=safeguard_warmup, d0=d0)
        defaults |= dict(d_coef=d_coef, growth_rate=growth_rate, d=d0, d_before=d0, d_max=d0, d_numerator=0.0)
        super().__init__(params, defaults, options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'own'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = {name: torch.zeros_like(p) for name in ('exp_avg', 'exp_avg_sq', 's')}
        return {**state, 'p0': p.clone()}

    def begin(self) -> None:
        """The new estimate, from how far the parameters have gone along their gradients."""
        first = self.param_groups[0]
        d, d0, lr = first['d'], first['d0'], max(float(group['lr']) for group in self.param_groups)
        gone, total = [], []
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None or not p.numel():
                    continue
                state = self.state[p]
                if 'step' not in state:
                    state.update(step=0, **self.init(self._template(p, group), group))
                rate = d * lr * self.correction(group, state['step'] + 1)
                g = (-p.grad if group['maximize'] else p.grad).to(state['s'].dtype)
                gone.append(rate * torch.sum(g * (state['p0'] - p)))
                weight = d if group['safeguard_warmup'] else rate
                state['s'].mul_(group['beta3']).add_(g, alpha=weight * d / d0)
                total.append(state['s'].abs().sum())
        if not total or not lr:
            return
        numerator = first['beta3'] * first['d_numerator'] + d / d0 * float(sum(map(float, gone)))
        denominator, now, most = sum(map(float, total)), d, first['d_max']
        if denominator:
            estimate = first['d_coef'] * numerator / denominator
            if d == d0:
                now = max(d, estimate)
            most = max(most, estimate)
            now = min(most, now * first['growth_rate'])
        for group in self.param_groups:
            group.update(d=now, d_before=d, d_max=most, d_numerator=numerator)

    @staticmethod
    def correction(group: dict[str, Any], step: int) -> float:
        """Adam's bias corrections as a factor of the learning rate."""
        beta1, beta2 = group['betas']
        return (1 - beta2**step) ** 0.5 / (1 - beta1**step) if group['use_bias_correction'] else 1.0

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        return {'rate': group['d_before'] * group['lr'] * self.correction(group, step)}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        beta1: float,
        beta2: float,
        eps: float,
        d: float,
        d_before: float,
        rate: float,
    ) -> Tensor:
        exp_avg.mul_(beta1).add_((1 - beta1) * d_before * g)
        exp_avg_sq.mul_(beta2).add_((1 - beta2) * (d_before * g).square())
        return rate * exp_avg / (exp_avg_sq.sqrt() + d * eps)

    @staticmethod
    def finish(p: Tensor, d: Tensor, rate: float, decay: float) -> Tensor:
        return d + rate * decay * p
