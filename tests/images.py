"""Small image folders that tests train and look at."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {'blue': (40, 60, 200), 'green': (40, 180, 60), 'red': (210, 50, 40)}


def write_folder(
    root: Path, per_class: int = 16, size: tuple[int, int] = (40, 32), **colours: tuple[int, int, int]
) -> Path:
    """Writes noisy images of one colour a class as root/{train,val}/COLOUR/N.png, the val split a quarter as large."""
    rng = np.random.default_rng(0)
    for split, count in (('train', per_class), ('val', max(1, per_class // 4))):
        for name, colour in (colours or COLOURS).items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 60, (size[1], size[0], 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i}.png')
    return root
