"""Schedules: against stored rates, formulas, torch's own, and against themselves when resumed."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, MultiStepLR, StepLR

import foveal
from foveal import cli
from foveal.engine.config import TrainConfig
from foveal.engine.schedule import build_schedule, warmup_length
from foveal.engine.train import train
from foveal.scheduler import (
    SCHEDULES,
    CosineLRScheduler,
    MultiStepLRScheduler,
    PlateauLRScheduler,
    Scheduler,
    StepLRScheduler,
    TanhLRScheduler,
    WSDLRScheduler,
    create_scheduler,
)
from tests import reference
from tests.images import write_folder

ROWS = list(reference.rows('schedules'))
# Two orders of the same few operations: each rounds by 1e-16, and the power near the end of a curve multiplies that by
# less than 1000. The most that was seen is 2e-14.
CLOSE: dict[str, float] = {'rel': 1e-13, 'abs': 1e-15}


def sgd(*lrs: float) -> torch.optim.SGD:
    return torch.optim.SGD([{'params': [nn.Parameter(torch.zeros(1))], 'lr': lr} for lr in lrs], lr=1.0)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group['lr']) for group in optimizer.param_groups]


def follow(scheduler: Scheduler | LRScheduler, steps: int) -> list[float]:
    """The first group's rate at 0, 1, ... steps."""
    seen = rates(scheduler.optimizer)[:1]
    for t in range(1, steps + 1):
        if isinstance(scheduler, LRScheduler):
            scheduler.optimizer.step()
            scheduler.step()
        elif scheduler.t_in_epochs:
            scheduler.step(t)
        else:
            scheduler.step_update(t)
        seen += rates(scheduler.optimizer)[:1]
    return seen


def replay(row: dict[str, Any], options: dict[str, Any]) -> tuple[list[list[float]], int]:
    """Our rates for each group where a stored row has its own, and our number of epochs."""
    optimizer = sgd(*(lr for lr, _ in row['groups']))
    for group, (_, scale) in zip(optimizer.param_groups, row['groups'], strict=True):
        group |= {} if scale is None else {'lr_scale': scale}
    scheduler, total = create_scheduler(optimizer, **options)
    assert scheduler is not None
    seen = [rates(optimizer)]
    for t in range(len(row['rates'][0]) - 1):
        if 'metrics' in row:
            if t:
                scheduler.step(t, row['metrics'][t])
        elif options.get('step_on_epochs', True):
            scheduler.step(t)
        else:
            scheduler.step_update(t)
        seen.append(rates(optimizer))
    return [list(series) for series in zip(*seen, strict=True)], total


def whole_epochs(row: dict[str, Any]) -> int:
    """The stored number of epochs; one more where the schedule ends within an epoch, which was cut off."""
    options = row['options']
    return int(row['total']) + bool(options.get('warmup_prefix') and options['warmup_epochs'] == 1.5)


@pytest.mark.parametrize('sched', [name for name in SCHEDULES if name != 'none'])
def test_rates_are_the_stored_ones(sched: str) -> None:
    """But for the differences that docs/schedules.md tells of: `warmup_prefix` is given, since its default is another;
    milestones are hit one step later; totals are rounded up, not down; and construction sets the rates of t=0, which a
    tangent, noise or a milestone makes other than the peak.
    """
    rows = [row for row in ROWS if row['options']['sched'] == sched]
    assert len(rows) >= 10
    for row in rows:
        options = {'warmup_prefix': False, **row['options']}
        if sched == 'multistep':
            unit = options.get('updates_per_epoch', 1)
            options['decay_milestones'] = [(m * unit - 1) / unit for m in options['decay_milestones']]
        ours, total = replay(row, options)
        assert total == whole_epochs(row), options
        constructed = sched in ('tanh', 'multistep') or options.get('noise') == [0.0, 1.0]
        for mine, theirs in zip(ours, row['rates'], strict=True):
            assert mine[constructed:] == pytest.approx(theirs[constructed:], **CLOSE), options


def test_the_stored_grid_is_wide() -> None:
    assert len(ROWS) >= 200
    assert sum('updates_per_epoch' in row['options'] for row in ROWS) > 100


