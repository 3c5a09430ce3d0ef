"""The orthogonal factor of matrices by Newton-Schulz iterations: odd polynomials that push singular values to one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.errors import near

Polynomial = tuple[float, float, float]  # a x + b x^3 + c x^5

JORDAN: Polynomial = (3.4445, -4.7750, 2.0315)  # Muon's first (kellerjordan.github.io/posts/muon)
JIACHENG: list[Polynomial] = [  # one polynomial a step, found by optimization (github.com/KellerJordan/modded-nanogpt)
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
# The best composition of quintics on singular values in [0.001, 1] (arXiv:2505.16932, algorithm 1, a cushion of 0.02)
# where rounding may carry them 1 or 2 % too far; tests/test_optim_formulas.py computes it.
POLAR: list[Polynomial] = [
    (8.237312490495555, -23.1577474145582, 16.680568411445915),
    (4.082441999064833, -2.8930477353325865, 0.5252849256975648),
    (3.9263479922546503, -2.8547468034765258, 0.5318022422894982),
    (3.298218713308518, -2.424541981026709, 0.4863200835884411),
    (2.2970369434552578, -1.6366255812590325, 0.4002628455953632),
    (1.8763805351440381, -1.2347896577722202, 0.3589188750166825),
    (1.8564423485590151, -1.2132449880881024, 0.3568003487799191),
    (1.8750003216088789, -1.2500006432014463, 0.3750003215925673),
]
POLAR_SAFER: list[Polynomial] = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166729, -2.808917465908708, 0.5000178451051306),
    (3.891667802292662, -2.7724841532176834, 0.5060648178503389),
    (3.2857536577556563, -2.368129493342539, 0.46449024233003117),
    (2.3005307116270965, -1.6111665557258397, 0.38333744275452725),
    (1.8631210546382588, -1.204216062100272, 0.342187956052338),
    (1.8382572152261407, -1.1779263289564332, 0.33965130386500936),
    (1.8750000256104276, -1.2500000501673576, 0.37500002455692977),
]
PRESETS = {'original': [JORDAN], 'quintic': JIACHENG, 'polar_express': POLAR, 'polar_express_safer': POLAR_SAFER}


def polynomials(coefficients: str | Sequence[Any]) -> list[Polynomial]:
    """What a name or numbers stand for: a polynomial for each step, the last for all that follow."""
    if isinstance(coefficients, str):
        if coefficients not in PRESETS:
            raise ValueError(f'ns_coefficients {coefficients!r} is unknown{near(coefficients, PRESETS)}')
        return PRESETS[coefficients]
    rows: Any = np.atleast_2d(np.array(coefficients, dtype=float)) if coefficients else np.empty(0)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError(f'ns_coefficients has to be (a, b, c) or a list of such, not {coefficients!r}')
    return [(float(a), float(b), float(c)) for a, b, c in rows]


def orthogonalize(
    x: Tensor, steps: int, coefficients: list[Polynomial], eps: float, safety: float = 1.0, scale_eps: bool = False
) -> Tensor:
    """U V^T of matrices U S V^T, roughly, in bfloat16 (in float64 where that comes).

    Args:
        x: Matrices (..., rows, columns).
        coefficients: Of each step, the last for all that follow.
        eps: Least norm that is divided by; with `scale_eps`, times sqrt(columns / rows), what is added to it.
        safety: Factor of the norm.
    """
    rows, columns = x.shape[-2:]
    x = x if x.dtype == torch.float64 else x.bfloat16()
    size = safety * x.norm(dim=(-2, -1), keepdim=True)
    x = x / (size + eps * (columns / rows) ** 0.5 if scale_eps else size.clamp(min=eps))
    x = (x.mT if rows > columns else x).reshape(-1, min(rows, columns), max(rows, columns))
    for step in range(steps):
        a, b, c = coefficients[min(step, len(coefficients) - 1)]
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if rows > columns else x
