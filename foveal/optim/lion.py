"""Lion: the sign of a momentum (arXiv:2302.06675)."""

from typing import Any, Unpack

from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class Lion(Optimizer):
    """Lion: the sign of the momentum, interpolated towards the gradient (arXiv:2302.06675, algorithm 2).

    Args:
        params: Parameters or groups.
        lr: Learning rate; a third to a tenth of AdamW's.
        betas: Of the step, and of the momentum that is kept.
        weight_decay: Decoupled.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg',)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay), options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'decoupled'

    @staticmethod
    def update(p: Tensor, g: Tensor, exp_avg: Tensor, lr: float, beta1: float, beta2: float) -> Tensor:
        d = exp_avg.lerp(g, 1 - beta1).sign()
        exp_avg.lerp_(g, 1 - beta2)
        return lr * d