@pytest.mark.parametrize('sched', ['cosine', 'tanh', 'poly'])
def test_warmup_is_part_of_the_run_by_default(sched: str) -> None:
    """One cycle is a stored run of so many epochs after its warm-up; later cycles are those without a prefix."""
    rows = [row for row in ROWS if row['options']['sched'] == sched and 'warmup_epochs' in row['options']]
    single = [row for row in rows if row['options'].get('warmup_prefix') and 'cycle_limit' not in row['options']]
    assert len(single) >= 4
    for row in single:
        options = {**row['options'], 'warmup_prefix': None, 'noise': None}
        options['num_epochs'] += options['warmup_epochs']
        ours, total = replay(row, options)
        assert total == whole_epochs(row), options
        for mine, theirs in zip(ours, row['rates'], strict=True):
            assert mine == pytest.approx(theirs, **CLOSE), options
    several = [row for row in rows if not row['options'].get('warmup_prefix') and 'cycle_limit' in row['options']]
    assert len(several) >= 8
    for row in several:
        options = {**row['options'], 'warmup_prefix': None}
        later = 1 + options['num_epochs'] * options.get('updates_per_epoch', 1)
        ours, total = replay(row, options)
        assert total == row['total'], options
        for mine, theirs in zip(ours, row['rates'], strict=True):
            assert mine[later:] == pytest.approx(theirs[later:], **CLOSE), options


@pytest.mark.parametrize('sched', ['cosine', 'tanh', 'poly', 'wsd', 'rsqrt'])
@pytest.mark.parametrize('warmup', [1, 1.5, 3])
def test_a_run_with_warmup_reaches_the_peak_and_ends_at_min_lr(sched: str, warmup: float) -> None:
    optimizer = sgd(0.4)
    scheduler, total = create_scheduler(
        optimizer, sched, 10, warmup_epochs=warmup, min_lr=0.002, step_on_epochs=False, updates_per_epoch=8
    )
    assert scheduler is not None
    assert total == 10
    seen = follow(scheduler, 80)
    assert max(seen) == pytest.approx(0.4, rel=1e-6)  # the tangent begins a millionth below
    assert seen[80] == 0.002 < seen[79]
    assert seen.index(max(seen)) == warmup * 8
    assert all(a < b for a, b in pairwise(seen[: int(warmup * 8) + 1]))


