"""Writes tests/reference/schedules.jsonl.xz and groups.jsonl.xz: what timm does, measured from outside.

    PYTHON_WITH_TIMM tests/make_schedule_reference.py

A schedule's row holds the options, the groups as [lr, lr_scale], the number of epochs that the factory returns, and for
each group its rates: after construction, then after stepping to 0, 1, 2 ...; for plateau the metrics too, where nothing
is stepped to 0. A model's row holds, for each parameter in order, its weight decay without layer decay, and its weight
decay and lr_scale with it.
"""

import json
import lzma
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

FOLDER = Path(__file__).parent / 'reference'
WARMUP: list[dict[str, Any]] = [
    {},
    dict(warmup_epochs=2, warmup_lr=0.03),
    dict(warmup_epochs=2, warmup_lr=0.03, warmup_prefix=True),
    dict(warmup_epochs=1.5, warmup_lr=0.01),
    dict(warmup_epochs=1.5, warmup_lr=0.01, warmup_prefix=True),
]
STEPPING: list[dict[str, Any]] = [{}, dict(step_on_epochs=False, updates_per_epoch=3)]
CYCLES: list[dict[str, Any]] = [
    dict(num_epochs=8),
    dict(num_epochs=8, cycle_limit=2, cycle_decay=0.5),
    dict(num_epochs=5, cycle_limit=3, cycle_decay=0.6, cycle_mul=2.0),
]
K_DECAY: list[dict[str, Any]] = [{}, dict(k_decay=2.0), dict(k_decay=0.5)]
MINIMUM: list[dict[str, Any]] = [{}, dict(min_lr=0.02)]
DECAY: list[dict[str, Any]] = [{}, dict(decay_epochs=0.25), dict(decay_epochs=3)]
SHAPES: list[dict[str, Any]] = [{}] + [dict(decay_fn=f) for f in ('linear', '1-sqrt', 'cosine', 'power', 'exp')]
NOISE: list[dict[str, Any]] = [
    dict(noise=0.4),
    dict(noise=[0.3, 0.7], noise_std=0.2, noise_pct=0.3, noise_seed=7, **WARMUP[1]),
    dict(noise=[0.0, 1.0], noise_pct=0.5),
]
METRICS = [0.5, 0.95, 0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1, 0.5, 0.5, 0.50001, 0.4, 0.6, 0.6] + [0.5] * 9
GROUPS = [[0.5, None], [0.05, None], [0.5, 0.25], [0.1, 3.0]]
MODELS = [
    *('vit_tiny_patch16_224', 'vit_small_patch14_reg4_dinov2', 'deit_tiny_distilled_patch16_224'),
    *('swin_tiny_patch4_window7_224', 'convnext_atto', 'resnet18', 'efficientnet_b0', 'mixer_s32_224', 'regnety_002'),
]


