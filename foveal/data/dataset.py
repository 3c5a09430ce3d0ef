"""One door to every source of labelled images."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from foveal.data.images import UnreadableImageError
from foveal.data.readers import FolderReader, Reader, open_named
from foveal.data.readers.folder import SPLIT_ALIASES, find_split
from foveal.data.sample import sample_rng
from foveal.data.transforms import Transform

ClassMap = str | Path | Sequence[str] | Mapping[str, int]
SPLITS = ('train', 'validation', 'test')


class Key(NamedTuple):
    """The address of one sample: with the data set's seed it decides every pixel."""

    epoch: int
    sample: int


@dataclass(frozen=True)
class BadSample:
    """An image that could not be read: it travels to the main process as a value, so that it can be named there."""

    reason: str


Sample = tuple[torch.Tensor, int]


@dataclass(frozen=True)
class ImageDataset(Dataset[Sample]):
    """Images of a reader, transformed.

    Attributes:
        reader: Where the images come from.
        indices: The reader's samples that belong here, in order.
        transform: A pipeline of `create_transform`; None gives the decoded image.
        seed: Of the transform's random numbers.
        channels: 1 (grey) or 3 (RGB).
    """

    reader: Reader
    indices: Sequence[int]
    transform: Transform | None = None
    seed: int = 0
    channels: int = 3

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> list[str]:
        return self.reader.classes

    @property
    def targets(self) -> list[int]:
        return [self.reader.targets[i] for i in self.indices]

    def name(self, index: int) -> str:
        return self.reader.name(self.indices[index])

    def with_transform(self, transform: Transform | None, seed: int = 0, channels: int = 3) -> 'ImageDataset':
        """The same samples under another pipeline."""
        return replace(self, transform=transform, seed=seed, channels=channels)

    def __getitem__(self, key: int | Key) -> Sample:
        """One sample (uint8 tensor, class index) at an index of epoch 0, or at (epoch, index)."""
        epoch, index = key if isinstance(key, tuple) else Key(0, key)
        source = self.indices[index]
        image = self.reader.read(source, self.channels)
        if self.transform is not None:
            image = self.transform(image, sample_rng(self.seed, epoch, index))
        return image, self.reader.targets[source]

    def fetch(self, key: int | Key) -> Sample | BadSample:
        """Like indexing, with an unreadable image as a value instead of an error."""
        try:
            return self[key]
        except UnreadableImageError as error:
            return BadSample(str(error))

    def __getitems__(self, keys: list[Key]) -> list[Sample | BadSample]:
        """A whole batch for the loader."""
        return [self.fetch(key) for key in keys]


def create_dataset(
    name: str = '',
    root: str | Path | None = None,
    split: str = 'validation',
    is_training: bool = False,
    download: bool = False,
    class_map: ClassMap | None = None,
    transform: Transform | None = None,
    seed: int = 0,
    channels: int = 3,
    val_fraction: float = 0.0,
) -> ImageDataset:
    """Opens a data set.

    Args:
        name: `torch/NAME` for a named set; '' or `folder` for class folders under `root`; or a folder's path.
        root: Folder of the data.
        split: train, validation or test, or a usual name of them (val, valid, ...). A folder is searched for its
            split (`train`, `val` ...); a folder without any is the split itself. Any other name must be a subfolder.
        is_training: For sources that read training data in another way; class folders and named sets do not.
        download: Fetch a named set where it is absent.
        class_map: Numbering of the classes: a text file with one name a line, names in order, or name -> index.
        transform: Pipeline of `create_transform`.
        seed: Of the transform's random numbers.
        channels: 1 (grey) or 3 (RGB).
        val_fraction: Above 0, train and validation are both cut from the training images: this share of each class,
            the same images every time, is the validation split.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: Data that are not there, or a folder without class folders.
        ValueError: An unknown name or split, or a class that `class_map` lacks.
    """
    del is_training
    kind = SPLIT_ALIASES.get(split, split)
    if not 0 <= val_fraction < 1:
        raise ValueError(f'val_fraction must be in [0, 1), got {val_fraction}')
    held_out = val_fraction > 0 and kind in ('train', 'validation')
    reader = open_reader(name, root, 'train' if held_out else kind, download, read_class_map(class_map))
    indices: Sequence[int] = range(len(reader.targets))
    if held_out:
        inside = hold_out(reader, val_fraction)
        indices = [i for i in indices if (i in inside) == (kind == 'validation')]
        if not indices:
            raise ValueError(f'val_fraction={val_fraction} of {len(reader.targets)} images leaves no {kind} images')
    return ImageDataset(reader, indices, transform, seed, channels)


def open_reader(
    name: str, root: str | Path | None, split: str, download: bool, class_map: Mapping[str, int] | None
) -> Reader:
    """The reader that a data set's name asks for."""
    prefix, _, rest = name.partition('/')
    if prefix == 'torch' and rest not in ('folder', 'image_folder'):
        if split not in SPLITS:
            raise ValueError(f'{name} has the splits train and validation (its test images), got {split!r}')
        if class_map is not None:
            raise ValueError(f'{name} has its own numbering of classes; class_map is for folders')
        return open_named(rest, root or 'data', split == 'train', download)
    base = Path(root or '') if name in ('', 'folder', 'torch/folder', 'torch/image_folder') else Path(name)
    if not base.is_dir() or base == Path(''):
        raise FileNotFoundError(f'data folder {str(base)!r} does not exist')
    found = find_split(base, split)
    if found is None and any(find_split(base, other) for other in SPLITS):
        have = ', '.join(sorted(path.name for path in base.iterdir() if path.is_dir()))
        raise FileNotFoundError(
            f'{base} has no {split} split, only {have}; give val_fraction to hold some out of train'
        )
    if found is None and split not in SPLITS:
        raise FileNotFoundError(f'{base} has no folder {split!r}')
    return FolderReader(found or base, class_map)


def read_class_map(class_map: ClassMap | None) -> Mapping[str, int] | None:
    """name -> index, from any of the forms that `create_dataset` takes."""
    if class_map is None or isinstance(class_map, Mapping):
        return class_map
    if isinstance(class_map, (str, Path)):
        if not Path(class_map).is_file():
            raise FileNotFoundError(f'class_map file {class_map} does not exist')
        class_map = Path(class_map).read_text(encoding='utf-8').split('\n')
        class_map = [line.strip() for line in class_map if line.strip()]
    if len(set(class_map)) < len(class_map):
        raise ValueError('class_map names a class twice')
    return {name: i for i, name in enumerate(class_map)}


def hold_out(reader: Reader, fraction: float) -> set[int]:
    """A share of each class, at least one image of those that have two, chosen by a hash of the samples' names.

    By the hash, so that a choice survives most changes of the folder and needs no file to remember it.
    """
    members = defaultdict(list)
    for index, target in enumerate(reader.targets):
        members[target].append((hashlib.blake2b(reader.name(index).encode()).digest(), index))
    chosen: set[int] = set()
    for group in members.values():
        count = max(round(fraction * len(group)), 1) if len(group) > 1 else 0
        chosen |= {index for _, index in sorted(group)[:count]}
    return chosen
