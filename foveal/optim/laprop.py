"""LaProp: momentum of the normalised gradient (arXiv:2002.04839)."""

from typing import Any, ClassVar, Unpack

from torch import Tensor

from foveal.optim.engine import Optimizer, Options


class LaProp(Optimizer):
    """LaProp: Adam with the division before the momentum (arXiv:2002.04839, algorithm 1).

    The momentum holds steps, learning rate included, so its bias correction is by the average of the rates.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the momentum and of the squares.
        eps: Added to the root of the squares.
        weight_decay: Decoupled, and of the parameters after the step.
        **options: See `foveal.optim.Options`.
    """

    zeros = ('exp_avg', 'exp_avg_sq')
    branches_on_step: ClassVar[bool] = True

    def __init__(
        self,
        params: Any,
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), options)

    def decays(self, group: dict[str, Any]) -> str:
        return 'own'

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta, mean = group['betas'][0], group.get('lr_mean', 0.0)
        weight = (1 - beta) / (1 - beta ** self.state[params[0]]['step'])
        group['lr_mean'] = mean + weight * (group['lr'] - mean)

    def scalars(self, group: dict[str, Any], step: Any) -> dict[str, Any]:
        beta1, beta2 = group['betas']
        weight = (1 - beta1**step) * group['lr_mean'] / group['lr'] if group['lr'] else 1.0
        return {'correction1': weight, 'correction2': 1 - beta2**step}

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
    ) -> Tensor:
        exp_avg_sq.lerp_(g.square(), 1 - beta2)
        exp_avg.lerp_(lr * g / ((exp_avg_sq / correction2).sqrt() + eps), 1 - beta1)
        return exp_avg / correction1

    @staticmethod
    def finish(p: Tensor, d: Tensor, lr: float, decay: float) -> Tensor:
        return d + lr * decay * (p - d)
