"""SOAP: Adam in the eigenbasis of Shampoo's factors (arXiv:2409.11321)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.adam import Moments
from foveal.optim.engine import Traits

DIMS = range(5)


def rotate(x: Tensor, bases: list[Tensor | None], back: bool = False) -> Tensor:
    """Tensors (k, ...) in the bases of their dimensions (columns are vectors; None leaves one), or back from them."""
    for dim, q in enumerate(bases, 1):
        if q is not None:
            x = (x.movedim(dim, -1) @ (q.mT if back else q)).movedim(-1, dim)
    return x


class SOAP(Moments):
    """SOAP (arXiv:2409.11321, algorithm 3): vectors get Adam's step, matrices and kernels Adam's in a rotated basis."""

    lr: float = 3e-3
    betas: tuple[float, float] = (0.95, 0.95)  # of the momentum and of the squares
    shampoo_beta: float | None = None  # of the factors; None takes the second beta
    weight_decay: float = 0.01
    precondition_frequency: int = 10  # steps from one improvement of the bases to the next
    max_precond_dim: int = 10000  # longer dimensions are not rotated
    aside = tuple(f'factor{dim}' for dim in DIMS)
    branches_on_step = True
    traits: ClassVar[dict[str, Traits]] = {'': Traits('tensors', compile=False, stack=0), 'vector': Traits()}

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        return '' if p.ndim > 1 else 'vector'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = super().init(p, group)
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

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        s.exp_avg.lerp_(g, 1 - h.beta1)
        named = {} if h.kind else s._asdict()
        bases = [named[f'basis{dim}'][0].to(g.dtype) if f'basis{dim}' in named else None for dim in DIMS]
        m = rotate(s.exp_avg, bases)
        s.exp_avg_sq.lerp_(rotate(g, bases).square(), 1 - h.beta2)
        d = h.lr * (m / h.correction1) / ((s.exp_avg_sq / h.correction2).sqrt() + h.eps)
        return rotate(d, bases, back=True)
