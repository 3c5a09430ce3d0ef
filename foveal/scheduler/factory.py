"""Schedules by name, with lengths in epochs."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from foveal.errors import near
from foveal.scheduler.base import Scheduler
from foveal.scheduler.cyclic import CosineLRScheduler, CyclicLRScheduler, PolyLRScheduler, TanhLRScheduler
from foveal.scheduler.plateau import PlateauLRScheduler
from foveal.scheduler.steps import MultiStepLRScheduler, StepLRScheduler
from foveal.scheduler.wsd import WSDLRScheduler

SCHEDULES = ('cosine', 'tanh', 'poly', 'step', 'multistep', 'constant', 'wsd', 'rsqrt', 'plateau', 'none')
CYCLIC = {'cosine': CosineLRScheduler, 'tanh': TanhLRScheduler, 'poly': PolyLRScheduler}


def create_scheduler(
    optimizer: torch.optim.Optimizer,
    sched: str = 'cosine',
    num_epochs: int = 300,
    decay_epochs: float | None = None,
    decay_milestones: Sequence[float] = (90, 180, 270),
    cooldown_epochs: float = 0,
    patience_epochs: int = 10,
    decay_rate: float = 0.1,
    min_lr: float = 0.0,
    warmup_lr: float = 1e-5,
    warmup_epochs: float = 0,
    warmup_prefix: bool | None = None,
    noise: float | Sequence[float] | None = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int = 42,
    cycle_mul: float = 1.0,
    cycle_decay: float = 0.1,
    cycle_limit: int = 1,
    k_decay: float = 1.0,
    decay_fn: str | None = None,
    stable_timescale: float | None = None,
    plateau_mode: Literal['max', 'min'] = 'max',
    step_on_epochs: bool = True,
    updates_per_epoch: int = 0,
) -> tuple[Scheduler | None, int]:
    """Builds the schedule of a run; docs/schedules.md shows them. Options that a schedule has no use for do nothing.

    Args:
        optimizer: Whose groups hold the peak rates.
        sched: cosine, tanh, poly, step, multistep, constant, wsd, rsqrt, plateau or none.
        num_epochs: Length of the run, or of the first cycle of several.
        decay_epochs: step: epochs between two steps. wsd, rsqrt: length of the decay, below 1 as a share of what
            follows the warm-up; 0.2 if not given.
        decay_milestones: multistep: epochs after which the rate falls.
        cooldown_epochs: cosine, tanh, poly, wsd, rsqrt: epochs at `min_lr` after the end.
        patience_epochs: plateau: epochs to wait for a better metric.
        decay_rate: step, multistep, plateau: factor of a step. poly: the exponent.
        min_lr: Lowest rate, of all but step, multistep and constant.
        warmup_lr: Rate that the warm-up starts from.
        warmup_epochs: Length of the warm-up; a fraction is fine.
        warmup_prefix: True: the warm-up comes before `num_epochs`, which makes the run longer. False: the schedule runs
            from the start, its first part hidden by the warm-up. None: as False, but cosine, tanh and poly begin at the
            peak where the warm-up ends. wsd and rsqrt always begin there; with True that is before `num_epochs`.
        noise: Share of `num_epochs` from which on rates are noisy, or (start, end).
        noise_pct, noise_std, noise_seed: Bound and standard deviation, as shares of the rate, and seed of the noise.
        cycle_mul, cycle_decay, cycle_limit: cosine, tanh, poly: what each cycle multiplies the length and the peak of
            the next by, and the number of cycles.
        k_decay: cosine, poly: exponent on progress.
        decay_fn: wsd, rsqrt: shape of the decay: 1-sqrt (wsd's own), linear (rsqrt's own), cosine, power or exp.
        stable_timescale: rsqrt: epochs; those of the warm-up if not given.
        plateau_mode: max or min: which metric is better.
        step_on_epochs: Change the rate between epochs only, by `step`; else with every update, by `step_update`.
        updates_per_epoch: Needed when stepping on updates.

    Returns:
        The scheduler (None for none), and the epochs that it takes to its end, warm-up and cooldown included; rounded
        up.

    Raises:
        ValueError: An unknown name, or a number out of its range.
    """
    if sched not in SCHEDULES:
        raise ValueError(f'sched {sched!r} is unknown{near(sched, SCHEDULES)}')
    if num_epochs < 1:
        raise ValueError(f'num_epochs must be at least 1, got {num_epochs}')
    if sched == 'none':
        return None, num_epochs
    if warmup_epochs < 0 or (warmup_epochs >= num_epochs and not warmup_prefix):
        raise ValueError(f'warmup_epochs must be in [0, num_epochs={num_epochs}), got {warmup_epochs}')
    # the classes check as well, by names and units of their own
    for name, value in {'cooldown_epochs': cooldown_epochs, 'min_lr': min_lr, 'warmup_lr': warmup_lr}.items():
        if not value >= 0:
            raise ValueError(f'{name} must be at least 0, got {value}')
    if isinstance(noise, Sequence) and len(noise) not in (1, 2):
        raise ValueError(f'noise must be a start or a pair (start, end), got {noise}')
    if plateau_mode not in ('max', 'min'):
        raise ValueError(f'plateau_mode must be max or min, got {plateau_mode!r}')
    if step_on_epochs:
        unit = 1
    elif sched == 'plateau':
        raise ValueError('plateau steps on epochs: step_on_epochs must be True')
    elif updates_per_epoch < 1:
        raise ValueError(f'updates_per_epoch must be at least 1 to step on updates, got {updates_per_epoch}')
    else:
        unit = updates_per_epoch

    length, warmup = num_epochs * unit, warmup_epochs * unit
    shared: dict[str, Any] = {
        'warmup_t': warmup,
        'warmup_lr_init': warmup_lr,
        'noise_range_t': [share * length for share in noise]
        if isinstance(noise, Sequence)
        else noise and noise * length,
        'noise_pct': noise_pct,
        'noise_std': noise_std,
        'noise_seed': noise_seed,
    }
    timed = {**shared, 't_in_epochs': step_on_epochs}
    stepped = {**timed, 'decay_rate': decay_rate, 'warmup_prefix': bool(warmup_prefix)}
    scheduler: Scheduler
    if sched in CYCLIC:
        shape: dict[str, float] = {} if sched == 'tanh' else {'k_decay': k_decay}
        scheduler = CYCLIC[sched](
            optimizer,
            length,
            lr_min=min_lr,
            cycle_mul=cycle_mul,
            cycle_decay=cycle_decay,
            cycle_limit=cycle_limit,
            warmup_prefix=warmup_prefix,
            **(shape | {'power': decay_rate} if sched == 'poly' else shape),
            **timed,
        )
    elif sched in ('wsd', 'rsqrt'):
        rest = length if warmup_prefix else length - warmup
        share = 0.2 if decay_epochs is None else decay_epochs
        decay = round(share * rest if share < 1 else share * unit)
        if not 0 < decay <= rest:
            raise ValueError(f'decay_epochs must come to 1 to {rest} steps of the schedule, got {share:g}: {decay}')
        scheduler = WSDLRScheduler(
            optimizer,
            rest,
            decay,
            lr_min=min_lr,
            stable_fn='rsqrt' if sched == 'rsqrt' else 'constant',
            stable_timescale=None if stable_timescale is None else stable_timescale * unit,
            decay_fn=decay_fn or ('linear' if sched == 'rsqrt' else '1-sqrt'),
            **timed,
        )
    elif sched == 'multistep':
        scheduler = MultiStepLRScheduler(optimizer, [milestone * unit for milestone in decay_milestones], **stepped)
    elif sched == 'plateau':
        scheduler = PlateauLRScheduler(
            optimizer, decay_rate=decay_rate, patience_t=patience_epochs, lr_min=min_lr, mode=plateau_mode, **shared
        )
    else:
        if sched == 'step' and not (decay_epochs or 0) > 0:
            raise ValueError(f'step needs decay_epochs above 0, the epochs between two steps; got {decay_epochs}')
        decay_t = math.inf if sched == 'constant' or decay_epochs is None else decay_epochs * unit
        scheduler = StepLRScheduler(optimizer, decay_t, **stepped)

    if isinstance(scheduler, CyclicLRScheduler | WSDLRScheduler):
        return scheduler, math.ceil(scheduler.get_cycle_length() / unit + cooldown_epochs)
    return scheduler, math.ceil(num_epochs + (warmup_epochs if warmup_prefix else 0))
