"""Lookahead: slow weights that follow the fast ones of any optimizer (arXiv:1907.08610)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SLOW = 'lookahead_slow_buff'


class Lookahead(torch.optim.Optimizer):
    """Every k steps, slow weights move the part alpha, in (0, 1], of the way to the fast ones, which begin again there.

    The slow weights begin where the fast ones are after the first k steps, not at the very start as in the paper.

    Groups and state are the wrapped optimizer's own, with the slow weights and `lookahead_alpha`, `lookahead_k` and
    `lookahead_step` among them, so that schedulers and checkpoints see one optimizer.
    """

    def __init__(self, base_optimizer: torch.optim.Optimizer, alpha: float = 0.5, k: int = 6) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f'alpha has to be in (0, 1], not {alpha}')
        if k < 1:
            raise ValueError(f'k has to be at least 1, not {k}')
        self.base_optimizer = base_optimizer
        super().__init__(base_optimizer.param_groups, {})
        self.own = dict(lookahead_alpha=alpha, lookahead_k=k, lookahead_step=0)
        self.share()

    def share(self) -> None:
        """Takes the wrapped optimizer's groups and state as they now are."""
        base = self.base_optimizer
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults
        for group in self.param_groups:
            for name, value in self.own.items():
                group.setdefault(name, value)

    @property
    def second_order(self) -> bool:
        """Whether the wrapped optimizer needs `loss.backward(create_graph=True)`."""
        return getattr(self.base_optimizer, 'second_order', False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """A step of the fast weights; every k-th moves the slow ones as well. `closure` is as in torch."""
        loss = self.base_optimizer.step(closure)
        for group in self.param_groups:
            group['lookahead_step'] += 1
            if group['lookahead_step'] % group['lookahead_k'] == 0:
                self.sync(group)
        return loss

    @torch.no_grad()
    def sync(self, group: dict[str, Any]) -> None:
        """Moves a group's slow weights and sets the fast ones to them."""
        fast = [p for p in group['params'] if p.grad is not None or SLOW in self.state.get(p, ())]
        slow: list[Tensor] = []
        for p in fast:
            if SLOW not in self.state[p]:
                self.state[p][SLOW] = p.detach().clone()
            slow.append(self.state[p][SLOW])
        if fast:
            torch._foreach_lerp_(slow, fast, group['lookahead_alpha'])
            torch._foreach_copy_(fast, slow)

    def sync_lookahead(self) -> None:
        """Moves all slow weights now, such as at the end of training or before an evaluation."""
        for group in self.param_groups:
            self.sync(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        if hasattr(self, 'own'):
            self.base_optimizer.add_param_group(param_group)
            self.share()

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's, slow weights included."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave, or what the wrapped optimizer gave when alone."""
        self.base_optimizer.load_state_dict(state_dict)
        self.share()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), 'base_optimizer': self.base_optimizer, 'own': self.own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.share()
