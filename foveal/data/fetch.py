"""From the addresses of a batch to its pixels: what a worker process does."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from foveal.data.bad import BadSample
from foveal.data.dataset import ImageDataset, Target, named
from foveal.data.images import Picture, UnreadableImageError
from foveal.data.memory import Slots
from foveal.data.readers.base import StreamSample
from foveal.data.sample import sample_rng
from foveal.data.sampler import BatchPlan
from foveal.data.stream import StreamDataset
from foveal.data.transforms import Pipeline, TrainTransform


class Request(NamedTuple):
    """A batch to make.

    Attributes:
        plan: Its addresses.
        slot: The buffer to put it in.
    """

    plan: BatchPlan
    slot: int


class RawBatch(NamedTuple):
    """A batch made, not yet normalised. NumPy arrays, since each tensor that changes process costs a file descriptor.

    Attributes:
        slot: The buffer that holds the images.
        shape: Of the images, (batch, channels, height, width).
        images: The images themselves, where they do not fit in a buffer, since they are not uint8.
        targets: int64 (batch,) or float32 (batch, values).
        addresses: int64 (batch, 3).
        bad: Samples that could not be read.
    """

    slot: int
    shape: tuple[int, ...]
    images: torch.Tensor | None
    targets: np.ndarray
    addresses: np.ndarray
    bad: list[BadSample]


class Fetcher(Dataset[RawBatch]):
    """Makes batches of a data set.

    Args:
        dataset: Gives the samples.
        transforms: A pipeline for each of a schedule's sizes; one without a schedule.
        splits: Above 1, every sample comes so often: clean first, then augmented (augmentation splits). The batch
            holds all first splits, then all second ones.
        channels_last: Memory format of the images.
        slots: Buffers shared with the process that asks; None where memory cannot be shared.
    """

    def __init__(
        self,
        dataset: ImageDataset | StreamDataset,
        transforms: Sequence[Pipeline],
        splits: int,
        channels_last: bool,
        slots: Slots | None,
    ):
        self.dataset, self.transforms, self.splits = dataset, transforms, splits
        self.channels_last, self.slots = channels_last, slots

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, request: Request) -> RawBatch:
        addresses, choice, samples = request.plan
        transform = self.transforms[choice]
        images: np.ndarray | None = None
        targets, kept, bad = list[Target](), list[int](), list[BadSample]()
        for i, (epoch, index, repeat) in enumerate(addresses.tolist()):
            sample = samples[i] if samples else None
            try:
                rng = sample_rng(self.dataset.seed, epoch, index, repeat)
                arrays = self.arrays(index, transform, rng, sample)
            except UnreadableImageError as error:
                name = sample.name if sample else self.dataset.name(index)
                bad.append(BadSample(index, name, named(name, str(error))))
                continue
            if images is None:
                images = self.buffer(request.slot, len(addresses), arrays[0])
            for split, array in enumerate(arrays):
                put(images, split * len(addresses) + len(kept), array, self.channels_last)
            targets.append(sample.target if sample else self.dataset.target(index))
            kept.append(i)
        return self.result(request, images, targets, kept, bad)

    def arrays(
        self, index: int, transform: Pipeline, rng: np.random.Generator, sample: StreamSample | None
    ) -> list[np.ndarray]:
        """A sample's augmented images (height, width, channels)."""
        encoded = sample.image if sample else self.dataset.read(index)
        if isinstance(encoded, str):
            raise UnreadableImageError(encoded)
        picture = Picture(encoded, self.dataset.channels)
        if self.splits > 1:
            assert isinstance(transform, TrainTransform)
            return transform.splits(picture, rng, self.splits)
        return [transform.array(picture, rng)]

    def buffer(self, slot: int, count: int, array: np.ndarray) -> np.ndarray:
        """Room for a batch of images like this one, (batch, height, width, channels) or (batch, channels, ...)."""
        height, width, channels = array.shape
        inside = (height, width, channels) if self.channels_last else (channels, height, width)
        shape = (count * self.splits, *inside)
        if self.slots is not None and array.dtype == np.uint8 and np.prod(shape) <= self.slots.size:
            return self.slots.view(slot, shape)
        return np.empty(shape, array.dtype)

    def result(
        self, request: Request, images: np.ndarray | None, targets: list[Target], kept: list[int], bad: list[BadSample]
    ) -> RawBatch:
        """The batch, closed up where samples are missing."""
        asked, count = len(request.plan.addresses), len(kept)
        addresses = np.tile(request.plan.addresses[kept], (self.splits, 1))
        if self.splits > 1:
            addresses[:, 2] = addresses[:, 2] * self.splits + np.repeat(np.arange(self.splits), count)
        if images is None:
            return RawBatch(request.slot, (0,), None, np.empty(0, np.int64), addresses, bad)
        if count < asked:
            for split in range(1, self.splits):
                images[split * count : (split + 1) * count] = images[split * asked : split * asked + count]
            images = images[: count * self.splits]
        in_slot = self.slots is not None and np.may_share_memory(images, self.slots.pages)
        rows = np.asarray(targets)
        return RawBatch(
            request.slot,
            images.shape,
            None if in_slot else torch.from_numpy(images),
            np.concatenate([rows] * self.splits),
            addresses,
            bad,
        )


def put(images: np.ndarray, place: int, array: np.ndarray, channels_last: bool) -> None:
    """Copies an image (height, width, channels) into a batch.

    To (channels, height, width) by OpenCV, where it can: 6 us for 224x224 RGB where NumPy takes 40.
    """
    target = images[place]
    if channels_last or array.shape[2] == 1:
        np.copyto(target, array.reshape(target.shape), casting='no')
    elif array.dtype == np.uint8 and array.flags.c_contiguous and target.shape == array.transpose(2, 0, 1).shape:
        cv2.split(array, list(target))
    else:
        np.copyto(target, array.transpose(2, 0, 1), casting='no')
