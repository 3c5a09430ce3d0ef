"""Images in folders named for their classes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from foveal.data.images import IMAGE_EXTENSIONS, read_image

SPLIT_FOLDERS = {
    'train': ('train', 'training'),
    'validation': ('val', 'valid', 'validation', 'eval', 'evaluation', 'test'),
    'test': ('test', 'testing'),
}
SPLIT_ALIASES = {'training': 'train', 'val': 'validation', 'valid': 'validation', 'eval': 'validation'}


class FolderReader:
    """The images under a folder, each of the class that the folder holding it is named for.

    Classes are numbered in natural order (`class2` before `class10`) unless `class_map` numbers them.

    Args:
        root: The folder.
        class_map: Names in the order of their indices, or name -> index. Images of a class that it lacks are an error.

    Raises:
        FileNotFoundError: No such folder, no class folder, or no image under it.
        ValueError: A class folder that `class_map` does not name.
    """

    def __init__(self, root: str | Path, class_map: Mapping[str, int] | None = None):
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f'data folder {self.root} does not exist')
        self.files, labels = self.scan()
        names = sorted(set(labels), key=natural_key)
        index = {name: i for i, name in enumerate(names)} if class_map is None else dict(class_map)
        if unknown := [name for name in names if name not in index]:
            known = ', '.join(list(index)[:10])
            raise ValueError(f'{self.root} has class folders {unknown[:5]} that are not among the classes: {known} ...')
        self.classes = sorted(index, key=lambda name: index[name])
        self.targets = [index[label] for label in labels]

    def scan(self) -> tuple[list[str], list[str]]:
        """Relative paths of all images below a class folder, in natural order, and their classes."""
        files, loose = [], 0
        for folder, _, names in os.walk(self.root, followlinks=True):
            images = [name for name in names if name.lower().endswith(IMAGE_EXTENSIONS)]
            inside = os.path.relpath(folder, self.root)
            if inside == '.':
                loose = len(images)
            else:
                files += [f'{inside}/{name}' for name in images]
        if not files:
            what = f'{loose} images but no class folders' if loose else f'no images ({" ".join(IMAGE_EXTENSIONS)})'
            raise FileNotFoundError(f'{self.root} holds {what}; it needs one folder of images for each class')
        files.sort(key=natural_key)
        return files, [file.split('/')[-2] for file in files]

    def read(self, index: int, channels: int) -> torch.Tensor:
        return read_image(self.root / self.files[index], channels)

    def name(self, index: int) -> str:
        return self.files[index]


def natural_key(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts numbers inside names by value; the name itself breaks ties such as `1` and `01`."""
    parts = re.split(r'(\d+)', text.lower())
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts], text


def find_split(root: Path, split: str) -> Path | None:
    """The folder of a split under a root, by any of its usual names; None where there is none."""
    kind = SPLIT_ALIASES.get(split, split)
    names = (split, *SPLIT_FOLDERS.get(kind, ()))
    return next((root / name for name in names if (root / name).is_dir()), None)
