"""The optimizer engine: what every algorithm gets from it. What the formulas compute is in test_optim_parity.py."""

import copy
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal import optim
from foveal.engine.checkpoint import pack_optimizer, unpack_optimizer
from foveal.optim import (
    batch,
    create_optimizer,
    engine,
    get_optimizer_class,
    get_optimizer_info,
    kernel,
    list_optimizers,
)
from foveal.optim.program import kernels, round_randomly
from foveal.traced import can_compile
from tests.deterministic import noise

SHAPES = [(), (7,), (7,), (9, 5), (9, 5), (24, 20), (4, 3, 3, 3)]
# one of each way in which the engine hands tensors over: joined, rows, structured, state of other shapes, by step
NAMES = ['lion', 'cadamw', 'lamb', 'novograd', 'adafactor', 'adamp', 'rmsproptf', 'radabelief', 'nadamlegacy']


def parameters(shapes: list[Any] = SHAPES) -> list[nn.Parameter]:
    return [nn.Parameter(noise(f'p{i}', shape)) for i, shape in enumerate(shapes)]


def train(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], start: int = 0, steps: int = 4) -> list[Tensor]:
    """The parameters after some steps with gradients that depend on the number of the step alone."""
    for step in range(start, start + steps):
        for i, p in enumerate(params):
            p.grad = noise(f'g{i}.{step}', tuple(p.shape)).to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in params]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference, relative to the largest value of each tensor."""
    return max(float((x.double() - y.double()).abs().max() / y.double().abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize('name', NAMES)
def test_joined_equals_one_by_one(name: str) -> None:
    joined, single = parameters(), parameters()
    a = train(create_optimizer(joined, name, lr=0.01, weight_decay=0.1), joined)
    b = train(create_optimizer(single, name, lr=0.01, weight_decay=0.1, foreach=False), single)
    assert apart(a, b) < 1e-6  # sums in another order


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
@pytest.mark.parametrize('name', ['cadamw', 'lamb', 'sgdp', 'adafactor'])
def test_compiled_equals_eager(name: str) -> None:
    foreach = None if name == 'cadamw' else False
    # larger than 64, for a kernel for all of a rank
    shapes = [*SHAPES, (65,), (65,), (1000,), (333, 7), (20, 20), (64, 24), (96, 20)]
    fast, slow = parameters(shapes), parameters(shapes)
    a = train(create_optimizer(fast, name, lr=0.01, weight_decay=0.1, compile=True, foreach=foreach), fast)
    b = train(create_optimizer(slow, name, lr=0.01, weight_decay=0.1, compile=False), slow)
    assert apart(a, b) < 1e-5  # fused multiply-adds and vectorised roots round otherwise


class BySize(optim.Optimizer):
    """A formula that takes another course for other sizes."""

    lr: float = 0.1
    weight_decay: float = 0.0

    @staticmethod
    def share(size: Any) -> float:
        return 1 if size % 2 == 0 else 2

    @classmethod
    def update(cls, p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
        return h.lr * g * cls.share(p.shape[0])


class OfSize(BySize):
    """A formula that takes a size for a constant."""

    @staticmethod
    def share(size: Any) -> float:
        return 1 / int(size)


def step_by_size(algorithm: type[BySize]) -> None:
    """A step of several sizes, each of which must take its own course."""
    params = parameters([(100,), (101,), (200,), (301,)])
    before = [p.detach().clone() for p in params]
    train(algorithm(params, compile=True, foreach=False), params, steps=1)
    for p, start in zip(params, before, strict=True):
        assert p.grad is not None
        assert torch.allclose(p, start - 0.1 * algorithm.share(len(p)) * p.grad, rtol=0, atol=1e-7)


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
def test_a_kernel_is_not_used_for_sizes_of_another_course() -> None:
    step_by_size(BySize)


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
def test_what_has_no_kernel_for_any_size_runs_uncompiled() -> None:
    with pytest.warns(UserWarning, match='a step of OfSize runs uncompiled: the function depends on the sizes'):
        step_by_size(OfSize)


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
@pytest.mark.parametrize('name', [*NAMES, 'adafactorbv', 'cadafactor', 'mars', 'cmars', 'cadamp', 'csgdp', 'clamb'])
def test_kernels_of_any_size_serve_single_tensors_and_stacks(name: str) -> None:
    """Else a warning would tell."""
    params = parameters([(100,), (100,), (200,), (96, 40), (24, 48), (24, 17, 3, 3), (20000,), (300, 64)])
    train(create_optimizer(params, name, lr=0.01, weight_decay=0.1, compile=True), params, steps=1)


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
@pytest.mark.parametrize(('name', 'bound'), [('lion', 1e-5), ('lamb', 1e-5), ('adafactor', 1e-5), ('muon', 2e-3)])
def test_what_a_gpu_replays_reads_gradients_and_rates_of_now(
    name: str, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the CUDA graphs themselves, in whose place a function is called; `make gpu` has those. Muon's products
    are in bfloat16."""
    monkeypatch.setattr(engine, 'can_record', lambda _: True)
    monkeypatch.setattr(batch, 'Replay', lambda function, _: function)
    monkeypatch.setattr(kernel, 'hoist', lambda *_: lambda numbers: numbers)  # as on a GPU
    kernels.cache_clear()
    results = []
    for options in {'compile': True}, {'compile': False, 'foreach': False}:
        params = parameters([*SHAPES, (24, 20), (40, 96)])
        optimizer = create_optimizer(params, name, lr=0.01, weight_decay=0.1, **options)
        train(optimizer, params)
        optimizer.param_groups[0]['lr'] = 0.1
        results.append(train(optimizer, params, start=4))
    kernels.cache_clear()
    assert apart(*results) < bound


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
def test_kernels_of_torchs_cache_fit_whatever_the_strides_of_single_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """adafactorbv's means have odd ones; the second time the kernel comes from the cache, with conditions on them."""
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))
    for name in ('adafactorbv', 'adafactorbvc'):
        params = parameters([(300, 200), (1, 57, 192), (40, 50)])
        train(create_optimizer(params, name, lr=1e-4, weight_decay=0.1, compile=True), params, steps=1)


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
def test_what_has_no_kernel_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its numbers from the device, which a CUDA graph cannot."""
    monkeypatch.setattr(engine, 'can_record', lambda _: True)
    monkeypatch.setattr(batch, 'Replay', None)
    params = parameters([(100,), (101,)])
    with pytest.warns(UserWarning, match='a step of OfSize runs uncompiled'):
        train(OfSize(params, compile=True), params)
    for p, start in zip(params, parameters([(100,), (101,)]), strict=True):
        assert not torch.equal(p, start)


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
def test_a_step_between_forward_and_backward_is_noticed() -> None:
    (p,) = params = parameters([(100,)])
    p.grad = torch.ones_like(p)
    optimizer = optim.Lion(params, compile=True)
    optimizer.step()
    loss = p.square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
def test_compiled_follows_the_learning_rate_and_the_betas() -> None:
    fast, slow = parameters(), parameters()
    optimizers = [optim.Lion(p, lr=0.01, compile=p is fast) for p in (fast, slow)]
    results = []
    for params, optimizer in zip((fast, slow), optimizers, strict=True):
        train(optimizer, params)
        optimizer.param_groups[0].update(lr=0.5, betas=(0.5, 0.6), weight_decay=0.3)
        results.append(train(optimizer, params, start=4))
    assert apart(*results) < 1e-5


def test_states_may_be_taken_away_or_replaced() -> None:
    """As people do to begin anew: what was there before may not linger in what a step is planned with."""
    (p, q), (fresh,) = parameters([(7,), (40,)]), parameters([(40,)])
    optimizer = optim.Lion([p, q], lr=0.01)
    train(optimizer, [p, q])
    optimizer.state.clear()
    optimizer.state[p] = {'step': 0, 'exp_avg': torch.zeros(7)}
    with torch.no_grad():
        q.copy_(fresh)
    for parameter in (q, fresh):
        parameter.grad = torch.linspace(-1, 1, 40)
    optimizer.step()
    optim.Lion([fresh], lr=0.01).step()
    assert optimizer.state[p]['exp_avg'].any()
    assert torch.equal(q, fresh)


def test_strides_of_parameters_and_gradients_do_not_matter() -> None:
    for name in ('adamwlegacy', 'lamb', 'adamp'):
        plain, permuted = parameters(), parameters()
        permuted[6] = nn.Parameter(permuted[6].detach().to(memory_format=torch.channels_last))
        permuted[5] = nn.Parameter(torch.stack([permuted[5].detach()] * 2, -1)[..., 0])  # not dense
        a = train(create_optimizer(plain, name, lr=0.01, weight_decay=0.1), plain)
        b = train(create_optimizer(permuted, name, lr=0.01, weight_decay=0.1), permuted)
        assert apart(a, b) < 1e-6


@pytest.mark.parametrize('name', NAMES)
def test_state_dict_continues_equally(name: str) -> None:
    params = parameters()
    optimizer = create_optimizer(params, name, lr=0.01, weight_decay=0.1)
    train(optimizer, params)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    restored = create_optimizer(others, name, lr=0.5)
    restored.load_state_dict(torch.load(file, weights_only=True))
    packed = create_optimizer(copied := [nn.Parameter(p.detach().clone()) for p in params], name, lr=0.5)
    unpack_optimizer(packed, *pack_optimizer(optimizer))
    expected = train(optimizer, params, start=4)
    assert apart(train(restored, others, start=4), expected) == 0
    assert apart(train(packed, copied, start=4), expected) == 0
    assert restored.param_groups[0]['lr'] == 0.01


def test_loading_copies() -> None:
    params, others = parameters(), parameters()
    first, second = optim.Lion(params, lr=0.01), optim.Lion(others, lr=0.01)
    train(first, params)
    state = first.state_dict()
    before = copy.deepcopy(state)
    second.load_state_dict(state)
    train(second, others)
    for key, entries in before['state'].items():
        assert torch.equal(entries['exp_avg'], state['state'][key]['exp_avg'])


@pytest.mark.parametrize(('state_dtype', 'kept'), [(None, torch.bfloat16), ('float32', torch.float32)])
def test_state_keeps_its_own_precision_in_another_dtype(state_dtype: Any, kept: torch.dtype) -> None:
    params = parameters()
    optimizer = optim.NvNovoGrad(params, lr=0.01)
    train(optimizer, params)
    low = [nn.Parameter(p.detach().bfloat16()) for p in params]
    loaded = optim.NvNovoGrad(low, lr=0.01, state_dtype=state_dtype)
    state = optimizer.state_dict()
    for group in state['param_groups']:
        group['state_dtype'] = state_dtype
    loaded.load_state_dict(state)
    entries = loaded.state[low[5]]
    assert entries['exp_avg'].dtype == kept
    assert entries['exp_avg_sq'].dtype == torch.float32  # one number a tensor stays exact
    assert torch.equal(entries['exp_avg_sq'], optimizer.state[params[5]]['exp_avg_sq'])
    train(loaded, low, start=4)
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in low)


def test_mixed_dtypes_in_one_list() -> None:
    params = [nn.Parameter(noise(str(d), (6,)).to(d)) for d in (torch.float32, torch.bfloat16, torch.float64)]
    alone = [nn.Parameter(p.detach().clone()) for p in params]
    a = train(optim.AdamWLegacy(params, lr=0.01), params)
    for i, p in enumerate(alone):
        optimizer = optim.AdamWLegacy([p], lr=0.01)
        for step in range(4):
            p.grad = noise(f'g{i}.{step}', (6,)).to(p.dtype)
            optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(a, alone, strict=True))


def test_stochastic_rounding_is_right_on_average() -> None:
    torch.manual_seed(0)
    x = torch.full((200_000,), 1.0 + 2**-10)  # an eighth of the way from 1 to the next bfloat16
    rounded = round_randomly(x).double()
    assert set(rounded.unique().tolist()) == {1.0, 1.0 + 2**-7}
    # the standard error of the mean is 2^-7 sqrt(1/8 * 7/8 / 200000) = 5.8e-6; five of them
    assert abs(rounded.mean().item() - (1 + 2**-10)) < 3e-5
    special = torch.tensor([float('inf'), -float('inf'), float('nan'), 0.0, -3.0])
    assert torch.equal(round_randomly(special), special.bfloat16()) or round_randomly(special)[2].isnan()


def test_stochastic_rounding_lets_small_steps_add_up() -> None:
    torch.manual_seed(0)
    ends = {}
    for rounds in (False, True):
        p = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = optim.SGDW([p], lr=1e-4, stochastic_rounding=rounds)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[rounds] = p.detach().double().mean().item()
    assert ends[False] == 1.0  # each step is below half the distance to the next number
    assert ends[True] == pytest.approx(0.99, abs=5e-4)  # five standard errors of the mean


def test_closure_is_run_with_gradients_and_its_loss_returned() -> None:
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = optim.Lion([p], lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == pytest.approx(1.9)


def test_maximize_is_minimising_the_negative() -> None:
    up, down = parameters(), parameters()
    a, b = (optim.AdamWLegacy(p, lr=0.01, maximize=p is up) for p in (up, down))
    for step in range(3):
        for i, (p, q) in enumerate(zip(up, down, strict=True)):
            p.grad = noise(f'g{i}.{step}', tuple(p.shape))
            q.grad = -p.grad
        a.step()
        b.step()
    assert all(torch.equal(p, q) for p, q in zip(up, down, strict=True))


@pytest.mark.parametrize('name', ['adamwlegacy', 'lamb', 'lion', 'radamlegacy'])
def test_learning_rate_as_a_tensor_and_capturable(name: str) -> None:
    plain, tensor = parameters(), parameters()
    a = train(create_optimizer(plain, name, lr=0.01, weight_decay=0.1), plain)
    optimizer = create_optimizer(tensor, name, lr=torch.tensor(0.01), weight_decay=0.1, capturable=True)  # type: ignore[arg-type]
    assert apart(a, train(optimizer, tensor)) < 1e-5  # the rate and the step in float32
    assert isinstance(optimizer.state[tensor[0]]['step'], Tensor)


def test_parameters_without_gradient_and_empty_groups_are_left_alone() -> None:
    params = parameters()
    optimizer = optim.Lamb([{'params': params}, {'params': []}, {'params': [nn.Parameter(torch.empty(0))]}], lr=0.01)
    before = params[3].detach().clone()
    for step in range(3):
        for i, p in enumerate(params):
            p.grad = None if i == 3 and step < 2 else noise(f'g{i}.{step}', tuple(p.shape))
        optimizer.step()
        assert step == 2 or torch.equal(params[3], before)
    assert optimizer.state[params[3]]['step'] == 1
    assert optimizer.state[params[4]]['step'] == 3
    # a late start has its own bias correction: the first step of Adam is of size one before the trust ratio
    alone = nn.Parameter(before.clone())
    single = optim.Lamb([alone], lr=0.01, max_grad_norm=None)
    alone.grad = noise('g3.2', tuple(before.shape))
    single.step()
    assert (alone - params[3]).abs().max() < 1e-5  # the global clip changes the moments' scale, against eps 1e-6


def test_gradients_are_not_modified() -> None:
    for name in NAMES:
        params = parameters()
        train(create_optimizer(params, name, lr=0.01, weight_decay=0.1, maximize=True), params, steps=2)
        assert all(torch.equal(p.grad, noise(f'g{i}.1', tuple(p.shape))) for i, p in enumerate(params)), name  # type: ignore[arg-type]


def test_groups_added_later_and_changed_between_steps() -> None:
    params = parameters()
    optimizer = optim.AdamWLegacy(params[:3], lr=0.01, weight_decay=0.0)
    train(optimizer, params[:3], steps=1)
    optimizer.add_param_group({'params': params[3:], 'lr': 0.1, 'weight_decay': 0.5})
    before = params[4].detach().clone()
    train(optimizer, params, start=1, steps=1)
    g = noise('g4.1', tuple(before.shape))
    expected = before * (1 - 0.1 * 0.5) - 0.1 * g / (g.abs() + 1e-8)  # Adam's first step, decay decoupled
    assert torch.allclose(params[4], expected, atol=1e-6)


def test_replaced_tensors_are_seen() -> None:
    params, others = parameters(), parameters()
    optimizer, same = optim.Lion(params, lr=0.01), optim.Lion(others, lr=0.01)
    train(optimizer, params)
    train(same, others)
    for p in params:
        p.data = p.data.clone()
        optimizer.state[p]['exp_avg'] = optimizer.state[p]['exp_avg'].clone()
    assert apart(train(optimizer, params, start=4), train(same, others, start=4)) == 0


def test_torch_hooks_run() -> None:
    params, seen = parameters(), []
    optimizer = optim.Lion(params, lr=0.01)
    optimizer.register_step_pre_hook(lambda *_: seen.append('before'))
    optimizer.register_step_post_hook(lambda *_: seen.append('after'))
    train(optimizer, params, steps=1)
    assert seen == ['before', 'after']


def test_deep_copies_go_on_alone() -> None:
    params = parameters()
    optimizer = optim.Lamb(params, lr=0.01)
    train(optimizer, params, steps=1)
    twin, weights = copy.deepcopy((optimizer, params))
    assert apart(train(twin, weights, start=1), train(optimizer, params, start=1)) == 0


def test_corrected_decay_goes_with_the_square_of_the_rate() -> None:
    p = nn.Parameter(torch.tensor([1.0, 3.0]))
    optimizer = optim.SGDW([p], lr=0.5, weight_decay=0.2, corrected_weight_decay=True)
    optimizer.param_groups[0]['lr'] = 0.1
    p.grad = torch.zeros(2)
    optimizer.step()
    assert torch.allclose(p, torch.tensor([1.0, 3.0]) * (1 - 0.2 * 0.1**2 / 0.5))


def test_cautious_mask_of_the_paper() -> None:
    p = nn.Parameter(torch.zeros(4))
    optimizer = optim.SGDW([p], lr=1.0, momentum=0.5, caution=True)
    for g in (torch.tensor([1.0, 1.0, -4.0, 2.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])):
        before = p.detach().clone()
        p.grad = g
        optimizer.step()
    step = torch.tensor([1.5, 1.5, -1.0, 2.0])  # 0.5 * the first + the second
    assert torch.allclose(before - p, step * torch.tensor([1.0, 1.0, 0.0, 1.0]) * 4 / 3)


def test_bad_input_is_told() -> None:
    params = parameters()
    with pytest.raises(ValueError, match=r"opt 'lamp' is unknown; did you mean 'lamb'"):
        create_optimizer(params, 'lamp')
    with pytest.raises(TypeError, match=r"no option 'trust_clp'; did you mean 'trust_clip'"):
        create_optimizer(params, 'lamb', trust_clp=True)
    with pytest.raises(TypeError, match=r"Lion has no option 'cauton'; did you mean 'caution'"):
        optim.Lion(params, cauton=True)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r'Lion: lr is -1.0'):
        optim.Lion(params, lr=-1.0)
    with pytest.raises(ValueError, match=r'betas are \(0.9, 1.0\)'):
        optim.Lion(params, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match='state_dtype is '):
        optim.Lion(params, state_dtype='int8')
    with pytest.raises(ValueError, match='capturable'):
        optim.NAdamLegacy(params, capturable=True)
    with pytest.raises(ValueError, match='complex'):
        optim.Lion([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    sparse = nn.Parameter(torch.ones(4, 2))
    sparse.grad = torch.ones(4, 2).to_sparse()
    for cls in (optim.Lion, optim.Lamb):
        with pytest.raises(RuntimeError, match='sparse'):
            cls([sparse]).step()
    with pytest.raises(ImportError, match='bitsandbytes'):
        create_optimizer(params, 'bnbadam')


def test_names_and_defaults() -> None:
    assert create_optimizer(parameters(), 'sgd', lr=0.1).param_groups[0]['momentum'] == 0.9
    group = create_optimizer(parameters(), 'lars', eps=1e-3, betas=(0.5, 0.5)).param_groups[0]
    assert group['eps'] == 1e-3  # betas are dropped: it has none
    assert group['lr'] == 1.0
    assert get_optimizer_class('clion').keywords == {'caution': True}  # type: ignore[attr-defined]
    assert get_optimizer_class('clion', bind_defaults=False) is optim.Lion
    assert get_optimizer_info('bnblion').has_eps is False
    assert list_optimizers('c*lion*') == ['clion', 'clionc']
    assert 'bnbadam' not in list_optimizers(exclude_filters='bnb*')
    assert dict(list_optimizers(with_description=True))['lion']
    fused = create_optimizer(parameters(), 'adamw')
    assert type(fused) is torch.optim.AdamW
    assert fused.param_groups[0]['fused']


CLASSES = sorted(
    {info.opt_class for info in map(get_optimizer_info, list_optimizers()) if not isinstance(info.opt_class, str)},
    key=str,
)


@pytest.mark.parametrize('cls', [cls for cls in CLASSES if issubclass(cls, optim.Optimizer)])
def test_every_argument_is_described(cls: Any) -> None:
    told = dict(re.findall(r'^    (\w+): (.+)\.$', cls.__doc__, re.MULTILINE))
    arguments = inspect.signature(cls).parameters
    assert list(told) == list(arguments)
    assert arguments['caution'].kind is inspect.Parameter.KEYWORD_ONLY
    assert not any(hasattr(cls, name) for name in arguments)  # no class value that a group may contradict


def test_arguments_keep_their_places() -> None:
    group = optim.Lamb(parameters(), 0.5, False, (0.5, 0.6), 1e-3, foreach=False).param_groups[0]
    assert [group[name] for name in ('lr', 'bias_correction', 'betas', 'eps')] == [0.5, False, (0.5, 0.6), 1e-3]
    with pytest.raises(ValueError, match="mars_type 'adam' is unknown; did you mean 'adamw'"):
        optim.Mars(parameters(), mars_type='adam')  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='memory_save_mode'):
        optim.Kron([{'params': parameters(), 'memory_save_mode': 'none'}])
    with pytest.raises(ValueError, match='update_each is 0'):
        optim.Sophia(parameters(), update_each=0)


def test_numbers_of_a_formula_come_in_the_order_of_the_fields() -> None:
    """Not in that of a set, which changes from process to process, and with it the key of a cached kernel."""
    params = parameters()
    optimizer = optim.Lamb(params)
    train(optimizer, params, steps=1)
    assert next(iter(optimizer._formulas)).floats[:4] == ('lr', 'eps', 'max_grad_norm', 'beta1')


def test_users_may_register_their_own() -> None:
    class Signs(optim.Optimizer):
        lr: float = 0.1
        weight_decay: float = 0.0

        @staticmethod
        def update(p: Tensor, g: Tensor, s: Any, h: Any) -> Tensor:
            return h.lr * g.sign()

    optim.register_optimizer('signs_of_the_times', Signs, 'signs', lr=0.25)
    p = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = create_optimizer([p], 'signs_of_the_times', maximize=True)
    p.grad = torch.tensor([3.0, -2.0])
    optimizer.step()
    assert p.tolist() == [1.25, 0.75]
    with pytest.raises(ValueError, match='taken'):
        optim.register_optimizer('signs_of_the_times', Signs)


def test_models_give_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = create_optimizer(model, 'lion', lr=0.1, weight_decay=0.3)
    decays = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert decays[id(model[0].weight)] == 0.3
    assert decays[id(model[0].bias)] == decays[id(model[1].weight)] == 0.0
    groups = create_optimizer(model, 'lion', param_group_fn=lambda m: [{'params': m[0].parameters()}]).param_groups
    assert len(groups) == 1


def test_listing_imports_no_torch() -> None:
    code = 'import sys; from foveal.optim import list_optimizers as n; assert n() and "torch" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)
