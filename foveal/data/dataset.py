"""The samples of a source, decoded and transformed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from foveal.data.images import PILLOW_MODES, Picture, UnreadableImageError
from foveal.data.readers import Reader
from foveal.data.readers.base import Encoded
from foveal.data.sample import sample_rng
from foveal.data.transforms import Transform

Target = int | np.ndarray
Sample = tuple[torch.Tensor, Target]


class Key(NamedTuple):
    """The address of one sample: with the data set's seed it decides every pixel.

    Attributes:
        epoch: From 0.
        sample: Index in the data set.
        repeat: Which of its appearances in the epoch, where it has several.
    """

    epoch: int
    sample: int
    repeat: int = 0


@dataclass(frozen=True)
class ImageDataset(Dataset[Sample]):
    """Images of a reader, transformed.

    Attributes:
        reader: Where the images come from.
        indices: The reader's samples that belong here, in order.
        transform: A pipeline of `create_transform`; None gives the decoded image.
        seed: Of the transform's random numbers.
        channels: 1 (grey), 3 (RGB), or as many as the images have.
    """

    reader: Reader
    indices: Sequence[int] | np.ndarray
    transform: Transform | None = None
    seed: int = 0
    channels: int = 3

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> list[str]:
        return self.reader.classes

    @property
    def targets(self) -> list[Target]:
        return [self.target(index) for index in range(len(self))]

    def target(self, index: int) -> Target:
        """What is known of a sample: a class index, or a float32 row of labels or numbers."""
        target = self.reader.targets[self.indices[index]]
        return target if isinstance(target, np.ndarray) else int(target)

    def name(self, index: int) -> str:
        return self.reader.name(int(self.indices[index]))

    def read(self, index: int) -> Encoded:
        """A sample as its source holds it."""
        return self.reader.read(int(self.indices[index]))

    def with_transform(self, transform: Transform | None, seed: int = 0, channels: int = 3) -> 'ImageDataset':
        """The same samples under another pipeline."""
        return replace(self, transform=transform, seed=seed, channels=channels)

    def __getitem__(self, key: int | Key) -> Sample:
        """One sample (tensor (channels, height, width), target), by its index, in epoch 0, or by its address.

        Raises:
            UnreadableImageError: The message names the sample.
        """
        epoch, index, repeat = key if isinstance(key, tuple) else Key(0, key)
        try:
            picture = Picture(self.read(index), self.channels)
            if self.transform is None:
                image = torch.from_numpy(np.ascontiguousarray(picture.pixels())).permute(2, 0, 1)
            else:
                image = self.transform(picture, sample_rng(self.seed, epoch, index, repeat))
        except UnreadableImageError as error:
            raise UnreadableImageError(named(self.name(index), str(error))) from error
        return image, self.target(index)


def named(name: str, reason: str) -> str:
    """Why a sample could not be read, with its name in front where the reason does not say it."""
    return reason if name in reason else f'cannot read image {name}: {reason}'


def check_channels(dataset: Dataset[Sample], channels: int) -> None:
    """Finds out before the work whether images have the channels that a model wants; any serve one that wants 1 or 3.

    Raises:
        ValueError: The first image has others.
    """
    if channels not in PILLOW_MODES and isinstance(dataset, ImageDataset):
        try:
            Picture(dataset.read(0), channels)
        except UnreadableImageError as error:
            raise ValueError(f'the model takes {channels} channels (in_chans); {dataset.name(0)}: {error}') from error
