"""The average of weights and the clipping of gradients, against their formulas and values measured on timm 1.0.31."""

import pytest
import torch
from torch import nn

from foveal.engine.clip import adaptive_clip_grad, clip_gradients
from foveal.engine.ema import Ema

STEPS = (0, 1, 2, 5, 6, 7, 10, 100)


@pytest.mark.parametrize(
    ('options', 'decays'),
    [
        ({}, (0, 0, 0.99, 0.99, 0.99, 0.99, 0.99, 0.99)),
        ({'warmup': True}, (0, 0, 0.370039, 0.658005, 0.697147, 0.726724, 0.784557, 0.953584)),
        (
            {'warmup': True, 'gamma': 2, 'power': 0.75, 'min_decay': 0.1},
            (0, 0, 0.262212, 0.561309, 0.609205, 0.646447, 0.721562, 0.947212),
        ),
        ({'update_after': 5, 'warmup': True}, (0, 0, 0, 0, 0, 0.370039, 0.658005, 0.951969)),
        ({'update_after': 5}, (0, 0, 0, 0, 0, 0.99, 0.99, 0.99)),
    ],
)
def test_decay(options: dict[str, float], decays: tuple[float, ...]) -> None:
    ema = Ema(nn.Linear(2, 2), decay=0.99, **options)  # type: ignore[arg-type]
    # the reference is rounded to six digits
    assert [ema.decay_at(step) for step in STEPS] == pytest.approx(decays, abs=1e-6)


@pytest.mark.parametrize('dtype', [None, torch.float64])
def test_average_is_the_weighted_sum_of_the_past(dtype: torch.dtype | None) -> None:
    model = nn.BatchNorm1d(3)
    ema = Ema(model, decay=0.9, dtype=dtype)
    weights = []
    for update in range(1, 21):
        with torch.no_grad():
            model.weight.copy_(torch.arange(3.0) * update)
            model.running_mean.fill_(update)
            model.num_batches_tracked += 1
        weights.append(model.weight.detach().clone())
        ema.update(model, update)
    expected = 0.9**19 * weights[0] + sum(0.1 * 0.9 ** (20 - i) * weights[i - 1] for i in range(2, 21))
    # twenty float32 roundings
    torch.testing.assert_close(ema.model.weight.float(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(ema.model.running_mean.float(), torch.full((3,), expected[1].item()), rtol=2e-6, atol=0)
    assert ema.model.num_batches_tracked == 20
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_bfloat16_average_moves_by_less_than_its_precision() -> None:
    """From 1 towards 2 by 0.001 a time: to the nearest, no step would ever be taken."""
    torch.manual_seed(0)
    model = nn.Linear(100, 100, bias=False)
    nn.init.ones_(model.weight)
    ema = Ema(model, decay=0.999, dtype=torch.bfloat16)
    ema.update(model, 1)
    nn.init.constant_(model.weight, 2.0)
    for update in range(2, 302):
        ema.update(model, update)
    # the mean of 10,000 values, each a random walk in steps of 2^-7: 0.01 is over ten standard errors
    assert ema.model.weight.float().mean().item() == pytest.approx(2 - 0.999**300, abs=0.01)


def test_decay_has_a_range() -> None:
    with pytest.raises(ValueError, match=r'decay must be in \[min_decay=0.0, 1\), got 1.0'):
        Ema(nn.Linear(1, 1), decay=1.0)


@pytest.mark.parametrize('shape', [(), (5,), (4, 3), (4, 3, 2, 2)])
def test_agc_bounds_each_unit(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    parameter = nn.Parameter(torch.randn(shape))
    parameter.grad = torch.randn(shape) * 0.05
    before = parameter.grad.clone()
    adaptive_clip_grad([parameter], 0.05)
    rows = (lambda t: t.detach().reshape(1, -1)) if len(shape) < 2 else (lambda t: t.detach().flatten(1))
    for weight, old, new in zip(rows(parameter), rows(before), rows(parameter.grad), strict=True):
        most = 0.05 * max(weight.norm().item(), 1e-3)
        torch.testing.assert_close(new, old * min(1.0, most / old.norm().item()))


def test_modes() -> None:
    for mode, expected in (('norm', [0.6, 0.8]), ('value', [1.0, 1.0])):
        parameter = nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([3.0, 4.0])
        clip_gradients([parameter, nn.Parameter(torch.zeros(1))], 1.0, mode)
        torch.testing.assert_close(parameter.grad, torch.tensor(expected), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="clip_mode 'nrom' is unknown; did you mean"):
        clip_gradients([], 1.0, 'nrom')
