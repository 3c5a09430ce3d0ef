"""Named data sets, by torchvision."""

from pathlib import Path
from typing import Any

import numpy as np

from foveal.data.labels import Encoder
from foveal.data.readers.arrays import ArrayReader, find_idx_files, read_idx
from foveal.data.readers.base import Reader
from foveal.data.readers.files import FileReader
from foveal.data.splits import SPLITS, canonical
from foveal.errors import near

# name -> torchvision class; all the images of these fit in memory
IN_MEMORY = {
    'cifar10': 'CIFAR10',
    'cifar100': 'CIFAR100',
    'fashion_mnist': 'FashionMNIST',
    'kmnist': 'KMNIST',
    'mnist': 'MNIST',
    'qmnist': 'QMNIST',
}
IN_FILES = ('imagenet', 'inaturalist', 'inat', 'places365')
INATURALIST_TARGETS = ('full', 'kingdom', 'phylum', 'class', 'order', 'family', 'genus', 'super')


def open_named(name: str, root: str | Path, split: str, download: bool = False) -> Reader:
    """Opens one of torchvision's sets.

    Args:
        name: cifar10, cifar100, fashion_mnist, kmnist, mnist, qmnist, imagenet, inaturalist (or inat) or places365.
        root: Folder that torchvision downloads to or, for the MNIST family, a plain folder of the four IDX files,
            gzipped or not.
        split: train or validation (test); of inaturalist a level and a version, such as `family/2021_train`.
        download: Fetch the set where it is absent.

    Raises:
        ValueError: Unknown name or split.
        FileNotFoundError: The set is not under `root`, and `download` is off.
    """
    name = name.lower()
    if name not in IN_MEMORY and name not in IN_FILES:
        raise ValueError(f'data set torch/{name} is unknown{near(name, [*IN_MEMORY, *IN_FILES])}')
    kind = canonical(split)
    if kind not in SPLITS and not name.startswith('inat'):
        raise ValueError(f'torch/{name} has the splits train and validation (its test images), got {split!r}')
    # torchvision takes a second to import
    from torchvision import datasets

    try:
        if name in IN_MEMORY:
            return open_in_memory(name, getattr(datasets, IN_MEMORY[name]), Path(root), kind, download)
        if name == 'places365':
            part = 'train-standard' if kind == 'train' else 'val'
            data: Any = datasets.Places365(str(root), split=part, download=download)
            return of_files(root, [file for file, _ in data.imgs], data.targets, list(data.classes))
        if name == 'imagenet':
            data = datasets.ImageNet(str(root), split='train' if kind == 'train' else 'val')
            files = [file for file, _ in data.samples]
            return of_files(root, files, data.targets, [', '.join(names) for names in data.classes])
        level, version = inaturalist_split(split)
        data = datasets.INaturalist(str(root), version=version, target_type=level, download=download)
    except (RuntimeError, FileNotFoundError) as error:
        raise FileNotFoundError(f'torch/{name} is not in {root} ({error}); download it with --download') from error
    files = [str(Path(data.root, data.all_categories[folder], file)) for folder, file in data.index]
    if level == 'full':
        return of_files(root, files, [folder for folder, _ in data.index], list(data.all_categories))
    number = {folder: data.categories_map[folder][level] for folder in range(len(data.all_categories))}
    names = sorted(data.categories_index[level], key=lambda key: data.categories_index[level][key])
    return of_files(root, files, [number[folder] for folder, _ in data.index], names)


def open_in_memory(name: str, cls: Any, root: Path, split: str, download: bool) -> ArrayReader:
    """One of the sets whose images are an array."""
    if 'mnist' in name and (files := find_idx_files(root, split)):
        images, labels = (read_idx(file) for file in files)
        found = Encoder(f'torch/{name}', names=list(cls.classes)).single(labels.tolist())
        return ArrayReader(images, found.targets, found.classes, origin=str(files[0]))
    data = cls(str(root), train=split == 'train', download=download)
    targets = np.asarray(data.targets, np.int64)
    # QMNIST's labels carry the writer and more behind the digit
    targets = targets[:, 0] if targets.ndim == 2 else targets
    return ArrayReader(
        np.asarray(data.data), targets, list(data.classes), origin=f'torch/{name}:{split == "train"}:{root}'
    )


def inaturalist_split(split: str) -> tuple[str, str]:
    """Level and version of a split such as `family/2021_train`, `2021_valid` or `train`."""
    level, _, version = split.rpartition('/')
    level = level or 'full'
    if level not in INATURALIST_TARGETS:
        raise ValueError(f'inaturalist has no level {level!r}{near(level, INATURALIST_TARGETS)}')
    kind = canonical(version)
    return level, {'train': '2021_train', 'validation': '2021_valid'}.get(kind, version)


def of_files(root: str | Path, files: list[str], targets: list[int], classes: list[str]) -> FileReader:
    """A set whose images are files below its folder."""
    base = Path(root).absolute()
    relative = [
        str(Path(file).absolute().relative_to(base)) if Path(file).absolute().is_relative_to(base) else file
        for file in files
    ]
    reader = FileReader(base, relative, np.asarray(targets, np.int64), classes)
    reader.origin += f':{len(files)}:{relative[0]}'
    return reader