def test_cosine_is_its_formula() -> None:
    optimizer = sgd(0.4, 0.4)
    optimizer.param_groups[1]['lr_scale'] = 0.5
    scheduler, total = create_scheduler(
        optimizer,
        num_epochs=10,
        warmup_epochs=1.5,
        warmup_lr=0.01,
        min_lr=0.002,
        step_on_epochs=False,
        updates_per_epoch=8,
    )
    assert scheduler is not None
    assert total == 10
    for update in range(81):
        if update < 12:
            expected = 0.01 + (0.4 - 0.01) * update / 12
        else:
            expected = 0.002 + 0.5 * (0.4 - 0.002) * (1 + math.cos(math.pi * (update - 12) / 68))
        assert rates(optimizer) == pytest.approx([expected, expected / 2], **CLOSE)
        scheduler.step(update // 8)  # steps on updates: the epoch changes nothing
        scheduler.step_update(update + 1)


def test_torch_has_the_same_rates() -> None:
    """Of the schedules that both have."""
    pairs: list[tuple[type[LRScheduler], dict[str, Any], Any]] = [
        (CosineAnnealingLR, {'T_max': 9, 'eta_min': 0.01}, lambda o: CosineLRScheduler(o, 9, lr_min=0.01)),
        (StepLR, {'step_size': 3, 'gamma': 0.3}, lambda o: StepLRScheduler(o, 3, decay_rate=0.3)),
        (ExponentialLR, {'gamma': 0.8}, lambda o: StepLRScheduler(o, 1, decay_rate=0.8)),
        (
            MultiStepLR,
            {'milestones': [5, 2, 5], 'gamma': 0.3},
            lambda o: MultiStepLRScheduler(o, [5, 2, 5], decay_rate=0.3),
        ),
    ]
    for theirs, options, ours in pairs:
        # torch multiplies step by step
        assert follow(ours(sgd(0.5)), 9) == pytest.approx(follow(theirs(sgd(0.5), **options), 9), rel=1e-12)


@pytest.mark.parametrize('sched', [name for name in SCHEDULES if name != 'none'])
@pytest.mark.parametrize('at', [0, 2, 5, 9])
def test_a_resumed_schedule_goes_on_exactly(sched: str, at: int) -> None:
    """Also where the optimizer's own state is loaded first, in which rates have fallen already."""
    options: dict[str, Any] = dict(num_epochs=12, warmup_epochs=2.5, noise=[0.3, 0.8], decay_epochs=3, min_lr=0.01)
    options |= dict(patience_epochs=1, decay_rate=0.5, decay_milestones=[4, 8])
    metrics = [0.1, 0.9, 0.5, 0.5, 0.6, 0.5, 0.4, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]

    def go(scheduler: Scheduler, start: int, stop: int) -> list[list[float]]:
        seen = []
        for epoch in range(start + 1, stop + 1):
            scheduler.step(epoch, metrics[epoch])
            seen.append(rates(scheduler.optimizer))
        return seen

    whole, _ = create_scheduler(sgd(0.4, 0.1), sched, **options)
    first, _ = create_scheduler(sgd(0.4, 0.1), sched, **options)
    assert whole is not None
    assert first is not None
    go(first, 0, at)
    state = json.loads(json.dumps(first.state_dict()))
    for load_optimizer in (True, False):
        optimizer = sgd(0.4, 0.1)
        if load_optimizer:
            optimizer.load_state_dict(first.optimizer.state_dict())
        second, _ = create_scheduler(optimizer, sched, **options)
        assert second is not None
        second.load_state_dict(state)
        assert rates(optimizer) == rates(first.optimizer)
        whole, _ = create_scheduler(sgd(0.4, 0.1), sched, **options)
        assert whole is not None
        assert go(second, at, 12) == go(whole, 0, 12)[at:]


def test_plateau_falls_when_the_metric_stays() -> None:
    """By hand: patience of one epoch, so the second bad one lowers the rate; metrics of the warm-up do not count."""
    scheduler = PlateauLRScheduler(
        sgd(0.8), decay_rate=0.5, patience_t=1, lr_min=0.15, mode='min', warmup_t=2.5, warmup_lr_init=0.3
    )
    seen = []
    for epoch, loss in enumerate([0.0, 0.0, 5.0, 4.0, 4.0, 4.1, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0], start=1):
        scheduler.step(epoch, loss)
        seen += rates(scheduler.optimizer)
    assert seen == pytest.approx([0.5, 0.7] + [0.8] * 3 + [0.4] * 2 + [0.4, 0.2, 0.2, 0.15, 0.15])
    with pytest.raises(ValueError, match=r'step\(epoch, metric\)'):
        scheduler.step(13)


def test_noise_is_bounded_and_decided_by_seed_and_step() -> None:
    scheduler, _ = create_scheduler(sgd(1.0), 'constant', 4000, noise=0.5, noise_pct=0.3, noise_std=0.2)
    assert scheduler is not None
    factors = torch.tensor([scheduler.noise(t) for t in range(4000)], dtype=torch.float64)
    assert (factors[:2000] == 1).all()
    noise = factors[2000:] - 1
    assert noise.abs().max() < 0.3
    # a normal of deviation 0.2 cut at 1.5 deviations has deviation 0.1486; four standard errors of 2000 draws
    assert noise.mean().abs() < 4 * 0.1486 / 2000**0.5
    assert noise.std().item() == pytest.approx(0.1486, abs=4 * 0.1486 / 4000**0.5)
    again, _ = create_scheduler(sgd(1.0), 'constant', 4000, noise=0.5, noise_pct=0.3, noise_std=0.2, noise_seed=43)
    assert again is not None
    assert again.noise(2000) == scheduler.noise(2001)


def test_a_rate_that_is_a_tensor_is_changed_in_place() -> None:
    lr = torch.tensor(0.5)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=lr, foreach=True, capturable=True)
    scheduler = CosineLRScheduler(optimizer, 4)
    scheduler.step(2)
    assert optimizer.param_groups[0]['lr'] is lr
    assert lr.item() == pytest.approx(0.25)
    scheduler.step(0)
    assert lr.item() == 0.5


def test_groups_may_come_later_with_a_peak_of_their_own() -> None:
    optimizer = sgd(1.0)
    scheduler = CosineLRScheduler(optimizer, 4)
    scheduler.step(2)
    optimizer.add_param_group({'params': [nn.Parameter(torch.zeros(1))], 'lr': 0.1})
    scheduler.step(2)
    assert rates(optimizer) == pytest.approx([0.5, 0.05])


def test_a_schedule_is_a_function_of_t() -> None:
    """Any order of steps gives the same rates."""
    scheduler = WSDLRScheduler(sgd(1.0), 8, 3, decay_fn=lambda share: 1 - share**2, warmup_t=2)
    forwards = {t: scheduler.rate(1.0, t) for t in range(12)}
    for t in (11, 0, 9, 3, 8):
        scheduler.step(t)
        assert rates(scheduler.optimizer) == [forwards[t]]
    assert [forwards[t] for t in (7, 8, 9, 10)] == pytest.approx([1, 8 / 9, 5 / 9, 0])


