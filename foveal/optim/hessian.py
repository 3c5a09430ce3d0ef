"""Algorithms that divide by the diagonal of the Hessian, which random directions measure."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor

from foveal.optim.adam import Moments

SEED = 2147483647


def hutchinson(params: Sequence[Tensor], samples: int, seed: int = SEED) -> list[Tensor]:
    """The diagonal of the Hessian by z * (H z), an average over some random signs z (Hutchinson)."""
    gradients = [p.grad for p in params if p.grad is not None]
    if any(g.grad_fn is None for g in gradients):
        raise RuntimeError('gradients have no graph: call loss.backward(create_graph=True)')
    generators = {device: torch.Generator(device).manual_seed(seed) for device in {p.device for p in params}}
    total = [torch.zeros_like(p) for p in params]
    for sample in range(samples):
        signs = [p.new_empty(p.shape).random_(0, 2, generator=generators[p.device]) for p in params]
        torch._foreach_mul_(signs, 2)
        torch._foreach_sub_(signs, 1)
        products = torch.autograd.grad(gradients, params, grad_outputs=signs, retain_graph=sample < samples - 1)
        torch._foreach_addcmul_(total, list(products), signs, 1 / samples)
    return total


class HessianOptimizer(Moments):
    """Base: every few steps `diagonals` holds the Hessian's diagonal for each parameter that has a gradient."""

    _: KW_ONLY
    update_each: int = 1  # steps from one estimate to the next
    n_samples: int = 1  # random directions an estimate
    zeros = ('exp_avg', 'hessian')
    second_order = True
    branches_on_step = True

    def complete(self, values: dict[str, Any]) -> None:
        values['calls'] = 0

    def begin(self) -> None:
        first, self.diagonals = self.param_groups[0], dict[Tensor, Tensor]()
        params = [p for group in self.param_groups for p in group['params'] if p.grad is not None]
        if first['calls'] % first['update_each'] == 0 and params:
            with torch.enable_grad():  # the seed tells one estimate from the next, so a resumed run draws the same
                estimates = hutchinson(params, first['n_samples'], SEED - first['calls'])
            self.diagonals = dict(zip(params, estimates, strict=True))
        for group in self.param_groups:
            group['calls'] += 1


class Adahessian(HessianOptimizer):
    """AdaHessian: Adam whose squares are those of the Hessian's diagonal (arXiv:2006.00719, algorithm 1)."""

    lr: float = 0.1
    hessian_power: float = 1.0  # 1 divides by the root of the squares, less by less
    avg_conv_kernel: bool = False  # average over the positions of a kernel (out, in, height, width)
    zeros = ('exp_avg', 'exp_hessian_diag_sq')
    aside = ('hessian',)  # kept where later steps use it again

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            state, diagonal = self.state[p], self.diagonals.pop(p, None)
            if diagonal is None:
                diagonal = state.get('hessian', torch.zeros_like(p))
            elif group['avg_conv_kernel'] and p.ndim == 4:
                diagonal = diagonal.abs().mean((2, 3), keepdim=True).expand_as(p)
            if group['update_each'] > 1:
                state['hessian'] = diagonal
            squares = state['exp_hessian_diag_sq']
            squares.lerp_(diagonal.square().to(squares.dtype), 1 - group['betas'][1])

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        denominator = (s.exp_hessian_diag_sq / h.correction2).pow(h.hessian_power / 2) + h.eps
        return h.lr * (s.exp_avg / h.correction1) / denominator


class Sophia(HessianOptimizer):
    """Sophia-H: momentum over the Hessian's diagonal, clipped (arXiv:2305.14342, algorithm 3)."""

    lr: float = 1e-3  # learning rate: the largest step of an element
    betas: tuple[float, float] = (0.96, 0.99)  # of the momentum and of the diagonal
    eps: float = 1e-12  # least divisor
    gamma: float = 0.01  # the diagonal is divided by after this factor: less clips more
    _: KW_ONLY
    update_each: int = 10

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if p in self.diagonals:
                hessian = self.state[p]['hessian']
                hessian.lerp_(self.diagonals.pop(p).to(hessian.dtype), 1 - group['betas'][1])

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        return h.lr * (s.exp_avg / (h.gamma * s.hessian).clamp(min=h.eps)).clamp(-1, 1)
