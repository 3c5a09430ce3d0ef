"""Optimizers on a CUDA GPU against the same steps on the CPU: `make gpu`, on a machine that has one.

Compiled and replayed there, uncompiled here. Sums in another order differ by 1e-6 of a tensor after 8 steps; the bound
is 1e-5. Muon's products are in bfloat16 (8 bits), where another order is another rounding: 2e-3.
"""

import sys
from typing import Any

import torch
from torch import nn

from foveal.optim import create_optimizer
from foveal.optim.engine import Optimizer
from tests.deterministic import noise

NAMES = ['lion', 'cadamw', 'lamb', 'novograd', 'adafactor', 'adamp', 'sgdp', 'mars', 'adagrad', 'muon', 'nadamuon']
SHAPES = [(), (7,), (7,), (9, 5), (9, 5), (4, 3, 3, 3), (16, 1, 3, 3), (16, 1, 3, 3), (1000,), (1000,)]
SHAPES += [(300, 64), (300, 64), (64, 32, 3, 3), (64, 32, 3, 3), (1200, 1000)]  # the last is not replayed
STEPS = 8


def train(name: str, device: str, own_graph: bool = False, **options: Any) -> list[nn.Parameter]:
    """The parameters after some steps, the last ones at another rate; `own_graph` replays those as the user's graph."""
    params = [nn.Parameter(noise(f'p{i}', shape).to(device)) for i, shape in enumerate(SHAPES)]
    optimizer = create_optimizer(params, name, lr=0.01, weight_decay=0.1, **options)
    graph = torch.cuda.CUDAGraph() if own_graph else None
    for step in range(STEPS):
        for i, p in enumerate(params):
            gradient = noise(f'g{i}.{step}', tuple(p.shape)).to(device)
            p.grad = p.grad.copy_(gradient) if graph and p.grad is not None else gradient
        if step == STEPS - 3:
            optimizer.param_groups[0]['lr'] = 0.03
            if graph is not None:
                with torch.cuda.graph(graph):
                    optimizer.step()
        if graph is not None and step >= STEPS - 3:
            graph.replay()
        else:
            optimizer.step()
    if device == 'cuda' and isinstance(optimizer, Optimizer) and not own_graph:
        batches = [batch for _, plan in optimizer._plans.values() for batch in plan]
        replays: list[Any] = [replay for batch in batches for _, replay in batch.replays.values()]
        assert replays, f'{name}: nothing is replayed'
        assert all(replay.graph is not None for replay in replays), f'{name}: not recorded'
    return params


def main() -> int:
    if not torch.cuda.is_available():
        print('tests.gpu needs a CUDA GPU; torch sees none')
        return 2
    cases: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES]
    cases += [(name, {'capturable': True, 'own_graph': True}) for name in ('lion', 'lamb')]
    failed = 0
    for name, options in cases:
        here, there = train(name, 'cpu', compile=False), train(name, 'cuda', **options)
        apart = max(
            float((a.detach().double() - b.detach().cpu().double()).abs().max() / a.detach().double().abs().max())
            for a, b in zip(here, there, strict=True)
        )
        bound = 2e-3 if 'muon' in name else 1e-5
        failed += apart >= bound
        print(
            f'{name:12} {"own graph" if options else "":10} {apart:.1e}  {"ok" if apart < bound else "FAILED"}',
            flush=True,
        )
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
