"""Writes tests/reference/augment.jsonl.xz: what timm's augmentation does, measured from outside.

    python -m tests.photos PHOTOS.npz
    PYTHON_WITH_TIMM tests/make_augment_reference.py PHOTOS.npz

Each row is [name, facts]; `main` lists them. Distributions are those of many draws, so another run differs a little.
"""

import inspect
import json
import lzma
import math
import random
import sys
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ResizeKeepRatio, create_transform

# functions of the same names hide the modules
policies = import_module('timm.data.auto_augment')
Mixup = import_module('timm.data.mixup').Mixup
RandomErasing = import_module('timm.data.random_erasing').RandomErasing

FILE = Path(__file__).parent / 'reference' / 'augment.jsonl.xz'
SETTINGS = dict(translate_const=100, img_mean=(124, 116, 104))
TABLES = ('v0', 'v0r', 'original', 'originalr', '3a')
STRINGS = (
    *('rand', 'rand-m9', 'rand-m9-mstd0.5-inc1', 'rand-m7-n3-mstd0.5-mmax12-inc1', 'rand-p0.7-n4', 'rand-t3a'),
    *('rand-t3aw-m5', 'rand-tweights-n3', 'rand-mstd101', 'rand-mmax5-m9', 'rand-m6-inc0', 'v0-mstd0.5', 'augmix'),
    *('augmix-m5', 'augmix-m5-w4-d2', 'augmix-a0.5-mstd1', 'augmix-b1'),
)
DRAWN = (
    *('rand-m9-mstd0.5-inc1', 'rand-m9-mstd101', 'rand-m9-mstd3-mmax20', 'rand-m9-mstd3', 'rand-m12'),
    *('rand-n3-p1-tweights', 'rand-t3aw-n2', *TABLES, 'augmix', 'augmix-w2-d2'),
)
STAGES: tuple[dict[str, Any], ...] = (
    {},
    dict(auto_augment='rand-m9'),
    dict(auto_augment='3a'),
    dict(auto_augment='augmix-m3', color_jitter=0.3, grayscale_prob=0.1, gaussian_blur_prob=0.1),
    dict(vflip=0.5, color_jitter_prob=0.8, train_crop_mode='rkrr'),
    dict(train_crop_mode='rkrc', hflip=0.0, color_jitter=None),
    dict(auto_augment='v0', color_jitter_prob=0.5, grayscale_prob=1.0),
)
ERASING: tuple[dict[str, Any], ...] = (
    dict(probability=1.0),
    dict(probability=0.25),
    dict(probability=1.0, min_count=3, max_count=3),
    dict(probability=1.0, max_count=3),
    dict(probability=1.0, max_area=0.1, min_aspect=0.5),
)
MIXING: tuple[dict[str, Any], ...] = (
    dict(mixup_alpha=0.8, cutmix_alpha=0.0),
    dict(mixup_alpha=0.0, cutmix_alpha=1.0),
    dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.5, switch_prob=0.3),
    dict(mixup_alpha=0.0, cutmix_alpha=0.0, cutmix_minmax=(0.2, 0.6)),
)
# input size, crop_pct, crop_mode, interpolation, crop_border_pixels
EVALUATION = (
    ((3, 224, 224), 0.875, 'center', 'bilinear', 0),
    ((3, 224, 224), 0.9, 'center', 'bicubic', 0),
    ((3, 160, 192), 0.95, 'center', 'bicubic', 0),
    ((3, 160, 192), 1.0, 'center', 'bilinear', 0),
    ((3, 224, 224), 1.0, 'squash', 'bilinear', 0),
    ((3, 160, 192), 0.9, 'squash', 'lanczos', 0),
    ((3, 224, 224), 0.875, 'border', 'bicubic', 0),
    ((3, 192, 160), 0.95, 'border', 'bilinear', 0),
    ((3, 224, 224), 0.9, 'center', 'nearest', 0),
    ((3, 224, 224), 0.9, 'center', 'box', 0),
    ((3, 299, 299), 0.9, 'center', 'hamming', 0),
    ((3, 224, 224), 0.9, 'center', 'bicubic', 8),
)