def test_none_is_no_scheduler() -> None:
    assert create_scheduler(sgd(1.0), 'none', 7) == (None, 7)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'sched': 'cosin'}, "sched 'cosin' is unknown; did you mean 'cosine'"),
        ({'num_epochs': 0}, 'num_epochs must be at least 1, got 0'),
        ({'warmup_epochs': 10}, r'warmup_epochs must be in \[0, num_epochs=10\), got 10'),
        ({'warmup_epochs': -1}, r'warmup_epochs must be in \[0, num_epochs=10\), got -1'),
        ({'warmup_lr': -0.1}, '^warmup_lr must be at least 0, got -0.1'),
        ({'min_lr': -1}, '^min_lr must be at least 0, got -1'),
        ({'cooldown_epochs': -1}, 'cooldown_epochs must be at least 0, got -1'),
        ({'cycle_mul': 0.5}, 'cycle_mul must be at least 1, got 0.5'),
        ({'cycle_limit': 0}, 'cycle_limit must be at least 1, got 0'),
        ({'sched': 'step'}, 'step needs decay_epochs above 0, the epochs between two steps; got None'),
        ({'sched': 'step', 'decay_epochs': 0}, '^step needs decay_epochs above 0, .*; got 0'),
        ({'sched': 'wsd', 'decay_epochs': 11}, '^decay_epochs must come to 1 to 10 steps of the schedule, got 11: 11'),
        (
            {'sched': 'wsd', 'decay_epochs': 0.01},
            '^decay_epochs must come to 1 to 10 steps of the schedule, got 0.01: 0',
        ),
        ({'sched': 'wsd', 'decay_fn': 'cosin'}, "decay_fn 'cosin' is unknown; did you mean 'cosine'"),
        ({'sched': 'rsqrt'}, 'stable_timescale must be above 0 with rsqrt, got 0'),
        ({'sched': 'plateau', 'decay_rate': 1}, r'decay_rate must be in \(0, 1\), got 1'),
        ({'sched': 'plateau', 'plateau_mode': 'top'}, "^plateau_mode must be max or min, got 'top'"),
        ({'sched': 'plateau', 'step_on_epochs': False, 'updates_per_epoch': 5}, 'plateau steps on epochs'),
        ({'step_on_epochs': False}, 'updates_per_epoch must be at least 1 to step on updates, got 0'),
        ({'noise': 0.5, 'noise_pct': 0}, 'noise_pct must be above 0, got 0'),
        ({'noise': [0.1, 0.2, 0.3]}, '^noise must be a start or a pair'),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create_scheduler(sgd(1.0), **{'num_epochs': 10, **options})


