"""Named data sets, by torchvision."""

from pathlib import Path

import numpy as np

from foveal.data.readers.arrays import ArrayReader, read_idx
from foveal.errors import near

# name -> torchvision class; each class takes (root, train, download) and holds `data`, `targets` and `classes`
NAMED = {
    'cifar10': 'CIFAR10',
    'cifar100': 'CIFAR100',
    'fashion_mnist': 'FashionMNIST',
    'kmnist': 'KMNIST',
    'mnist': 'MNIST',
}
IDX_FILES = {True: ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte')}
IDX_FILES[False] = ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')


def open_named(name: str, root: str | Path, is_train_split: bool, download: bool = False) -> ArrayReader:
    """Opens one of torchvision's sets, all of whose images fit in memory.

    Args:
        name: cifar10, cifar100, fashion_mnist, kmnist or mnist.
        root: Folder that torchvision downloads to or, for the MNIST family, a plain folder of the four IDX files,
            gzipped or not.
        is_train_split: The training images, or else the test images.
        download: Fetch the set where it is absent.

    Raises:
        ValueError: Unknown name.
        FileNotFoundError: The set is not under `root`, and `download` is off.
    """
    if name not in NAMED:
        raise ValueError(f'data set torch/{name} is unknown{near(name, NAMED)}')
    # torchvision takes a second to import and the plain folder of a named set does not need its class's machinery
    from torchvision import datasets

    cls = getattr(datasets, NAMED[name])
    if (files := find_idx_files(Path(root), is_train_split)) and 'mnist' in name:
        images, labels = (read_idx(file) for file in files)
        return ArrayReader(images, labels.tolist(), list(cls.classes))
    try:
        data = cls(str(root), train=is_train_split, download=download)
    except RuntimeError as error:
        raise FileNotFoundError(f'torch/{name} is not in {root} ({error}); download it with --download') from error
    return ArrayReader(np.asarray(data.data), [int(label) for label in data.targets], list(data.classes))


def find_idx_files(root: Path, is_train_split: bool) -> list[Path] | None:
    """The images and labels of a split in a plain folder of IDX files, or None where they are not all there."""
    found = [
        next((path for ending in ('', '.gz') if (path := root / (name + ending)).is_file()), None)
        for name in IDX_FILES[is_train_split]
    ]
    return [path for path in found if path] if all(found) else None