def create_policy(text: str) -> Any:
    """The peer's policy of a string."""
    kind = text.split('-')[0]
    create = {'rand': policies.rand_augment_transform, 'augmix': policies.augment_and_mix_transform}
    return create.get(kind, policies.auto_augment_transform)(text, dict(SETTINGS))


def steps(policy: Any) -> list[Any]:
    """All operations of a policy."""
    return policy.ops if hasattr(policy, 'ops') else [step for pair in policy.policy for step in pair]


def levels() -> dict[str, Any]:
    """Operation -> [level, arguments that came up]."""
    asked = (0, 1, 2, 3, 4, 5, 6, 7, 7.3, 8, 9, 9.5, 10, 12)
    return {
        name: None
        if argument is None
        else [[level, sorted({round(argument(level, SETTINGS)[0], 6) + 0.0 for _ in range(60)})] for level in asked]
        for name, argument in policies.LEVEL_TO_ARG.items()
    }


def parsed(text: str) -> dict[str, Any]:
    """What a policy string stands for."""
    policy = create_policy(text)
    first, weights = steps(policy)[0], getattr(policy, 'choice_weights', None)
    return {
        'ops': [step.name for step in steps(policy)],
        'prob': first.prob,
        'm': first.magnitude,
        'mstd': None if math.isinf(first.magnitude_std) else first.magnitude_std,
        'mmax': first.magnitude_max,
        'n': getattr(policy, 'num_layers', None),
        'weights': None if weights is None else [round(float(weight), 6) for weight in weights],
        **{key: getattr(policy, key, None) for key in ('width', 'depth', 'alpha')},
    }


def drawn(text: str) -> dict[str, Any]:
    """How often a policy uses each operation, how many an image has, and their levels."""
    policy, count, uses, seen = create_policy(text), 5000 if 'augmix' in text else 20000, [], []
    for step in steps(policy):

        def spy(image: Image.Image, *_: Any, name: str = step.name, **__: Any) -> Image.Image:
            uses[-1].append(name)
            return image

        def level_spy(level: float, settings: Any, argument: Any = step.level_fn) -> Any:
            seen.append(level)
            return argument(level, settings)

        step.aug_fn = spy
        step.level_fn = level_spy if step.level_fn else None
    image = Image.new('RGB', (40, 32))
    for _ in range(count):
        uses.append([])
        policy(image)
    return {
        'images': count,
        'uses': dict(sorted(Counter(name for one in uses for name in one).items())),
        'per_image': sorted(Counter(map(len, uses)).items()),
        'level_mean': float(np.mean(seen)),
        'level_std': float(np.std(seen)),
        'level_min': float(min(seen)),
        'level_max': float(max(seen)),
    }


def stages(options: dict[str, Any]) -> list[str]:
    """Names of a training pipeline's stages."""
    found = create_transform(is_training=True, use_prefetcher=True, **options).transforms
    names = [type(stage).__name__ for stage in found]
    return [
        f'{name} {type(stage.transforms[0]).__name__}' if name == 'RandomApply' else name
        for name, stage in zip(names, found, strict=True)
    ]


def keep_ratio() -> dict[str, Any]:
    """Sizes that the keep-ratio crops resize to."""
    resize = ResizeKeepRatio(
        (160, 192),
        random_scale_prob=0.5,
        random_scale_range=(0.8, 1.0),
        random_aspect_prob=0.5,
        random_aspect_range=(0.9, 1 / 0.9),
    )
    image = Image.new('RGB', (400, 300))
    sizes = np.array([resize(image).size[::-1] for _ in range(8000)], float)
    spread = {name: getattr(sizes, name)(0).tolist() for name in ('mean', 'std', 'min', 'max')}
    plain = float((sizes == [160, 213]).all(1).mean())
    return {'input': [300, 400], 'size': [160, 192], **spread, 'plain': plain}


