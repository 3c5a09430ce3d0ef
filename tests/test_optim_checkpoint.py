"""Every optimizer goes on from a run's checkpoint as if it had never stopped."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from foveal.engine.checkpoint import pack_optimizer, unpack_optimizer
from foveal.optim import create_optimizer, list_optimizers

NAMES = [name for name in list_optimizers() if not name.startswith(('bnb', 'fused'))]
OTHERS = ['lookahead_sgd', 'lookahead_adamw']


def make(name: str) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(size)) for size in ((), (5,), (6, 4), (4, 3, 2, 2))]
    return params, create_optimizer(params, name, lr=0.01, weight_decay=0.1)


def advance(params: list[nn.Parameter], optimizer: Any, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        torch.manual_seed(step)
        optimizer.zero_grad()
        second = getattr(optimizer, 'second_order', False)
        loss = sum((p**2 * torch.randn(p.shape, generator=generator)).sum() for p in params)
        loss.backward(create_graph=second)  # type: ignore[union-attr]
        optimizer.step()


@pytest.mark.filterwarnings('ignore:Using backward')
@pytest.mark.parametrize('name', NAMES + OTHERS)
def test_goes_on(name: str) -> None:
    unbroken = make(name)
    advance(*unbroken, range(9))
    broken = make(name)
    advance(*broken, range(5))
    tensors, rest = pack_optimizer(broken[1])
    rest = json.loads(json.dumps(rest))
    resumed = make(name)
    for p, saved in zip(resumed[0], broken[0], strict=True):
        p.data.copy_(saved)
    unpack_optimizer(resumed[1], {key: value.clone() for key, value in tensors.items()}, rest)
    advance(*resumed, range(5, 9))
    for ours, theirs in zip(resumed[0], unbroken[0], strict=True):
        assert torch.equal(ours, theirs)