@pytest.mark.parametrize(
    ('build', 'said'),
    [
        (lambda: CosineLRScheduler(sgd(1.0), 5, warmup_t=5, warmup_prefix=None), 'warmup_t must be below t_initial=5'),
        (lambda: CosineLRScheduler(sgd(1.0), 0), 't_initial must be above 0'),
        (lambda: TanhLRScheduler(sgd(1.0), 5, lb=3, ub=1), 'lb must be below ub'),
        (lambda: CosineLRScheduler(sgd(1.0), 5, lr_min=-1), 'lr_min must be at least 0, got -1'),
        (lambda: CosineLRScheduler(sgd(1.0), 5, warmup_lr_init=-1), 'warmup_lr_init must be at least 0, got -1'),
        (lambda: CosineLRScheduler(sgd(1.0), 5, noise_range_t=(1, 2, 3)), 'noise_range_t must be a start or a pair'),
        (lambda: StepLRScheduler(sgd(1.0), 0), 'decay_t must be above 0, got 0'),
        (lambda: PlateauLRScheduler(sgd(1.0), mode='top'), "mode must be max or min, got 'top'"),
        (lambda: WSDLRScheduler(sgd(1.0), 5, 6), r'decay_t must be in \(0, t_initial=5\], got 6'),
        (lambda: WSDLRScheduler(sgd(1.0), 5, 2, stable_fn='flat'), "stable_fn 'flat' is unknown"),
        (lambda: WSDLRScheduler(sgd(1.0), 5, 2, decay_ratio=1), r'decay_ratio must be in \(0, 1\)'),
    ],
)
def test_classes_refuse_too(build: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def test_the_warmup_of_a_short_run_is_short() -> None:
    lengths = {epochs: warmup_length(TrainConfig(epochs=epochs)) for epochs in (1, 20, 50, 300)}
    assert lengths == {1: 0.1, 20: 2.0, 50: 5.0, 300: 5.0}
    assert warmup_length(TrainConfig(epochs=20, warmup_epochs=0)) == 0
    scheduler, total = build_schedule(TrainConfig(epochs=1), sgd(1e-3), 30)
    assert scheduler is not None
    assert total == 1
    seen = follow(scheduler, 30)
    assert (seen[0], seen[3], seen[30]) == (1e-5, 1e-3, 0.0)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A run of four updates an epoch."""
    return TrainConfig(
        data=str(write_folder(tmp_path / 'colours', per_class=8)), model='test_convnext', img_size=32, batch_size=6,
        lr=2e-3, workers=0, device='cpu', threads=1, output=str(tmp_path / 'run'),
    )  # fmt: skip


def test_training_of_one_epoch_needs_no_word_on_the_warmup(config: TrainConfig) -> None:
    run = train(replace(config, epochs=1))
    assert [row['lr'] for row in run.history] == [0]


def test_training_goes_on_into_the_cooldown(config: TrainConfig) -> None:
    run = train(replace(config, epochs=2, min_lr=1e-4, sched_options={'cooldown_epochs': 1}))
    assert [row['epoch'] for row in run.history] == [1, 2, 3]
    assert run.history[-1]['lr'] == 1e-4


def test_training_without_a_schedule(config: TrainConfig) -> None:
    run = train(replace(config, epochs=2, sched='none'))
    assert [row['lr'] for row in run.history] == [2e-3, 2e-3]


def test_training_on_a_plateau_resumes_exactly(config: TrainConfig, tmp_path: Path) -> None:
    """The memory of the schedule is part of a checkpoint: stopped within its patience, it ends as an unbroken run."""
    options = dict(patience_epochs=1, decay_rate=0.5, plateau_mode='min')
    config = replace(config, sched='plateau', sched_options=options, lr=0.5, opt='sgd', warmup_epochs=0, epochs=6)
    unbroken = train(replace(config, output=str(tmp_path / 'unbroken')))
    rates = [row['lr'] for row in unbroken.history]
    assert rates[0] == 0.5 > rates[-1]
    first_fall = rates.index(0.25)
    train(replace(config, epochs=first_fall - 1))
    resumed = train(replace(config, resume='auto'))
    assert [row['lr'] for row in resumed.history] == rates
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), unbroken.model.parameters(), strict=True))


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, picture = tmp_path / 'recipe.yaml', tmp_path / 'rate.png'
    recipe.write_text('model: resnet18\nepochs: 6\nlr: 0.5\nsched: step\nsched_options: {decay_epochs: 2}\n')
    assert cli.main(['schedule', '--config', str(recipe), '--warmup-epochs', '1', '--plot', str(picture)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == [
        ['0', '1e-05'],
        ['1', '0.5'],
        ['2', '0.05'],
        ['3', '0.05'],
        ['4', '0.005'],
        ['5', '0.005'],
        ['6', '0.0005'],
    ]
    with Image.open(picture) as image:
        assert image.size == (840, 420)
        # the curve is there: the first colour of the palette
        assert image.convert('RGB').getcolors(1 << 16) is not None
        assert any(colour == (0, 114, 178) for _, colour in image.convert('RGB').getcolors(1 << 16) or [])


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--sched', 'stp'], "sched 'stp' is unknown; did you mean 'step'?"),
        (
            ['--sched-options.decay_epoch', '3'],
            "sched_options has no option 'decay_epoch'; did you mean 'decay_epochs'",
        ),
        (['--sched', 'plateau'], 'sched plateau has no curve to show'),
        (['--plot', 'missing/rate.png'], 'cannot write missing/rate.png: folder missing does not exist'),
        (['--lr', '0'], 'lr must be above 0, got 0.0'),
        (['--wamup-epochs', '3'], "schedule has no option --wamup-epochs; did you mean 'warmup_epochs'"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['schedule', *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_examples_of_the_docs_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent / 'docs' / 'schedules.md').read_text()
    told = {'model': foveal.create_model('test_convnext'), 'loader': [0, 1], 'accuracy': 0.5}
    for code in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        exec(compile(code, 'schedules.md', 'exec'), told)
    assert told['epochs'] == 90
    assert 'head.fc.weight' in capsys.readouterr().out
    named = set(re.findall(r'^\| (\w+) \|', text, re.MULTILINE)) - {'here'}
    assert named == set(SCHEDULES)


def test_the_command_line_imports_no_torch() -> None:
    check = "import foveal.cli, sys; foveal.cli.build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', check], check=True)
