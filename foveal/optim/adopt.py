"""ADOPT: Adam whose second moment does not see the present gradient (arXiv:2411.02853)."""

from typing import Any, Unpack

from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class Adopt(Optimizer):
    """ADOPT: converges with any beta2, by dividing by the past second moment (arXiv:2411.02853, algorithm 2).

    The first step measures the second moment and moves nothing.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the momentum and of the squares.
        eps: Least root of the squares.
        clip_exp: The divided gradient is held within step ** clip_exp, where step counts from 0; None does not.
        weight_decay: Added to the gradient, or decoupled.
        decoupled: Decoupled decay.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'exp_avg_sq')

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        clip_exp: float | None = 0.333,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, clip_exp=clip_exp, weight_decay=weight_decay, decoupled=decoupled)
        super().__init__(params, defaults, options)

    def decoupled(self, group: dict[str, Any]) -> bool:
        return group['decoupled'] or group['corrected_weight_decay']

    def decays(self, group: dict[str, Any]) -> str:
        return 'own' if self.decoupled(group) else 'coupled'

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        first = (step == 1) * 1.0
        limit = None if group['clip_exp'] is None else (step - 1.0) ** group['clip_exp']
        pull = group['lr'] * (1 - first) if self.decoupled(group) else 0.0
        return {'limit': limit, 'moves': 1 - first, 'kept': group['betas'][1] * (1 - first), 'pull': pull}

    @staticmethod
    def update(
        p: Tensor,
        g: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        lr: float,
        beta1: float,
        eps: float,
        limit: Any,
        moves: float,
        kept: float,
    ) -> Tensor:
        d = g / exp_avg_sq.sqrt().clamp(min=eps)
        if limit is not None:
            d = d.clamp(-limit, limit)
        exp_avg.lerp_(d, moves * (1 - beta1))
        exp_avg_sq.lerp_(g.square(), 1 - kept)
        return moves * lr * exp_avg

    @staticmethod
    def finish(p: Tensor, d: Tensor, decay: float, pull: float) -> Tensor:
        return d + pull * decay * p  # decoupled, but not at the first step, which moves nothing
