"""Measures the reference of the optimizers: `python -m tests.make_optim_reference`, where timm 1.0.31 is installed.

Each name steps the same tensors with the same gradients, and what the parameters are after 20 steps is kept
(`tests/reference/optim.jsonl.xz`). `trajectory` is the run itself; `tests/test_optim_parity.py` runs it on ours.
"""

import json
import lzma
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.deterministic import noise

SHAPES: dict[str, tuple[int, ...]] = {
    'scalar': (),
    'vector': (9,),
    'faint': (10,),  # gradients around 1e-6, three of them always zero: where an epsilon stands shows
    'matrix': (6, 10),
    'tall': (30, 7),
    'wide': (20, 24),  # large enough for Adafactor to factor
    'cube': (3, 5, 4),
    'conv': (4, 3, 3, 3),
    'kernel': (18, 16, 3, 3),
}
STEPS, CHANGE = 20, 10  # the learning rate changes at step 10
SHOWN = 32  # values kept of a tensor, evenly spaced
# lrs: before and after the change; weight_decay; options; fallback: tensors that Muon leaves out; double: in float64
Case = dict[str, Any]


@cache
def gradient(name: str, step: int) -> Tensor:
    """One that has a direction of its own, and noise."""
    value = 0.3 * noise(f'{name}.trend', SHAPES[name]) + 0.7 * noise(f'{name}.{step}', SHAPES[name])
    if name == 'faint':
        value = 1e-6 * value
        value[:3] = 0
    return value


def trajectory(create: Callable[..., torch.optim.Optimizer], name: str, case: Case) -> dict[str, Tensor]:
    """The parameters after 20 steps.

    Args:
        create: `create_optimizer` of either library.
        name: of the optimizer.
        case: how it is asked for.
    """
    params = {key: torch.nn.Parameter(noise(key, shape)) for key, shape in SHAPES.items()}
    if case.get('double'):
        params = {key: torch.nn.Parameter(p.detach().double()) for key, p in params.items()}
    fallback = case.get('fallback', ())
    groups: list[Any] = [p for key, p in params.items() if key not in fallback]
    if fallback:
        groups = [{'params': groups}, {'params': [params[key] for key in fallback], 'use_fallback': True}]
    options = {key: getattr(torch, v) if key.endswith('dtype') else v for key, v in case.get('options', {}).items()}
    lrs = case['lrs']
    optimizer = create(groups, name, lr=lrs[0], weight_decay=case['weight_decay'], **options)
    for step in range(STEPS):
        if step == CHANGE and lrs[1] != lrs[0]:
            for group in optimizer.param_groups:
                group['lr'] = lrs[1]
        for key, p in params.items():
            p.grad = gradient(key, step).to(p.dtype, copy=True)
        if name == 'adahessian':  # a diagonal Hessian, which its random directions measure exactly
            loss = sum(
                (p.grad * p).sum() + (noise(f'{key}.curve', SHAPES[key]) * p**3).sum() for key, p in params.items()
            )
            optimizer.zero_grad()
            loss.backward(create_graph=True)
        optimizer.step()
        optimizer.zero_grad()
    return {key: p.detach() for key, p in params.items()}


