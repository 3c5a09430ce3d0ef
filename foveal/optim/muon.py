"""Muon: momentum made orthogonal (kellerjordan.github.io/posts/muon, arXiv:2502.16982), and AdaMuon."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from foveal.optim.adam import step_of
from foveal.optim.engine import Optimizer, Traits
from foveal.optim.newton_schulz import orthogonalize, polynomials


class Muon(Optimizer):
    """Muon: the momentum of a matrix with its singular values set to one.

    Vectors, matrices and kernels of fewer than 4 rows or columns, depthwise kernels, tensors that begin with a
    dimension of 1, and groups with `use_fallback=True` (heads, embeddings) take AdamW's step, or NAdamW's with
    `nesterov`.

    `adjust_lr_fn`: 'original' scales steps by sqrt(max(1, rows / columns)); 'match_rms_adamw' by
    0.2 sqrt(max(rows, columns)), so that AdamW's learning rates and decay hold (arXiv:2502.16982); 'rms_to_rms' by
    sqrt(rows / columns) (arXiv:2310.17813).
    """

    lr: float = 0.02
    weight_decay: float = 0.0
    momentum: float = 0.95  # of the matrices
    nesterov: bool = False
    ns_steps: int = 5  # Newton-Schulz iterations
    ns_coefficients: Any = 'quintic'  # a preset, (a, b, c) or one for each step; see foveal.optim.newton_schulz
    eps: float = 1e-7  # least norm that is divided by, and AdamW's eps
    safety_factor: float = 1.0  # of the norm
    adjust_lr_fn: Literal['original', 'match_rms_adamw', 'rms_to_rms'] = 'match_rms_adamw'  # see above
    conv_mode: Literal['flatten', 'batched'] = 'flatten'  # a kernel is one matrix, or one at each position
    normalize_spatial: bool = True  # divide batched kernels by the root of the number of positions
    adamw_lr: float | None = None  # learning rate of the fallback beside `lr`: another way to say the next
    fallback_lr_scale: float = 1.0  # learning rate of the fallback, of `lr`
    betas: tuple[float, float] = (0.9, 0.95)  # of the fallback; the second is AdaMuon's as well
    algo: Literal['muon', 'adamuon'] = 'muon'  # adamuon: over the root of a second moment of steps (arXiv:2507.11005)
    scale_eps: bool = False  # add sqrt(columns / rows) eps to the norm
    decay = 'decoupled'
    # stacked, matrices of a shape share their products; a million elements fill any processor alone
    traits: ClassVar = {'': Traits('tensors', compile=False, record=True, stack=2**20), 'fallback': Traits()}

    def complete(self, values: dict[str, Any]) -> None:
        if values['algo'] == 'adamuon' and values['adjust_lr_fn'] == 'original':
            raise ValueError("adjust_lr_fn of adamuon is match_rms_adamw or rms_to_rms, it cannot be 'original'")
        polynomials(values['ns_coefficients'])
        if values['adamw_lr'] is not None:
            values['fallback_lr_scale'] = values['adamw_lr'] / values['lr']

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        if p.ndim < 2 or group.get('use_fallback') or 1 in p.shape[:2]:
            return 'fallback'
        return '' if min(p.shape[0], p[0].numel()) >= 4 else 'fallback'  # narrower matrices gain nothing

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        names = ['momentum_buffer'] + ['exp_avg_sq'] * (group['algo'] == 'adamuon')
        if self.kind(p, group) == 'fallback':
            names = ['exp_avg', 'exp_avg_sq']
        return {name: torch.zeros_like(p) for name in names}

    def scalars(self, group: dict[str, Any], step: Any, kind: str) -> dict[str, Any]:
        return {'lr': group['lr'] * (group['fallback_lr_scale'] if kind == 'fallback' else 1.0)}

    @staticmethod
    def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        if h.kind == 'fallback':
            return h.lr * step_of(g, s, h, ahead=h.nesterov)

        s.momentum_buffer.lerp_(g, 1 - h.momentum)
        d = s.momentum_buffer.lerp(g, 1 - h.momentum) if h.nesterov else s.momentum_buffer
        positions = d[0, 0, 0].numel() if h.conv_mode == 'batched' else 1
        d = d.flatten(3).movedim(3, 1) if positions > 1 else d.flatten(2)
        turned = orthogonalize(d, h.ns_steps, polynomials(h.ns_coefficients), h.eps, h.safety_factor, h.scale_eps)
        d = turned.to(g.dtype).view(d.shape)
        d = (d.movedim(1, 3) if positions > 1 else d).reshape(g.shape)
        rows, columns = g.shape[1], g[0, 0].numel() // positions
        if h.algo == 'adamuon':
            s.exp_avg_sq.lerp_(d.square(), 1 - h.beta2)
            if h.adjust_lr_fn == 'rms_to_rms':
                d = d / ((s.exp_avg_sq / h.correction2).sqrt() + h.eps)
            else:
                d = d / (s.exp_avg_sq.sqrt() + h.eps)
                d = d / d.square().mean(tuple(range(1, d.ndim)), keepdim=True).sqrt()
        scales = {'original': max(1.0, rows / columns) ** 0.5, 'rms_to_rms': (rows / columns) ** 0.5}
        scale = scales.get(h.adjust_lr_fn, 0.2 if h.algo == 'adamuon' else 0.2 * max(rows, columns) ** 0.5)
        return h.lr * (scale / positions**0.5 if h.normalize_spatial else scale) * d
