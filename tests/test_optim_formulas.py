"""Optimizers against the formulas of their papers in float64: those that no reference has, and differences.

Both sides compute in float64, so they differ by rounding alone: 1e-9 of the largest value is far above that and far
below what a misplaced epsilon does.
"""

import copy
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor

from foveal.optim import create_optimizer
from foveal.optim.hessian import hutchinson
from foveal.optim.newton_schulz import orthogonalize, polynomials
from foveal.traced import can_compile
from tests import reference
from tests.deterministic import noise
from tests.make_optim_reference import SHAPES, shown, trajectory

Formula = Callable[[Tensor, list[Tensor]], Tensor]
ROWS = {row['name']: row for row in reference.rows('optim')}


def starts(shape: tuple[int, ...], steps: int = 25) -> tuple[Tensor, list[Tensor]]:
    """A parameter and its gradients."""
    return noise('p', shape).double(), [noise(f'g{t}', shape).double() + 0.3 for t in range(steps)]


def stepped(name: str, p: Tensor, gradients: list[Tensor], **options: Any) -> tuple[Tensor, torch.optim.Optimizer]:
    """A parameter after steps by the optimizer."""
    q = torch.nn.Parameter(p.clone())
    optimizer = create_optimizer([q], name, **options)
    for g in gradients:
        q.grad = g.clone()
        optimizer.step()
    return q.detach(), optimizer


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


def mask(d: Tensor, g: Tensor) -> Tensor:
    """Cautious optimizers, arXiv:2411.16085, algorithm 1, scaled by the mean of the mask."""
    keep = (d * g > 0).double()
    return d * keep / keep.mean().clamp(min=1e-3)


def test_cautious_adan() -> None:
    p, gradients = starts((7, 5))
    ours, _ = stepped('cadan', p, gradients, lr=0.03, weight_decay=0.1, betas=(0.9, 0.8, 0.95), eps=1e-3)
    m, v, n, before = 0 * p, 0 * p, 0 * p, gradients[0]
    for t, g in enumerate(gradients, 1):
        change, before = g - before, g
        m, v = 0.9 * m + 0.1 * g, 0.8 * v + 0.2 * change
        n = 0.95 * n + 0.05 * (g + 0.8 * change) ** 2
        d = m / (1 - 0.9**t) + 0.8 * v / (1 - 0.8**t)
        p = (p - 0.03 * mask(d / ((n / (1 - 0.95**t)).sqrt() + 1e-3), g)) / (1 + 0.03 * 0.1)
    close(ours, p)


def test_cautious_mars_lion() -> None:
    p, gradients = starts((7, 5))
    ours, _ = stepped('cmars', p, gradients, lr=0.03, weight_decay=0.1, mars_type='lion', gamma=0.2)
    m, before = 0 * p, gradients[0]
    for g in gradients:
        c, before = g + 0.2 * 0.9 / 0.1 * (g - before), g
        m = 0.9 * m + 0.1 * c / c.norm().clamp(min=1)
        p = p - 0.03 * (mask(m.sign(), g) + 0.1 * p)
    close(ours, p)


@pytest.mark.parametrize('compile', [False, True])
@pytest.mark.parametrize('name', ['adafactor', 'adafactorbv'])
@pytest.mark.parametrize('shape', [(96, 64), (40, 96), (33, 20), (64, 24, 3, 3)])
def test_adafactor_however_its_columns_are_summed(shape: tuple[int, ...], name: str, compile: bool) -> None:
    """arXiv:1804.04235, algorithm 4, with `clip` of algorithm 5: by 32, by 8, all at once; sides in either order."""
    p, gradients = starts(shape)
    own = {'adafactor': {'clip_threshold': 0.9}, 'adafactorbv': {'clipping_threshold': 0.9, 'momentum': None}}[name]
    ours, _ = stepped(name, p, gradients, lr=0.03, weight_decay=0.1, compile=compile and can_compile('cpu'), **own)
    rows, columns = torch.zeros(1), torch.zeros(1)
    for t, g in enumerate(gradients, 1):
        rows = rows + t**-0.8 * ((g**2 + 1e-30).mean(1, keepdim=True) - rows)
        columns = columns + t**-0.8 * ((g**2 + 1e-30).mean(0, keepdim=True) - columns)
        u = g / (rows * columns / rows.mean(0, keepdim=True)).sqrt()
        p = p - 0.03 * (u / (u.square().mean().sqrt() / 0.9).clamp(min=1) + 0.1 * p)
    close(ours, p)


