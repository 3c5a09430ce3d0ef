"""Draws the sheets of docs/augmentation.md: what augmentation does to photographs.

    python examples/augmentation.py docs/img

Needs scikit-image, which ships the photographs (all of them public domain).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from skimage import data

from foveal.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup, RandomErasing, create_transform
from foveal.data.auto_augment import create_policy
from foveal.data.ops import OPERATIONS, Settings
from foveal.data.resize import resize

SIDE = 128
FILL = (124, 116, 104)
LEVELS = (0, 2.5, 5, 7.5, 10)
POLICIES = ('v0', 'original', '3a', 'rand-m9-mstd0.5-inc1', 'rand-m7-p1-tweights', 'augmix-m5', 'ta_wide')
Row = tuple[str, Sequence[np.ndarray]]


def photograph(name: str) -> np.ndarray:
    """The middle of a photograph, at the size of the sheets."""
    pixels = getattr(data, name)()
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return resize(pixels[top : top + side, left : left + side], (SIDE, SIDE), 'bicubic')


def draw(path: Path, rows: Sequence[Row], heads: Sequence[str] = (), blocks: int = 1) -> None:
    """Writes rows of images, each with its name, in one or more blocks side by side."""
    height, count = -(-len(rows) // blocks), len(rows[0][1])
    figure = Figure(figsize=(blocks * (count + 0.45) * 0.95, height * 1.06 + 0.1 + 0.2 * bool(heads)), dpi=90)
    grid = figure.add_gridspec(
        height, blocks * (count + 1) - 1, wspace=0.03, hspace=0.22, left=0.01, right=0.99, bottom=0.005,
        top=1 - (0.22 + 0.2 * bool(heads)) / figure.get_figheight(),
        width_ratios=([1] * count + [0.25]) * (blocks - 1) + [1] * count,
    )  # fmt: skip
    for i, (name, images) in enumerate(rows):
        block, row = divmod(i, height)
        for j, pixels in enumerate(images):
            axes = figure.add_subplot(grid[row, block * (count + 1) + j])
            axes.imshow(pixels, interpolation='nearest')
            axes.set_axis_off()
            if j == 0:
                axes.set_title(name, loc='left', fontsize=8, pad=2)
            if row == 0 and heads and j:
                axes.set_title(heads[j], fontsize=8, pad=2, color='0.4')
    figure.savefig(path, pil_kwargs={'quality': 80})


def operations() -> list[Row]:
    """Every operation at several levels; of those with a sign, the positive one."""
    settings, pixels = Settings(FILL, 'bicubic', 0.45 * SIDE), photograph('chelsea')

    def at(name: str, level: float) -> np.ndarray:
        rng = np.random.default_rng(2)  # its first number is below one half: the positive sign
        return OPERATIONS[name](pixels, level, rng, settings)

    return [(name, [at(name, level) for level in LEVELS]) for name in OPERATIONS]


def policies(count: int = 9) -> list[Row]:
    """The image, and what a policy makes of it."""
    pixels = photograph('astronaut')
    settings = Settings(FILL, 'random', 0.45 * SIDE)
    rows: list[Row] = []
    for text in POLICIES:
        policy = create_policy(text, settings)
        rows.append((text, [pixels, *(policy(pixels, np.random.default_rng(seed)) for seed in range(1, count))]))
    return rows


def pipelines(count: int = 9) -> list[Row]:
    """Crops of training and of evaluation, jitter, grey and blur."""
    options = {
        'rrc (scale 0.08 to 1)': {},
        'rrc, scale 0.5 to 1': {'scale': (0.5, 1.0)},
        'rkrc': {'train_crop_mode': 'rkrc'},
        'rkrr': {'train_crop_mode': 'rkrr'},
        'pad': {'train_crop_mode': 'pad', 'crop_padding': 16},
        'color_jitter 0.4': {'train_crop_mode': 'none', 'color_jitter': 0.4},
        'color_jitter 0.4, hue 0.1': {'train_crop_mode': 'none', 'color_jitter': (0.4, 0.4, 0.4, 0.1)},
        'grayscale_prob 0.3, gaussian_blur_prob 0.5': {
            'train_crop_mode': 'none',
            'grayscale_prob': 0.3,
            'gaussian_blur_prob': 0.5,
        },
    }
    pixels, rows = data.coffee(), []
    for name, chosen in options.items():
        transform = create_transform(
            SIDE, is_training=True, interpolation='bicubic', normalize=False, **{'color_jitter': 0, **chosen}
        )
        rows.append((name, [transform.array(pixels, np.random.default_rng(seed)) for seed in range(count)]))
    evaluation = [
        create_transform(SIDE, crop_mode=mode, crop_pct=pct, normalize=False).array(pixels)
        for mode in ('center', 'squash', 'border')
        for pct in (1.0, 0.875, 0.7)
    ]
    return [*rows, ('evaluation: center, squash, border; crop_pct 1, 0.875, 0.7 of each', evaluation)]


def batches() -> list[Row]:
    """Erasing and mixing of whole batches."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    # no image meets its like: partners are as far from the two ends
    names = ('astronaut', 'chelsea', 'coffee', 'rocket', 'astronaut', 'chelsea', 'astronaut', 'coffee', 'rocket')
    pixels = np.stack([photograph(name) for name in names])
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    addresses = np.array([(0, i, 0) for i in range(len(names))])

    def shown(batch: torch.Tensor) -> list[np.ndarray]:
        return list((batch * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy())

    rows: list[Row] = [('a batch', shown(images))]
    for name, erasing in {
        'erasing, const': RandomErasing(1.0),
        'erasing, rand, 1 to 3 boxes': RandomErasing(1.0, mode='rand', max_count=3),
        'erasing, pixel': RandomErasing(1.0, mode='pixel'),
    }.items():
        rows.append((name, shown(erasing(images.clone(), addresses))))
    for name, mix in {
        'mixup 0.8, batch': Mixup(0.8),
        'mixup 0.8, elem': Mixup(0.8, mode='elem'),
        'cutmix 1.0, pair': Mixup(0.0, 1.0, mode='pair'),
        'cutmix_minmax 0.2 to 0.6, elem': Mixup(0.0, cutmix_minmax=(0.2, 0.6), mode='elem'),
        'mixup 0.8 and cutmix 1.0, elem': Mixup(0.8, 1.0, mode='elem'),
    }.items():
        rows.append((name, shown(mix(images, torch.arange(len(names)), np.random.default_rng(4))[0])))
    return rows


def main(folder: Path) -> None:
    """Writes the four sheets."""
    folder.mkdir(parents=True, exist_ok=True)
    heads = [f'level {level:g}' for level in LEVELS]
    draw(folder / 'operations.jpg', operations(), heads, blocks=3)
    draw(folder / 'policies.jpg', policies())
    draw(folder / 'pipelines.jpg', pipelines())
    draw(folder / 'batches.jpg', batches())


if __name__ == '__main__':
    main(Path(sys.argv[1] if len(sys.argv) > 1 else 'docs/img'))
