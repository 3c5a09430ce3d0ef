"""The diagonal of the Hessian from random directions, for the algorithms that divide by it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveal.optim.engine import Optimizer, Options


def hutchinson(params: Sequence[Tensor], generators: dict[torch.device, torch.Generator], samples: int) -> list[Tensor]:
    """The diagonal of the Hessian by z * (H z) for random signs z (Hutchinson), an average of some.

    Args:
        params: With gradients of `loss.backward(create_graph=True)`.
        generators: Of each device, for the signs; missing ones are added.
        samples: How many.

    Raises:
        RuntimeError: Gradients without a graph.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    if any(g.grad_fn is None for g in gradients):
        raise RuntimeError('gradients have no graph: call loss.backward(create_graph=True)')
    total = [torch.zeros_like(p) for p in params]
    for sample in range(samples):
        signs = []
        for p in params:
            if p.device not in generators:
                generators[p.device] = torch.Generator(p.device).manual_seed(2147483647)
            bits = torch.randint(0, 2, p.shape, generator=generators[p.device], device=p.device)
            signs.append((2 * bits - 1).to(p.dtype))
        products = torch.autograd.grad(gradients, params, grad_outputs=signs, retain_graph=sample < samples - 1)
        torch._foreach_addcmul_(total, list(products), signs, 1 / samples)
    return total


class HessianOptimizer(Optimizer):
    """Base of algorithms that are told the Hessian's diagonal every few steps: `measured` takes it.

    Args:
        params: Parameters or groups, with gradients of `loss.backward(create_graph=True)`.
        defaults: The algorithm's own arguments.
        options: The caller's `Options`.
        update_each: Steps from one estimate to the next.
        n_samples: Random directions an estimate.
    """

    second_order: ClassVar[bool] = True
    branches_on_step: ClassVar[bool] = True

    def __init__(
        self, params: Any, defaults: dict[str, Any], options: Options, update_each: int, n_samples: int
    ) -> None:
        self.update_each, self.n_samples, self.calls = update_each, n_samples, 0
        self.generators: dict[torch.device, torch.Generator] = {}
        self.estimates: dict[Tensor, Tensor] = {}
        super().__init__(params, defaults, options)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**{name: value for name, value in vars(self).items() if not name.startswith('_')}, **state}

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the count of steps and the random numbers of the directions."""
        drawn = {str(device): generator.get_state().tolist() for device, generator in self.generators.items()}
        return {**super().state_dict(), 'calls': self.calls, 'generators': drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        super().load_state_dict(state_dict)
        self.calls = state_dict.get('calls', 0)
        for name, state in state_dict.get('generators', {}).items():
            generator = torch.Generator(name)
            generator.set_state(torch.tensor(state, dtype=torch.uint8))
            self.generators[torch.device(name)] = generator

    def measured(self, p: Tensor, diagonal: Tensor, group: dict[str, Any]) -> None:
        """Puts an estimate where the update will look for it."""
        raise NotImplementedError

    def begin(self) -> None:
        self.estimates = {}
        params = [p for group in self.param_groups for p in group['params'] if p.grad is not None]
        if self.calls % self.update_each == 0 and params:
            with torch.enable_grad():
                estimates = hutchinson(params, self.generators, self.n_samples)
            self.estimates = dict(zip(params, estimates, strict=True))
        self.calls += 1

    def prepare(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if p in self.estimates:
                self.measured(p, self.estimates.pop(p), group)
