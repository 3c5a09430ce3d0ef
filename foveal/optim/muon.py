"""Muon: momentum made orthogonal (kellerjordan.github.io/posts/muon, arXiv:2502.16982), and AdaMuon."""

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from foveal.errors import near
from foveal.optim.engine import Optimizer, Options, Traits
from foveal.optim.newton_schulz import orthogonalize, polynomials

CHOICES = {
    'adjust_lr_fn': ('original', 'match_rms_adamw', 'rms_to_rms'),
    'conv_mode': ('flatten', 'batched'),
    'algo': ('muon', 'adamuon'),
}
MIN_SIDE = 4  # narrower matrices gain nothing


class Muon(Optimizer):
    """Muon: the momentum of a matrix with its singular values set to one.

    Vectors, matrices and kernels of fewer than 4 rows or columns, depthwise kernels, tensors that begin with a
    dimension of 1, and groups with `use_fallback=True` (heads, embeddings) take AdamW's step, or NAdamW's with
    `nesterov`.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        weight_decay: Decoupled.
        momentum: Of the matrices.
        nesterov: Nesterov's momentum.
        ns_steps: Newton-Schulz iterations.
        ns_coefficients: 'original', 'quintic', 'polar_express', 'polar_express_safer', (a, b, c), or one of these for
            each step; see `foveal.optim.newton_schulz`.
        eps: Least norm that is divided by, and AdamW's eps.
        safety_factor: Of the norm.
        adjust_lr_fn: 'original': steps scaled by sqrt(max(1, rows / columns)); 'match_rms_adamw' by
            0.2 sqrt(max(rows, columns)), so that AdamW's learning rates and decay hold (arXiv:2502.16982);
            'rms_to_rms' by sqrt(rows / columns) (arXiv:2310.17813).
        conv_mode: A kernel (out, in, height, width) is one matrix (out, in height width), or 'batched': one matrix
            (out, in) at each position.
        normalize_spatial: Divide batched kernels by the root of the number of positions.
        adamw_lr: Learning rate of the fallback beside `lr`: another way to say `fallback_lr_scale`.
        fallback_lr_scale: Learning rate of the fallback, of `lr`.
        betas: Of the fallback; the second is AdaMuon's as well.
        algo: 'muon', or 'adamuon': divided by the root of a second moment of the orthogonal steps (arXiv:2507.11005).
        scale_eps: Add sqrt(columns / rows) eps to the norm.
        **options: See `foveal.optim.Options`.

    Raises:
        ValueError: An unknown choice.
    """

    # stacked, matrices of a shape share their products; a million elements fill any processor alone
    traits: ClassVar[dict[str, Traits]] = {'': Traits('tensors', compile=False, stack=2**20), 'fallback': Traits()}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = False,
        ns_steps: int = 5,
        ns_coefficients: Any = 'quintic',
        eps: float = 1e-7,
        safety_factor: float = 1.0,
        adjust_lr_fn: str = 'match_rms_adamw',
        conv_mode: str = 'flatten',
        normalize_spatial: bool = True,
        adamw_lr: float | None = None,
        fallback_lr_scale: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        algo: str = 'muon',
        scale_eps: bool = False,
        **options: Unpack[Options],
    ) -> None:
        chosen = {'adjust_lr_fn': adjust_lr_fn, 'conv_mode': conv_mode, 'algo': algo}
        for name, value in chosen.items():
            if value not in CHOICES[name]:
                raise ValueError(f'{name} {value!r} is unknown{near(value, CHOICES[name])}')
        if algo == 'adamuon' and adjust_lr_fn == 'original':
            raise ValueError(
                "adjust_lr_fn 'original' has no meaning for adamuon; legal are match_rms_adamw, rms_to_rms"
            )
        if not isinstance(ns_coefficients, str):
            ns_coefficients = tuple(polynomials(ns_coefficients))
        polynomials(ns_coefficients)
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            ns_coefficients=ns_coefficients,
            eps=eps,
            safety_factor=safety_factor,
            normalize_spatial=normalize_spatial,
            fallback_lr_scale=fallback_lr_scale if adamw_lr is None else adamw_lr / lr,
            betas=betas,
            scale_eps=scale_eps,
            **chosen,
        )
        super().__init__(params, defaults, options)

    def kind(self, p: Tensor, group: dict[str, Any]) -> str:
        if p.ndim < 2 or group.get('use_fallback') or 1 in p.shape[:2]:
            return 'fallback'
        return '' if min(p.shape[0], p[0].numel()) >= MIN_SIDE else 'fallback'

    def decays(self, group: dict[str, Any]) -> str:
        return 'own'

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        if self.kind(p, group) == 'fallback':
            return {'exp_avg': torch.zeros_like(p), 'exp_avg_sq': torch.zeros_like(p)}
        names = ['momentum_buffer'] + ['exp_avg_sq'] * (group['algo'] == 'adamuon')
        return {name: torch.zeros_like(p) for name in names}

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        return {'correction1': 1 - beta1**step, 'correction2': 1 - beta2**step, 'rate': group['fallback_lr_scale']}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        lr: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        ns_coefficients: Any,
        eps: float,
        safety_factor: float,
        adjust_lr_fn: str,
        conv_mode: str,
        normalize_spatial: bool,
        beta1: float,
        beta2: float,
        scale_eps: bool,
        correction1: float,
        correction2: float,
        rate: float,
        momentum_buffer: Tensor | None = None,
        exp_avg: Tensor | None = None,
        exp_avg_sq: Tensor | None = None,
    ) -> Tensor:
        if exp_avg is not None and exp_avg_sq is not None:
            exp_avg.lerp_(g, 1 - beta1)
            exp_avg_sq.lerp_(g.square(), 1 - beta2)
            d = exp_avg.lerp(g, 1 - beta1) if nesterov else exp_avg
            return lr * rate * (d / correction1) / ((exp_avg_sq / correction2).sqrt() + eps)

        assert momentum_buffer is not None
        momentum_buffer.lerp_(g, 1 - momentum)
        d = momentum_buffer.lerp(g, 1 - momentum) if nesterov else momentum_buffer
        positions = d[0, 0, 0].numel() if conv_mode == 'batched' else 1
        d = d.flatten(3).movedim(3, 1) if positions > 1 else d.flatten(2)
        turned = orthogonalize(d, ns_steps, polynomials(ns_coefficients), eps, safety_factor, scale_eps)
        d = turned.to(g.dtype).view(d.shape)
        d = (d.movedim(1, 3) if positions > 1 else d).reshape(g.shape)
        rows, columns = g.shape[1], g[0, 0].numel() // positions
        if exp_avg_sq is not None:
            exp_avg_sq.lerp_(d.square(), 1 - beta2)
            if adjust_lr_fn == 'rms_to_rms':
                d = d / ((exp_avg_sq / correction2).sqrt() + eps)
            else:
                d = d / (exp_avg_sq.sqrt() + eps)
                d = d / d.square().mean(tuple(range(1, d.ndim)), keepdim=True).sqrt()
        if adjust_lr_fn == 'original':
            scale = max(1.0, rows / columns) ** 0.5
        elif adjust_lr_fn == 'rms_to_rms':
            scale = (rows / columns) ** 0.5
        else:
            scale = 0.2 if exp_avg_sq is not None else 0.2 * max(rows, columns) ** 0.5
        return lr * (scale / positions**0.5 if normalize_spatial else scale) * d

    @staticmethod
    def finish(p: Tensor, d: Tensor, lr: float, decay: float, rate: float, kind: str) -> Tensor:
        return d + lr * (rate if kind == 'fallback' else 1.0) * decay * p
