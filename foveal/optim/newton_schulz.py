"""The orthogonal factor of matrices by Newton-Schulz iterations: odd polynomials that push singular values to one."""

from collections.abc import Sequence
from functools import cache
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
PRESETS = ('original', 'quintic', 'polar_express', 'polar_express_safer')


def best_quintic(low: float, high: float) -> np.ndarray:
    """The odd quintic that is nearest to one on [low, high], by Remez' algorithm (arXiv:2505.16932, algorithm 3)."""
    if low / high > 1 - 5e-6:  # the limit, where the equations are singular
        return np.array([15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5])
    q, r, error, before = (3 * low + high) / 4, (low + 3 * high) / 4, np.inf, np.nan
    while not abs(before - error) <= 1e-15:
        before = error
        points = np.array([low, q, r, high])
        system = np.stack([points, points**3, points**5, np.array([1.0, -1, 1, -1])], 1)
        a, b, c, error = np.linalg.solve(system, np.ones(4))
        q, r = np.sqrt((-3 * b + np.array([-1, 1]) * np.sqrt(9 * b**2 - 20 * a * c)) / (10 * c))
    return np.array([a, b, c])


@cache
def polar_express(safety: float, lowest: float = 1e-3, cushion: float = 0.02, steps: int = 8) -> list[Polynomial]:
    """The composition of quintics that is best on singular values in [lowest, 1] (arXiv:2505.16932, algorithm 1).

    Args:
        safety: How far, relatively, rounding may carry singular values above what they should be.
        lowest: Least singular value.
        cushion: A step treats singular values below this share of the largest as if they were there, for stability.
        steps: How many; the last is the limit of all that follow.
    """
    low, high, polynomials = lowest, 1.0, []
    powers = np.array([1, 3, 5])
    for step in range(steps):
        polynomial = best_quintic(max(low, cushion * high), high)
        if cushion * high > low:  # centre again around one
            polynomial *= 2 / (polynomial @ low**powers + polynomial @ high**powers)
        if step < steps - 1:
            polynomial /= (1 + safety) ** powers
        polynomials.append((float(polynomial[0]), float(polynomial[1]), float(polynomial[2])))
        low = float(polynomial @ low**powers)
        high = 2 - low
    return polynomials


def polynomials(coefficients: str | Sequence[Any]) -> list[Polynomial]:
    """What `ns_coefficients` stands for: a polynomial for each step, the last for all that follow.

    Args:
        coefficients: 'original', 'quintic', 'polar_express' or 'polar_express_safer', or one (a, b, c) or several.

    Raises:
        ValueError: Neither.
    """
    if isinstance(coefficients, str):
        if coefficients not in PRESETS:
            raise ValueError(f'ns_coefficients {coefficients!r} is unknown{near(coefficients, PRESETS)}')
        if coefficients.startswith('polar'):
            return polar_express(0.02 if coefficients.endswith('safer') else 0.01)
        return [JORDAN] if coefficients == 'original' else JIACHENG
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
        steps: Iterations.
        coefficients: Of each step, the last for all that follow.
        eps: Least norm that is divided by.
        safety: Factor of the norm.
        scale_eps: Add sqrt(columns / rows) eps to the norm instead.

    Returns:
        Of the same shape, in the dtype computed in.
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
