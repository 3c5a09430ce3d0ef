"""Tables of real handwritten digits (scikit-learn's) with several labels an image, and with numbers."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

FIRST = 1437  # the others are by other hands, and only seen in the evaluation


def write(file: Path, column: str, rows: Iterator[tuple[Image.Image, Any]], train: int) -> Path:
    """Writes a table and its images beside it; the rows after the first `train` are to evaluate on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('w', newline='') as out:
        table = csv.writer(out)
        table.writerow(['path', column, 'split'])
        for number, (image, target) in enumerate(rows):
            name = f'{file.stem}{number}.png'
            image.save(file.parent / name)
            table.writerow([name, target, 'train' if number < train else 'val'])
    return file


def digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (1797, 8, 8) and what they are."""
    found = load_digits()
    return (found.images * 255 / 16).round().astype('uint8'), found.target


def write_pairs(file: Path, train: int = 400, val: int = 100) -> Path:
    """Two digits side by side, each a label."""
    images, labels = digits()
    rng = np.random.default_rng(0)

    def rows() -> Iterator[tuple[Image.Image, str]]:
        for number in range(train + val):
            pair: Sequence[int] = rng.integers(*((0, FIRST) if number < train else (FIRST, len(images))), 2)
            pixels = np.pad(np.concatenate(images[pair], 1), ((4, 4), (0, 0)))
            yield Image.fromarray(pixels).resize((32, 32)), ';'.join(sorted({str(labels[i]) for i in pair}))

    return write(file, 'labels', rows(), train)


def write_angles(file: Path, train: int = 400, val: int = 100) -> Path:
    """A turned digit and by how many degrees, from -60 to 60."""
    images, _ = digits()
    rng = np.random.default_rng(0)

    def rows() -> Iterator[tuple[Image.Image, float]]:
        for number in range(train + val):
            which = rng.integers(*((0, FIRST) if number < train else (FIRST, len(images))))
            angle = round(float(rng.uniform(-60, 60)), 2)
            yield Image.fromarray(images[which]).resize((32, 32)).rotate(angle), angle

    return write(file, 'angle', rows(), train)
