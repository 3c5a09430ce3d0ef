"""SOAP: Adam in the eigenbasis of Shampoo's factors (arXiv:2409.11321)."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options, Traits


def rotate(x: Tensor, bases: list[Tensor | None], back: bool = False) -> Tensor:
    """A tensor in the bases of its dimensions (columns are their vectors), or back from them."""
    for dim, q in enumerate(bases):
        if q is not None:
            x = (x.movedim(dim, -1) @ (q.mT if back else q)).movedim(-1, dim)
    return x


class SOAP(Optimizer):
    """SOAP (arXiv:2409.11321, algorithm 3): vectors get Adam's step, matrices and kernels Adam's in a rotated basis.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the momentum and of the squares.
        shampoo_beta: Of the factors; None takes the second beta.
        eps: Added to the root of the squares.
        weight_decay: Decoupled.
        precondition_frequency: Steps from one improvement of the bases to the next.
        max_precond_dim: Longer dimensions are not rotated.
        **options: See `foveal.optim.Options`.
    """

    branches_on_step: ClassVar[bool] = True
    traits: ClassVar[dict[str, Traits]] = {'': Traits('tensors', compile=False, stack=0), 'vector': Traits()}

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        **options: Unpack[Options],
    ) -> None:
        defaults: dict[str, Any] = dict(lr=lr, betas=betas, shampoo_beta=shampoo_beta, eps=eps)
        defaults |= dict(weight_decay=weight_decay, precondition_frequency=precondition_frequency)
        super().__init__(params, {**defaults, 'max_precond_dim': max_precond_dim}, options)

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return '' if p.ndim > 1 else 'vector'

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = {'exp_avg': torch.zeros_like(p), 'exp_avg_sq': torch.zeros_like(p)}
        for dim, n in enumerate(p.shape if p.ndim > 1 else ()):
            if 1 < n <= group['max_precond_dim']:
                state |= {f'{name}{dim}': p.new_zeros(n, n) for name in ('factor', 'basis')}
        return state

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Factors and bases: made at the first step, from then on moved after each step, here before the next."""
        beta = group['betas'][1] if group['shampoo_beta'] is None else group['shampoo_beta']
        for p in params:
            if p.ndim < 2:
                continue
            assert p.grad is not None
            state, work = self.state[p], torch.promote_types(p.dtype, torch.float32)
            for dim in range(p.ndim):
                if f'factor{dim}' not in state:
                    continue
                factor, basis = state[f'factor{dim}'], state[f'basis{dim}']
                rows = p.grad.movedim(dim, 0).flatten(1).to(factor.dtype)
                if state['step'] == 1:
                    factor.copy_((1 - beta) * rows @ rows.mT)
                    basis.copy_(torch.linalg.eigh(factor.to(work))[1].flip(1))
                    continue
                if state['step'] % group['precondition_frequency'] == 1 % group['precondition_frequency']:
                    basis.copy_(torch.linalg.qr((factor @ basis).to(work))[0])  # a step of the power iteration
                factor.lerp_(rows @ rows.mT, 1 - beta)

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        return {f'correction{i}': 1 - beta**step for i, beta in enumerate(group['betas'], 1)}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        correction1: float,
        correction2: float,
        kind: str,
        basis0: Tensor | None = None,
        basis1: Tensor | None = None,
        basis2: Tensor | None = None,
        basis3: Tensor | None = None,
        basis4: Tensor | None = None,
    ) -> Tensor:
        exp_avg.lerp_(g, 1 - beta1)
        m, bases = exp_avg, [None, basis0, basis1, basis2, basis3, basis4][: g.ndim]
        bases = [b if b is None else b[0].to(g.dtype) for b in bases]
        if kind == '':
            g, m = rotate(g, bases), rotate(m, bases)
        exp_avg_sq.lerp_(g.square(), 1 - beta2)
        d = lr * (m / correction1) / ((exp_avg_sq / correction2).sqrt() + eps)
        return rotate(d, bases, back=True) if kind == '' else d
