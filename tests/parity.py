"""Holds architectures against the facts of the published checkpoints (`tests/reference`).

    python -m tests.parity                    every architecture, outputs included (an hour on two cores)
    python -m tests.parity 'convnext*' vgg11  these
    python -m tests.parity --module resnet    a family
    python -m tests.parity --structure        names, shapes and records alone, on the meta device (minutes)

The exit status is 0 when everything that was asked for agrees.
"""

import argparse
import hashlib
import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

import foveal
from tests import reference
from tests.deterministic import fill, image

# Of the reference's standard deviation: what two orders of float32 summation differ by through the deepest networks.
TOLERANCE = 3e-3
CFG_KEYS = (
    'input_size',
    'test_input_size',
    'fixed_input_size',
    'crop_pct',
    'test_crop_pct',
    'crop_mode',
    'mean',
    'std',
)
CFG_KEYS += ('interpolation', 'pool_size', 'first_conv', 'classifier', 'num_classes')


def structure(name: str) -> list[str]:
    """What of an architecture differs from its published checkpoint, seen without running it; [] where all agrees."""
    fact = reference.models()[name]
    with torch.device('meta'):
        model = foveal.create_model(name)
    wrong = _weights(model, reference.manifests()[name])
    for key in ('num_features', 'head_hidden_size', 'num_classes'):
        if key in fact and getattr(model, key, None) != fact[key]:
            wrong.append(f'{key} is {getattr(model, key, None)}, published {fact[key]}')
    levels = [[level['num_chs'], level['reduction']] for level in _levels(model)]
    if levels != fact['features']:
        wrong.append(f'features [channels, reduction] are {levels}, published {fact["features"]}')
    cfg = dict(model.pretrained_cfg)
    for key in CFG_KEYS:
        if (ours := _plain(cfg.get(key))) != fact['cfg'].get(key):
            wrong.append(f'pretrained_cfg {key} is {ours}, published {fact["cfg"].get(key)}')
    undecayed = sorted(model.no_weight_decay())
    if undecayed != fact.get('no_weight_decay', undecayed):
        wrong.append(f'no_weight_decay is {undecayed}, published {fact["no_weight_decay"]}')
    if 'layer_groups' in fact and not wrong:
        wrong += _layer_groups(model, fact)
    return wrong


def _weights(model: nn.Module, manifest: list[list[Any]]) -> list[str]:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    ours = {
        key: [list(t.shape), str(t.dtype).removeprefix('torch.'), 'p' if key in parameters else 'b']
        for key, t in model.state_dict().items()
    }
    published = {key: rest for key, *rest in manifest}
    missing, extra = sorted(published.keys() - ours.keys()), sorted(ours.keys() - published.keys())
    other = [
        f'{key} {ours[key]} for {published[key]}' for key in published if key in ours and ours[key] != published[key]
    ]
    kinds = {'missing': missing, 'not in the checkpoint': extra, 'unlike the checkpoint': other}
    return [f'{len(keys)} weights {kind}: {", ".join(keys[:3])}' for kind, keys in kinds.items() if keys]


def _levels(model: nn.Module) -> Sequence[dict[str, Any]]:
    info: Any = model.feature_info
    return info.get_dicts() if hasattr(info, 'get_dicts') else info


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _layer_groups(model: Any, fact: dict[str, Any]) -> list[str]:
    depths: dict[str, int] = model.layer_depths()
    ranks = {depth: rank for rank, depth in enumerate(sorted(set(depths.values())))}
    parameters = [key for key, *_, kind in reference.manifests()[fact['name']] if kind == 'p']
    groups = [ranks[depths[key]] for key in parameters]
    if hashlib.sha256(json.dumps(groups).encode()).hexdigest() == fact['layer_groups']:
        return []
    return [f'layer_depths: {len(ranks)} groups of other members, published {fact["layer_group_count"]} groups']