@pytest.mark.parametrize('name', ['adafactorbv', 'cadafactorbvc'])
def test_adafactor_with_a_bfloat16_momentum(name: str) -> None:
    """A momentum stored with 8 bits: 20 roundings of 2^-9, each averaged away like any past gradient."""
    case, values = ROWS[name]['cases'][1]
    ours = trajectory(create_optimizer, name, case)
    full = trajectory(create_optimizer, name, {**case, 'options': {'momentum_dtype': 'float32'}})
    for key, start in ((key, noise(key, shape)) for key, shape in SHAPES.items()):
        way = (full[key] - start).abs().max() + full[key].abs().max()
        assert (ours[key] - full[key]).abs().max() <= 2**-8 * way
        assert (shown(ours[key]) - torch.tensor(values[key])).abs().max() <= 2**-7 * way


def best_quintic(low: mpf, high: mpf) -> list[mpf]:
    """The odd quintic that is nearest to one on [low, high], by Remez' algorithm (arXiv:2505.16932, algorithm 3)."""
    q, r, error, before = (3 * low + high) / 4, (low + 3 * high) / 4, mpf('inf'), mpf('nan')
    while not abs(before - error) <= abs(error) / 10**30:
        before = error
        points = enumerate((low, q, r, high))
        system = mpmath.matrix([[x, x**3, x**5, (-1) ** i] for i, x in points])
        a, b, c, error = mpmath.lu_solve(system, mpmath.matrix([1] * 4))
        root = mpmath.sqrt(9 * b**2 - 20 * a * c)
        q, r = (mpmath.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
    return [a, b, c]


@mpmath.workdps(100)  # on the last interval, 5e-6 long, the equations are nearly singular
def polar_express(
    safety: str, lowest: str = '0.001', cushion: str = '0.02', steps: int = 8
) -> list[tuple[float, float, float]]:
    """The composition of quintics that is best on singular values in [lowest, 1] (arXiv:2505.16932, algorithm 1).

    Args:
        safety: How far, relatively, rounding may carry singular values above what they should be.
        lowest: Least singular value.
        cushion: A step treats singular values below this share of the largest as if they were there, for stability.
        steps: How many; the last is the limit of all that follow.
    """
    low, high, rows = mpf(lowest), mpf(1), []
    for step in range(steps):
        polynomial = best_quintic(max(low, mpf(cushion) * high), high)
        if mpf(cushion) * high > low:  # centre again around one
            factor = 2 / (value(polynomial, low) + value(polynomial, high))
            polynomial = [factor * k for k in polynomial]
        if step < steps - 1:
            polynomial = [k / (1 + mpf(safety)) ** power for k, power in zip(polynomial, (1, 3, 5), strict=True)]
        a, b, c = (float(k) for k in polynomial)
        rows.append((a, b, c))
        low = value(polynomial, low)
        high = 2 - low
    return rows


def value(polynomial: list[mpf], x: mpf) -> mpf:
    """An odd quintic at x."""
    return sum(k * x**power for k, power in zip(polynomial, (1, 3, 5), strict=True))


def test_polar_express_has_the_published_polynomials() -> None:
    """arXiv:2505.16932, the listing that comes with the algorithm; float32 holds seven of its digits."""
    published = [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115956949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    ]
    ours = polar_express('0', cushion='0.02407327424182761')[:6]
    torch.testing.assert_close(torch.tensor(ours).double(), torch.tensor(published).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(('preset', 'safety'), [('polar_express', '0.01'), ('polar_express_safer', '0.02')])
def test_polar_express_is_the_best_composition(preset: str, safety: str) -> None:
    ours, best = (torch.tensor(rows).double() for rows in (polynomials(preset), polar_express(safety)))
    torch.testing.assert_close(ours, best, rtol=1e-6, atol=0)  # the table's last row was solved in float64


@pytest.mark.parametrize('shape', [(6, 10), (30, 7), (3, 8, 8)])
@pytest.mark.parametrize('preset', ['original', 'quintic', 'polar_express', 'polar_express_safer'])
def test_newton_schulz_acts_on_singular_values(preset: str, shape: tuple[int, ...]) -> None:
    x = noise('x', shape).double()
    u, s, v = torch.linalg.svd(x / x.norm(dim=(-2, -1), keepdim=True), full_matrices=False)
    for a, b, c in (polynomials(preset) * 5)[:5]:
        s = a * s + b * s**3 + c * s**5
    ours = orthogonalize(x, 5, polynomials(preset), eps=1e-7)
    close(ours.view(shape), u @ (s[..., None] * v))
    rounded = orthogonalize(x.float(), 5, polynomials(preset), eps=1e-7).double().view(shape)
    # roundings of 2^-9 at first, which the steep polynomials of the first steps multiply by up to 8 each
    assert (rounded - ours.view(shape)).norm() <= 2**-3 * ours.norm()


@pytest.mark.parametrize('nesterov', [False, True])
def test_muon(nesterov: bool) -> None:
    p, gradients = starts((6, 10))
    ours, _ = stepped('muon', p, gradients, lr=0.03, weight_decay=0.1, momentum=0.8, nesterov=nesterov)
    m = 0 * p
    for g in gradients:
        m = 0.8 * m + 0.2 * g
        d = 0.8 * m + 0.2 * g if nesterov else m
        u, s, v = torch.linalg.svd(d / d.norm(), full_matrices=False)
        for a, b, c in polynomials('quintic'):
            s = a * s + b * s**3 + c * s**5
        p = p * (1 - 0.03 * 0.1) - 0.03 * 0.2 * 10**0.5 * (u * s) @ v
    close(ours, p)


def test_schedule_free_adamw() -> None:
    """arXiv:2405.15682, algorithm 1, with x, y and z as in the paper."""
    x, gradients = starts((5, 4))
    options = dict(lr=0.02, weight_decay=0.1, warmup_steps=5, r=1.0, eps=1e-3)
    ours, optimizer = stepped('adamwschedulefree', x, gradients, **options)
    z, y, v, total = x, x, 0 * x, 0.0
    for t, g in enumerate(gradients, 1):
        v = 0.999 * v + 0.001 * g**2
        rate = 0.02 * min(1, t / 5)
        z = z - rate * (g / ((v / (1 - 0.999**t)).sqrt() + 1e-3) + 0.1 * y)
        total += t * rate**2
        x = x + t * rate**2 / total * (z - x)
        y = 0.1 * z + 0.9 * x
    close(ours, y)
    parameter = optimizer.param_groups[0]['params'][0]
    optimizer.eval()
    close(parameter.detach(), x)
    with pytest.raises(RuntimeError, match='train'):
        optimizer.step()
    optimizer.train()
    close(parameter.detach(), y)


def test_schedule_free_sgd() -> None:
    x, gradients = starts((5, 4))
    ours, _ = stepped('sgdschedulefree', x, gradients, lr=0.1, weight_decay=0.1, momentum=0.8)
    z, y = x, x
    for t, g in enumerate(gradients, 1):
        z = z - 0.1 * (g + 0.1 * y)
        x = x + (z - x) / t
        y = 0.2 * z + 0.8 * x
    close(ours, y)


def test_soap() -> None:
    """arXiv:2409.11321, algorithm 3."""
    w, gradients = starts((4, 4))  # square, so that no eigenvalue is zero twice
    ours, _ = stepped('soap', w, gradients, lr=0.02, weight_decay=0.1, precondition_frequency=3, eps=1e-3)
    m, v = 0 * w, 0 * w
    left, right = 0.05 * gradients[0] @ gradients[0].T, 0.05 * gradients[0].T @ gradients[0]
    ql, qr = (torch.linalg.eigh(factor)[1].flip(1) for factor in (left, right))
    for t, g in enumerate(gradients, 1):
        m = 0.95 * m + 0.05 * g
        turned = ql.T @ g @ qr
        v = 0.95 * v + 0.05 * turned**2
        d = (ql.T @ m @ qr) / (1 - 0.95**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-3)
        w = w * (1 - 0.02 * 0.1) - 0.02 * ql @ d @ qr.T
        if t > 1:
            left, right = 0.95 * left + 0.05 * g @ g.T, 0.95 * right + 0.05 * g.T @ g
        if t % 3 == 0:
            ql, qr = torch.linalg.qr(left @ ql)[0], torch.linalg.qr(right @ qr)[0]
    close(ours, w)


def test_prodigy() -> None:
    """arXiv:2306.06101, algorithm 4, with the decay of AdamW."""
    p, gradients = starts((5, 4))
    ours, optimizer = stepped('prodigy', p, gradients, d0=1e-3, weight_decay=0.1, eps=1e-3)
    start, m, v, s, r, d = p, 0 * p, 0 * p, 0 * p, 0.0, 1e-3
    beta3 = 0.999**0.5
    for g in gradients:
        r = beta3 * r + d**2 * float((g * (start - p)).sum())
        s = beta3 * s + d**2 * g
        m, v = 0.9 * m + 0.1 * d * g, 0.999 * v + 0.001 * d**2 * g**2
        before, d = d, max(d, r / float(s.abs().sum()))
        p = p - before * 0.1 * p - before * m / (v.sqrt() + d * 1e-3)
    close(ours, p)
    assert optimizer.param_groups[0]['d'] == pytest.approx(d, rel=1e-9)
    assert d > 1e-3


def test_sophia() -> None:
    """arXiv:2305.14342, algorithm 3, on a loss whose Hessian is diagonal, so that any random direction measures it."""
    start, gradients = starts((5, 4), 12)
    curve = noise('curve', (5, 4)).double() + 0.5
    q = torch.nn.Parameter(start.clone())
    optimizer = create_optimizer([q], 'sophia', lr=0.02, weight_decay=0.1, gamma=0.5, update_each=5)
    p, m, h = start, 0 * start, 0 * start
    for t, c in enumerate(gradients):
        slope = torch.autograd.grad((c * q + curve * q**3).sum(), q, create_graph=True)[0]
        q.grad = slope
        optimizer.step()
        q.grad = None
        m = 0.96 * m + 0.04 * (c + 3 * curve * p**2)
        h = 0.99 * h + 0.01 * 6 * curve * p if t % 5 == 0 else h
        p = p * (1 - 0.02 * 0.1) - 0.02 * (m / (0.5 * h).clamp(min=1e-12)).clamp(-1, 1)
    close(q.detach(), p)


def test_hutchinson() -> None:
    """Random directions give the Hessian's diagonal on average: 4,000 of them to four standard errors."""
    matrix = noise('m', (6, 6)).double()
    p = torch.nn.Parameter(noise('p', (6,)).double())
    p.grad = torch.autograd.grad(p @ matrix @ p / 2, p, create_graph=True)[0]
    hessian = (matrix + matrix.T) / 2
    error = (hessian.square().sum(1) - hessian.diagonal() ** 2).sqrt() / 4000**0.5
    assert ((hutchinson([p], 4000)[0] - hessian.diagonal()).abs() <= 4 * error).all()
    p.grad = p.grad.detach()
    with pytest.raises(RuntimeError, match='create_graph'):
        hutchinson([p], 1)


@pytest.mark.parametrize(
    'name', ['kron', 'lookahead_adamw', 'soap', 'prodigy', 'adamwschedulefree', 'nadamuon', 'laprop']
)
def test_resumed_runs_go_on_as_if_never_stopped(name: str) -> None:
    p, gradients = starts((6, 8), 20)
    through, _ = stepped(name, p, gradients, lr=0.03)
    half, optimizer = stepped(name, p, gradients[:9], lr=0.03)
    again = torch.nn.Parameter(half)
    resumed = create_optimizer([again], name, lr=0.03)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for g in gradients[9:]:
        again.grad = g.clone()
        resumed.step()
    close(again.detach(), through)


@pytest.mark.filterwarnings('ignore:Using backward.. with create_graph=True')
@pytest.mark.parametrize(('update_each', 'names'), [(1, {'exp_avg', 'exp_hessian_diag_sq'}), (3, {'hessian'})])
def test_adahessian_keeps_the_diagonal_only_where_later_steps_need_it(update_each: int, names: set[str]) -> None:
    def run(q: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> Tensor:
        for t in steps:
            q.grad = None
            (noise(f'c{t}', (5, 4)) @ q).square().sum().backward(create_graph=True)
            optimizer.step()
        return q.detach()

    def make(p: Tensor) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        q = torch.nn.Parameter(p.clone())
        return q, create_optimizer([q], 'adahessian', lr=0.02, update_each=update_each)

    through, half = make(noise('p', (4, 3))), make(noise('p', (4, 3)))
    run(*half, range(5))
    again = make(half[0].detach())
    again[1].load_state_dict(copy.deepcopy(half[1].state_dict()))
    assert torch.equal(run(*again, range(5, 9)), run(*through, range(9)))
    assert set(again[1].state[again[0]]) - {'step'} == names | {'exp_avg', 'exp_hessian_diag_sq'}


@pytest.mark.filterwarnings('ignore:Using backward.. with create_graph=True')
@pytest.mark.parametrize('name', ['kron', 'lookahead_adamw', 'adahessian', 'prodigy', 'muon'])
def test_copies_step_like_the_original(name: str) -> None:
    model = torch.nn.Linear(6, 5)
    optimizer = create_optimizer(model, name, lr=0.03)
    pairs = [(model, optimizer)]
    for t in range(4):
        if t == 2:
            pairs.append(copy.deepcopy((model, optimizer)))
        for net, opt in pairs:
            opt.zero_grad()
            (net(noise(f'x{t}', (3, 6))) ** 3).sum().backward(create_graph=getattr(opt, 'second_order', False))
            opt.step()
            opt.zero_grad()
    torch.testing.assert_close(pairs[1][0].weight, model.weight, rtol=0, atol=0)


RATES = {'adamwschedulefree': 0.03, 'sgdschedulefree': 1.0, 'soap': 0.02, 'sophia': 0.01, 'prodigy': 1.0, 'kron': 0.01}


@pytest.mark.filterwarnings('ignore:Using backward.. with create_graph=True')
@pytest.mark.parametrize('name', sorted(RATES))
def test_converges(name: str) -> None:
    """A small network learns what another computes: 300 steps take the error below a twentieth."""
    x, target = noise('x', (200, 12)), torch.tanh(noise('x', (200, 12)) @ noise('w', (12, 3)))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
    optimizer = create_optimizer(model, name, lr=RATES[name])
    for _ in range(300):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward(create_graph=getattr(optimizer, 'second_order', False))
        optimizer.step()
    if name.endswith('schedulefree'):
        optimizer.eval()
    assert (model(x) - target).square().mean() < 0.05 * target.square().mean()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(ns_coefficients='quintc'), 'quintic'),
        (dict(ns_coefficients=(1.0, 2.0)), r'\(a, b, c\)'),
        (dict(adjust_lr_fn='originl'), 'original'),
        (dict(conv_mode='skip'), 'flatten'),
        (dict(algo='adamuon', adjust_lr_fn='original'), 'match_rms_adamw'),
    ],
)
def test_muon_says_what_is_legal(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_optimizer([torch.nn.Parameter(torch.zeros(4, 4))], 'muon', **options)