def grid() -> list[tuple[dict[str, Any], list[list[float | None]]]]:
    """Options and groups: all pairs of what matters together, the rest in turns."""
    one: list[list[float | None]] = [[0.5, None]]
    rows: list[tuple[dict[str, Any], list[list[float | None]]]] = []

    def add(sched: str, *parts: dict[str, Any], groups: list[list[float | None]] = one) -> None:
        options: dict[str, Any] = {'sched': sched}
        for part in parts:
            options |= part
        rows.append((options, groups))

    turn = 0
    for sched, warmup, cycle, stepping in product(('cosine', 'tanh', 'poly'), WARMUP, CYCLES, STEPPING):
        turn += 1
        shape: dict[str, Any] = {} if sched == 'tanh' else dict(K_DECAY[turn // 2 % 3])
        if sched == 'poly':
            shape['decay_rate'] = (0.5, 1.0, 2.0)[turn % 3]
        cooldown = {} if turn % 5 else dict(cooldown_epochs=2)
        add(sched, cycle, warmup, stepping, MINIMUM[turn // 3 % 2], shape, cooldown)
    add('poly', dict(num_epochs=10))
    for sched, mul in product(('cosine', 'tanh', 'poly'), (1.5, 3.0)):
        add(sched, dict(num_epochs=4, cycle_mul=mul, cycle_limit=3, cycle_decay=0.5))
    for every, warmup, stepping in product((1, 3, 2.5), [*WARMUP[:3], WARMUP[4]], STEPPING):
        turn += 1
        add('step', dict(num_epochs=8, decay_epochs=every, decay_rate=(0.5, 0.97)[turn % 2]), warmup, stepping)
    for milestones, warmup, stepping in product(([2, 5], [1, 3, 6]), WARMUP[:3], STEPPING):
        turn += 1
        add('multistep', dict(num_epochs=8, decay_milestones=milestones), warmup, stepping, dict(decay_rate=0.5))
    for warmup, stepping in product(WARMUP, STEPPING):
        add('constant', dict(num_epochs=6), warmup, stepping)
        add('rsqrt', dict(num_epochs=9, stable_timescale=2.0, decay_epochs=3, cooldown_epochs=1), warmup, stepping)
    for shape, warmup, stepping in product(SHAPES, [*WARMUP[:3], WARMUP[4]], STEPPING):
        turn += 1
        add('wsd', dict(num_epochs=8), shape, DECAY[turn % 3], warmup, stepping, MINIMUM[turn // 2 % 2])
    for shape, warmup, stepping in product(SHAPES[::3], WARMUP[1:], STEPPING):
        turn += 1
        add('rsqrt', dict(num_epochs=8), shape, warmup, stepping, MINIMUM[turn % 2])
    # falls below the lowest rate
    add('rsqrt', dict(num_epochs=9, stable_timescale=0.1, min_lr=0.2, decay_epochs=3))
    for sched, noise, stepping in product(('cosine', 'tanh', 'poly', 'step', 'constant', 'wsd'), NOISE, STEPPING):
        add(sched, dict(num_epochs=6, decay_epochs=2), noise, stepping)
    every_sched = ('cosine', 'tanh', 'poly', 'step', 'constant', 'wsd', 'rsqrt')
    for sched, warmup, stepping in product(every_sched, WARMUP[1:3], STEPPING):
        add(sched, dict(num_epochs=6, min_lr=0.01, decay_epochs=2), warmup, stepping, groups=GROUPS)
    plateau = dict(num_epochs=18, decay_rate=0.5)
    for mode, patience, warmup in product(('max', 'min'), (1, 2), WARMUP[:3]):
        options = dict(plateau_mode=mode, patience_epochs=patience)
        add('plateau', plateau, options, warmup, MINIMUM[patience % 2])
    add('plateau', plateau, dict(patience_epochs=1, noise=0.3))
    add('plateau', plateau, dict(patience_epochs=1), groups=GROUPS)
    return rows


def schedule(options: dict[str, Any], groups: list[list[float | None]]) -> dict[str, Any]:
    """One row."""
    optimizer = torch.optim.SGD([{'params': [torch.zeros(1)], 'lr': lr} for lr, _ in groups], lr=1.0)
    for group, (_, scale) in zip(optimizer.param_groups, groups, strict=True):
        group |= {} if scale is None else {'lr_scale': scale}
    scheduler, total = create_scheduler_v2(optimizer, **options)
    metrics = METRICS if options['sched'] == 'plateau' else None
    unit = options.get('updates_per_epoch', 1)
    rates = [[group['lr'] for group in optimizer.param_groups]]
    for t in range(int(total * unit) + 3):
        if metrics:
            if t:
                scheduler.step(t, metrics[t])
        elif unit > 1:
            scheduler.step_update(t)
        else:
            scheduler.step(t)
        rates.append([float(group['lr']) for group in optimizer.param_groups])
    row = {'options': options, 'groups': groups, 'total': total, 'rates': list(zip(*rates, strict=True))}
    return row | {'metrics': metrics} if metrics else row


def groups(name: str) -> dict[str, Any]:
    """One row."""
    model = timm.create_model(name)
    row: dict[str, Any] = {'name': name}
    for key, layer_decay in (('plain', None), ('layered', 0.75)):
        optimizer = create_optimizer_v2(model, 'sgd', lr=1.0, weight_decay=0.05, layer_decay=layer_decay)
        found = {p: (g['weight_decay'], g.get('lr_scale', 1.0)) for g in optimizer.param_groups for p in g['params']}
        row[key] = [found[parameter] for parameter in model.parameters()]
    return row


def main() -> None:
    """Writes both files."""
    warnings.simplefilter('ignore')
    for name, rows in (
        ('schedules', [schedule(*case) for case in grid()]),
        ('groups', [groups(model) for model in MODELS]),
    ):
        with lzma.open(FOLDER / f'{name}.jsonl.xz', 'wt', preset=9 | lzma.PRESET_EXTREME) as file:
            file.writelines(json.dumps(row) + '\n' for row in rows)
        print(f'{name}: {len(rows)} rows, measured on timm {timm.__version__}')


if __name__ == '__main__':
    main()