@torch.inference_mode()
def outputs(name: str) -> list[str]:
    """What an architecture computes otherwise than the published one, under the same weights and input."""
    fact = reference.models()[name]['outputs']
    x = image(tuple(fact['input_size']))
    model = fill(foveal.create_model(name).eval())
    y = model(x)
    wrong = _differs('output', y if isinstance(y, Tensor) else y[0], fact['output'])
    if 'forward_features' in fact:
        wrong += _differs('forward_features', model.forward_features(x), fact['forward_features'])
    if features := fact.get('features_only'):
        wrong += _features(name, x, features)
    return wrong


def _differs(what: str, ours: Tensor, published: dict[str, Any]) -> list[str]:
    """The shape, first eight values, mean and standard deviation of an output against the published ones."""
    if list(ours.shape) != published['shape']:
        return [f'{what} has the shape {list(ours.shape)}, published {published["shape"]}']
    values = ours.float()
    measured = [*values.flatten()[:8].tolist(), values.mean().item(), values.std().item()]
    wanted = [*published['first'], published['mean'], published['std']]
    errors = [abs(a - b) for a, b in zip(measured, wanted, strict=True)]
    limit = TOLERANCE * max(published['std'], 1e-8)
    if all(error <= limit for error in errors):  # false for nan
        return []
    return [
        f'{what} starts {measured[:3]}, published {wanted[:3]} (largest error {max(errors):.3g}, allowed {limit:.3g})'
    ]


def _features(name: str, x: Tensor, fact: dict[str, Any]) -> list[str]:
    model = foveal.create_model(name, features_only=True).eval()
    ours = {'channels': list(model.feature_info.channels()), 'reduction': list(model.feature_info.reduction())}
    if 'shapes' in fact:
        ours['shapes'] = [list(y.shape) for y in model(x)]
    return [f'features_only {key} are {ours[key]}, published {fact[key]}' for key in ours if ours[key] != fact[key]]


def check(name: str, only_structure: bool, limit: float) -> list[str]:
    """All complaints about one architecture; an exception is one too, so that it cannot hide the next architecture."""
    fact = reference.models()[name]
    try:
        wrong = structure(name)
        if not wrong and not only_structure and 'outputs' in fact and fact['params'] <= limit:
            wrong = outputs(name)
    except Exception as error:
        wrong = [f'{type(error).__name__}: {error}']
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    from rich.console import Console
    from rich.progress import track

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('patterns', nargs='*', metavar='PATTERN', help='wildcards of architectures')
    parser.add_argument('--module', nargs='+', default=[], help='families')
    parser.add_argument('--structure', action='store_true', help='do not compare outputs')
    parser.add_argument('--limit', type=float, default=330e6, help='compare outputs up to this many parameters')
    parser.add_argument('--shard', default='0/1', metavar='I/N', help='every N-th architecture, from the I-th')
    args = parser.parse_args(arguments)
    everything = not args.patterns and not args.module
    first, step = map(int, args.shard.split('/'))
    chosen = [
        name
        for name, fact in reference.models().items()
        if everything or fact['module'] in args.module or any(fnmatchcase(name, p) for p in args.patterns)
    ][first::step]
    if not chosen:
        parser.error(f'no architecture matches {args.patterns or args.module}')
    warnings.simplefilter('ignore')
    console, verdicts, short = Console(highlight=False, soft_wrap=True), Counter[str](), Counter[str]()
    for name in track(chosen, 'architectures', console=console, disable=not console.is_terminal):
        wrong = check(name, args.structure, args.limit)
        verdicts['wrong' if wrong else 'agree'] += 1
        short[reference.models()[name]['module']] += bool(wrong)
        if wrong:
            console.print(f'{name}: ' + '; '.join(wrong), markup=False)
    if verdicts['wrong']:
        console.print('wrong: ' + ', '.join(f'{module} {n}' for module, n in sorted(short.items()) if n))
    console.print(f'{verdicts["agree"]} of {len(chosen)} architectures agree')
    return int(verdicts['wrong'] > 0)


if __name__ == '__main__':
    sys.exit(main())
