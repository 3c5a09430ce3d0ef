"""Every optimizer of the reference against what it measured: parameters after 20 steps, defaults, and what it says.

A difference is relative to the larger of a tensor's largest value and the way that it has gone. Two orders of float32
arithmetic differ by about 1e-6 of that after 20 steps; the bound is 1e-5.
"""

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.optim import create_optimizer, get_optimizer_info, list_optimizers
from tests import reference
from tests.deterministic import noise
from tests.make_optim_reference import SHAPES, Case, shown, trajectory

TOLERANCE = 1e-5
# Newton-Schulz iterations in bfloat16 (8 bits): products summed in another order, as on another processor, are rounded
# otherwise, by 2^-9 of steps that move an element by a tenth. tests/test_optim_formulas.py has the formula in float64.
BFLOAT16 = 2e-3
ROWS = {row['name']: row for row in reference.rows('optim')}
CASES = [(name, i) for name, row in ROWS.items() for i in range(len(row['cases']))]
INFO = ('has_eps', 'has_momentum', 'has_betas', 'num_betas', 'second_order')

# What differs on purpose -> why. tests/test_optim_formulas.py holds each to its formula, docs/optimizers.md lists them.
DIFFERENT = {
    'cadan': 'the cautious mask covers the whole step (arXiv:2411.16085, algorithm 1), not its first term alone',
    'cadanw': 'likewise',
    'cmars mars_type': 'a masked sign step is scaled up for what was masked, as every cautious step is',
    'adafactorbv': 'a bfloat16 momentum is rounded where it is stored, not before it is used',
}


def different(name: str, case: Case) -> str:
    """The row of the table that holds for a case, or ''."""
    if 'adafactorbv' in name:
        options = case['options']
        rounded = options.get('momentum', 0.9) is not None and options.get('momentum_dtype') != 'float32'
        return 'adafactorbv' if rounded else ''
    if name == 'cmars' and case['options'].get('mars_type') == 'lion':
        return 'cmars mars_type'
    return name if name in DIFFERENT else ''


def distance(ours: Tensor, values: list[float], start: Tensor) -> float:
    """How far a tensor is from the reference's values, as the module's text says."""
    want, got = torch.tensor(values, dtype=torch.float64), shown(ours).double()
    scale = torch.maximum(want.abs().max(), (want - shown(start).double()).abs().max())
    return float((got - want).abs().max() / scale)


def run(name: str, case: Case, **more: Any) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Using backward.. with create_graph=True')  # what second order is
        return trajectory(create_optimizer, name, {**case, 'options': {**case['options'], **more}})


@pytest.mark.parametrize(('name', 'index'), [c for c in CASES if not different(c[0], ROWS[c[0]]['cases'][c[1]][0])])
def test_parameters_after_20_steps(name: str, index: int) -> None:
    case, values = ROWS[name]['cases'][index]
    ours, bound = run(name, case), BFLOAT16 if name.endswith('muon') else TOLERANCE
    wrong = {k: distance(ours[k], values[k], noise(k, SHAPES[k])) for k in SHAPES}
    assert not {k: d for k, d in wrong.items() if not d < bound}, case


@pytest.mark.parametrize('name', sorted(ROWS))
def test_a_name_says_what_it_is(name: str) -> None:
    row = ROWS[name]
    if name.startswith('lookahead_'):
        return
    info = dataclasses.asdict(get_optimizer_info(name))
    assert {key: info[key] for key in INFO} == {key: row[key] for key in INFO}
    ours = {k: list(v) if isinstance(v, tuple) else v for k, v in info['defaults'].items()}
    assert ours == (row['defaults'] or {})


# The peer's keys of a group that are another option here, or an engine's matter.
ELSEWHERE = {
    'relative_step',
    'beta1',
    'foreach',
    'capturable',
    'differentiable',
    'fused',
    'caution',
    'maximize',
    'max_lr_snapshot',
    'verbose',
}


@pytest.mark.parametrize('name', sorted(name for name, row in ROWS.items() if 'group' in row))
def test_defaults_are_the_published_ones(name: str) -> None:
    given = dict(lr=0.1) if 'sgdp' in name else {}
    group = create_optimizer([torch.nn.Parameter(torch.zeros(2, 2))], name, **given).param_groups[0]
    ours = {key: list(v) if isinstance(v, tuple) else v for key, v in group.items()}
    ours = {key: str(v).removeprefix('torch.') if isinstance(v, torch.dtype) else v for key, v in ours.items()}
    want = {key: value for key, value in ROWS[name]['group'].items() if key not in ELSEWHERE}
    assert {key: ours.get(key, 'missing') for key in want} == want


def test_every_name_is_there() -> None:
    assert {name for name in ROWS if not name.startswith('lookahead_')} <= set(list_optimizers())


def test_the_table_of_differences_is_used() -> None:
    assert {different(n, ROWS[n]['cases'][i][0]) for n, i in CASES} - {''} == set(DIFFERENT)


@pytest.mark.parametrize('name', ['adanw', 'cadoptc', 'laprop', 'madgrad', 'mars', 'nmuon'])
def test_compiled(name: str) -> None:
    """Kernels instead of calls: the same parameters."""
    case, values = ROWS[name]['cases'][1]
    ours, bound = run(name, case, compile=True), BFLOAT16 if name.endswith('muon') else TOLERANCE
    assert all(distance(ours[k], values[k], noise(k, SHAPES[k])) < bound for k in SHAPES)