def erasing(options: dict[str, Any], count: int = 20000, size: tuple[int, int] = (64, 48)) -> dict[str, Any]:
    """Where random erasing erases how much."""
    images = torch.ones(count, 1, *size)
    RandomErasing(mode='const', device='cpu', **options)(images)
    erased = (images[:, 0] == 0).float()
    area = erased.mean((1, 2))
    area = area[area > 0]
    return {
        'images': count,
        'size': size,
        'share': len(area) / count,
        **{f'area_{name}': getattr(area, name)().item() for name in ('mean', 'std', 'min', 'max')},
        'rows': [round(row, 5) for row in erased.mean((0, 2))[::8].tolist()],
    }


def mixing(mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Shares that mixing draws, and how often it is mixup, cutmix or nothing."""
    mix, shares, kinds = Mixup(mode=mode, label_smoothing=0.0, num_classes=8, **options), [], Counter()
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 32, 40)
    rows = {'batch': 1, 'pair': 4, 'elem': 8}[mode]
    for _ in range(2000 // rows):
        mixed, targets = mix(images.clone(), torch.arange(8))
        for i in range(rows):
            shares.append(float(targets[i, i]))
            is_plain = len(mixed[i].unique()) == 1
            kinds['none' if shares[-1] == 1 else 'mixup' if is_plain else 'cutmix'] += 1
    return {
        'draws': len(shares),
        'share_mean': float(np.mean(shares)),
        'share_std': float(np.std(shares)),
        'kinds': dict(kinds),
    }


def evaluation(photos: Any) -> list[Any]:
    """[options, photograph, every 21st row and 23rd column of the evaluation crop]."""
    rows = []
    for size, crop_pct, mode, interpolation, border in EVALUATION:
        transform = create_transform(
            size,
            crop_pct=crop_pct,
            crop_mode=mode,
            interpolation=interpolation,
            crop_border_pixels=border or None,
            use_prefetcher=True,
        )
        for name in ('coffee', 'chelsea', 'china', 'small'):
            pixels = np.asarray(transform(Image.fromarray(photos[name])))[:, 3::21, 5::23]
            rows.append([[size, crop_pct, mode, interpolation, border], name, pixels.tolist()])
    return rows


def defaults(function: Any) -> dict[str, Any]:
    """Names and plain default values of a function's arguments."""
    plain = (int, float, str, bool, tuple, type(None))
    return {
        name: parameter.default if isinstance(parameter.default, plain) else None
        for name, parameter in inspect.signature(function).parameters.items()
    }


def main(photos: str) -> None:
    """Measures everything and writes the file."""
    warnings.simplefilter('ignore')
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    rows = {
        'levels': levels(),
        'policies': {
            name: [
                [(step.name, step.prob, step.magnitude) for step in pair]
                for pair in policies.auto_augment_policy(name, hparams=SETTINGS)
            ]
            for name in TABLES
        },
        'parsed': {text: parsed(text) for text in STRINGS},
        'drawn': {text: drawn(text) for text in DRAWN},
        'stages': {json.dumps(options): stages(options) for options in STAGES},
        'keep_ratio': keep_ratio(),
        'erasing': [[options, erasing(options)] for options in ERASING],
        'mixing': [
            [{'mode': mode, **options}, mixing(mode, options)]
            for mode in ('batch', 'pair', 'elem')
            for options in MIXING
        ],
        'evaluation': evaluation(np.load(photos)),
        'defaults': {function.__name__: defaults(function) for function in (create_transform, Mixup, RandomErasing)},
    }
    with lzma.open(FILE, 'wt') as file:
        for row in rows.items():
            file.write(json.dumps(row) + '\n')


if __name__ == '__main__':
    main(sys.argv[1])