def shown(value: Tensor) -> Tensor:
    """At most 32 of a tensor's values, evenly spaced."""
    flat = value.flatten()
    return flat[:: -(-len(flat) // SHOWN)]


# Where steps of 0.03 are far from what the method is for. Elsewhere they move the tensors by about their own size.
RATES = {'sgd': 0.1, 'lars': 10.0, 'adadelta': 3.0, 'adagrad': 0.3, 'kron': 0.03}
COMMON: dict[str, list[dict[str, Any]]] = {  # class -> options of interest, besides what the names set
    'SGD': [dict(momentum=0.0, nesterov=False), dict(dampening=0.5, nesterov=False)],
    'SGDW': [dict(momentum=0.0, nesterov=False), dict(dampening=0.5, nesterov=False), dict(maximize=True)],
    'SGDP': [dict(momentum=0.5, nesterov=False), dict(dampening=0.5, nesterov=False), dict(delta=1.0, wd_ratio=0.5)],
    'Adam': [dict(amsgrad=True), dict(betas=(0.8, 0.95), eps=1e-3)],
    'AdamW': [dict(amsgrad=True)],
    'NAdam': [dict(decoupled_weight_decay=True, momentum_decay=0.01)],
    'RMSprop': [dict(momentum=0.0), dict(centered=True)],
    'AdamWLegacy': [
        dict(amsgrad=True),
        dict(maximize=True),
        dict(clipping_threshold=0.5),
        dict(betas=(0.8, 0.95), eps=1e-3),
    ],
    'NAdamW': [dict(maximize=True), dict(clipping_threshold=0.5), dict(betas=(0.8, 0.95), eps=1e-3)],
    'NAdamLegacy': [dict(schedule_decay=0.02, eps=1e-3)],
    'RAdamLegacy': [dict(betas=(0.8, 0.95), eps=1e-3)],
    'AdamP': [dict(nesterov=False), dict(delta=1.0, wd_ratio=0.5), dict(betas=(0.8, 0.95), eps=1e-3)],
    'Adafactor': [
        dict(lr=None),
        dict(lr=None, warmup_init=True),
        dict(scale_parameter=False),
        dict(clip_threshold=0.3, decay_rate=-0.6),
        dict(betas=(0.8, 0.9)),
        dict(min_dim_size_to_factor=1000, eps=1e-3),
        dict(min_dim_size_to_factor=2, eps_scale=0.5),
    ],
    'AdafactorBigVision': [
        dict(momentum=None),
        dict(momentum_dtype='float32'),
        dict(clipping_threshold=0.3),
        dict(unscaled_wd=True),
        dict(min_dim_size_to_factor=1000, eps=1e-3),
        dict(min_dim_size_to_factor=2, decay_rate=0.6, decay_offset=3, beta2_cap=0.6),
    ],
    'AdaBelief': [
        dict(amsgrad=True),
        dict(decoupled_decay=False),
        dict(fixed_decay=True),
        dict(betas=(0.8, 0.95), eps=1e-3),
        dict(betas=(0.9, 0.9), degenerated_to_sgd=False),
    ],
    'Adahessian': [dict(hessian_power=0.5), dict(avg_conv_kernel=True), dict(n_samples=2), dict(update_each=3)],
    'Adan': [dict(betas=(0.9, 0.8, 0.95), eps=1e-3)],
    'Adopt': [dict(clip_exp=None), dict(maximize=True), dict(betas=(0.8, 0.95), eps=1e-2)],
    'Lamb': [
        dict(bias_correction=False),
        dict(grad_averaging=False),
        dict(max_grad_norm=None),
        dict(max_grad_norm=1000.0),
        dict(always_adapt=True, weight_decay=0.0),
        dict(betas=(0.8, 0.95), eps=1e-2),
    ],
    'LaProp': [dict(betas=(0.8, 0.95), eps=1e-3)],
    'Lars': [
        dict(momentum=0.0),
        dict(dampening=0.5),
        dict(trust_coeff=0.01, eps=1e-2),
        dict(always_adapt=True, weight_decay=0.0),
    ],
    'Lion': [dict(maximize=True), dict(betas=(0.5, 0.8))],
    'MADGRAD': [dict(momentum=0.0), dict(momentum=0.5, eps=1e-2)],
    'Mars': [
        dict(mars_type='lion'),
        dict(optimize_1d=True),
        dict(lr_1d_factor=0.5, betas_1d=(0.8, 0.9)),
        dict(gamma=0.2, betas=(0.8, 0.95), eps=1e-3),
    ],
    'Muon': [
        dict(ns_coefficients='original'),
        dict(ns_coefficients='polar_express'),
        dict(ns_coefficients='polar_express_safer', ns_steps=7),
        dict(ns_coefficients=(3.0, -3.2, 1.2), ns_steps=3),
        dict(ns_coefficients=((4.0, -6.0, 3.0), (3.0, -3.2, 1.2)), ns_steps=4),
        dict(adjust_lr_fn='original'),
        dict(adjust_lr_fn='rms_to_rms'),
        dict(scale_eps=True, eps=1e-2),
        dict(conv_mode='batched'),
        dict(conv_mode='batched', normalize_spatial=False),
        dict(safety_factor=1.5, momentum=0.5),
        dict(adamw_lr=0.01),
        dict(fallback_lr_scale=0.5, betas=(0.8, 0.9)),
        dict(fallback=('wide', 'conv')),
        dict(fallback=('wide', 'conv'), fallback_lr_scale=0.5),
    ],
    'Kron': [
        dict(deterministic=True, momentum=0.0),
        dict(deterministic=True, memory_save_mode='one_diag'),
        dict(deterministic=True, memory_save_mode='smart_one_diag'),
        dict(deterministic=True, memory_save_mode='all_diag'),
        dict(deterministic=True, max_size_triangular=8),
        dict(deterministic=True, min_ndim_triangular=3),
        dict(deterministic=True, momentum_into_precond_update=False),
        dict(deterministic=True, precond_lr=0.5, precond_init_scale=2.0),
        dict(deterministic=True, flatten=True),
        dict(deterministic=True, flatten=True, flatten_start_dim=1, flatten_end_dim=2),
        dict(deterministic=True, preconditioner_update_probability=1.0),
    ],
    'NvNovoGrad': [dict(amsgrad=True), dict(grad_averaging=True), dict(betas=(0.8, 0.95), eps=1e-3)],
    'RMSpropTF': [
        dict(momentum=0.0),
        dict(centered=True),
        dict(lr_in_momentum=False),
        dict(alpha=0.5, eps=1e-3),
    ],
}


def cases(name: str, kind: str) -> Iterator[Case]:
    """How an optimizer is asked for: without decay, with, while the learning rate falls and rises, and by option."""
    rate = RATES.get(name, RATES.get(kind.lower(), 0.03))
    required = dict(deterministic=True) if kind == 'Kron' else {}
    yield dict(lrs=(rate, rate), weight_decay=0.0, options=required)
    yield dict(lrs=(rate, 0.3 * rate), weight_decay=0.1, options=required)
    if name.endswith(('c', 'cd')):  # corrected decay depends on the largest rate
        yield dict(lrs=(0.3 * rate, rate), weight_decay=0.1, options=required)
    for options in COMMON.get(kind, []) if name in PLAIN else []:
        options = dict(options)
        case = dict(lrs=(rate, 0.3 * rate), weight_decay=options.pop('weight_decay', 0.1))
        if 'lr' in options:
            case['lrs'] = (options.pop('lr'),) * 2
        if 'fallback' in options:
            case['fallback'] = options.pop('fallback')
        yield dict(**case, options=options)


PLAIN = {'sgd', 'sgdw', 'sgdp', 'adam', 'adamw', 'nadam', 'rmsprop', 'adamwlegacy', 'nadamw', 'nadamlegacy'}
PLAIN |= {'radamlegacy', 'adamp', 'adafactor', 'adafactorbv', 'radabelief', 'adabelief', 'adahessian', 'adan', 'cadan'}
PLAIN |= {'adopt', 'lamb', 'laprop', 'lars', 'nlars', 'lion', 'madgrad', 'mars', 'cmars', 'muon', 'nadamuon', 'kronw'}
PLAIN |= {'novograd', 'novogradw', 'rmsproptf', 'adanw'}


def lookahead() -> Iterator[tuple[str, Case]]:
    """Lookahead over some."""
    for name in ('lookahead_sgd', 'lookahead_adamw', 'lookahead_lamb', 'lookahead_radam'):
        yield name, dict(lrs=(0.03, 0.01), weight_decay=0.1, options={})


def plain(value: Any) -> Any:
    """A default as JSON holds it."""
    return str(value).removeprefix('torch.') if isinstance(value, torch.dtype) else value


def main() -> None:
    import timm.optim

    rows: dict[str, dict[str, Any]] = {}
    for name in timm.optim.list_optimizers():
        info = timm.optim.get_optimizer_info(name)
        flags = ('has_eps', 'has_momentum', 'has_betas', 'num_betas', 'second_order', 'description', 'defaults')
        rows[name] = {'name': name, **{flag: getattr(info, flag) for flag in flags}}
        if isinstance(info.opt_class, str):  # of apex or bitsandbytes
            rows[name] |= {'class': info.opt_class, 'cases': []}
            continue
        given = dict(lr=0.1) if 'sgdp' in name else {}  # the one class that has no learning rate of its own
        optimizer = timm.optim.create_optimizer_v2([torch.nn.Parameter(torch.zeros(2, 2))], name, **given)
        group = {key: plain(v) for key, v in optimizer.param_groups[0].items() if key != 'params' and key not in given}
        rows[name] |= {'class': info.opt_class.__name__, 'group': group, 'cases': []}
    todo = [(n, case) for n, row in rows.items() if 'group' in row for case in cases(n, row['class'])]
    for name, case in [*todo, *lookahead()]:
        try:
            values = trajectory(timm.optim.create_optimizer_v2, name, case)
        except Exception as error:  # what the peer refuses is no reference
            print(name, case, type(error).__name__, str(error)[:200])
            continue
        row = rows.setdefault(name, {'name': name, 'cases': []})
        row['cases'].append([case, {key: shown(value).tolist() for key, value in values.items()}])
    with lzma.open(Path(__file__).parent / 'reference' / 'optim.jsonl.xz', 'wt', preset=9) as file:
        file.writelines(json.dumps(row) + '\n' for row in rows.values())


if __name__ == '__main__':
    main()
