"""Prodigy: AdamW that finds its learning rate (arXiv:2306.06101)."""

from typing import Any

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer


class Prodigy(Optimizer):
    """Prodigy: Adam whose learning rate is an estimate d of the way to the solution (arXiv:2306.06101, algorithm 4).

    The estimate is one for all groups and is kept in each; groups may scale it by learning rates of their own.
    """

    lr: float = 1.0  # factor of the estimate: leave it at 1 and let a schedule change it
    betas: tuple[float, float] = (0.9, 0.999)  # of the momentum and of the squares
    beta3: float | None = None  # of the estimate's sums; None takes sqrt(beta2)
    eps: float = 1e-8  # added, times d, to the root of the squares
    weight_decay: float = 0.0
    use_bias_correction: bool = False  # Adam's bias corrections
    safeguard_warmup: bool = False  # leave the learning rate out of the estimate's denominator, for long warm-ups
    d0: float = 1e-6  # first estimate
    d_coef: float = 1.0  # factor of later ones
    growth_rate: float = float('inf')  # most that the estimate grows by in a step
    zeros = ('exp_avg', 'exp_avg_sq', 's')
    aside = ('s', 'p0')
    decay = 'decoupled'
    branches_on_step = True

    def complete(self, values: dict[str, Any]) -> None:
        d = values['d0']
        values |= dict(d=d, d_before=d, d_max=d, d_numerator=0.0)
        if values['beta3'] is None:
            values['beta3'] = values['betas'][1] ** 0.5

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        return {**super().init(p, group), 'p0': p.clone()}

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
        far, denominator = (float(torch.stack([t.to(ts[0].device) for t in ts]).double().sum()) for ts in (gone, total))
        numerator = first['beta3'] * first['d_numerator'] + d / d0 * far
        now, most = d, first['d_max']
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

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        rate = group['d_before'] * group['lr'] * self.correction(group, step)
        return {'lr': rate, 'd': group['d'], 'd_before': group['d_before']}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.mul_(h.beta1).add_((1 - h.beta1) * h.d_before * g)
        s.exp_avg_sq.mul_(h.beta2).add_((1 - h.beta2) * (h.d_before * g).square())
        return h.lr * s.exp_avg / (s.exp_avg_sq.sqrt() + h.d * h.eps)
