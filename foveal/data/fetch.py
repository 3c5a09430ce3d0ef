"""From the addresses of a batch to its pixels: what a worker process does."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from foveal.data.bad import BadSample
from foveal.data.dataset import ImageDataset, Target, named
from foveal.data.images import Picture, UnreadableImageError
from foveal.data.memory import Slots
from foveal.data.sample import sample_rng
from foveal.data.sampler import BatchPlan
from foveal.data.stream import StreamDataset
from foveal.data.transforms import Pipeline

# samples that are worked on together, and the bytes before and after cropping from which on there are fewer
GROUP, GROUP_BYTES = 32, 32 << 20


class Request(NamedTuple):
    """A batch to make.

    Attributes:
        plan: Its addresses.
        slot: The buffer to put it in.
    """

    plan: BatchPlan
    slot: int


class Opened(NamedTuple):
    """A sample whose file is read: its place in the batch, its picture and its random numbers."""

    place: int
    picture: Picture
    rng: np.random.Generator


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
        plan = request.plan
        transform, size = self.transforms[plan.choice], len(plan.addresses)
        images: np.ndarray | None = None
        kept, bad = list[int](), dict[int, BadSample]()
        for group in self.groups(plan, bad):
            samples = self.cropped(group, transform, plan, bad)
            clean, rngs = [image for _, image in samples], [opened.rng for opened, _ in samples]
            # augmentation splits (arXiv:1912.02781, section 3): clean, then changed by different chances
            versions = [clean] if self.splits > 1 else []
            versions += [transform.augment_all(clean, rngs) for _ in range(max(1, self.splits - 1))]
            for split, arrays in enumerate(versions):
                for place, array in enumerate(arrays, split * size + len(kept)):
                    if images is None:
                        images = self.buffer(request.slot, size, array)
                    put(images, place, array, self.channels_last)
            kept += [opened.place for opened, _ in samples]
        targets = [self.target(plan, place) for place in kept]
        return self.result(request, images, targets, kept, [bad[place] for place in sorted(bad)])

    def cropped(
        self, group: list[Opened], transform: Pipeline, plan: BatchPlan, bad: dict[int, BadSample]
    ) -> list[tuple[Opened, np.ndarray]]:
        """Samples with their clean images, those that can be decoded."""
        samples = []
        for opened in group:
            try:
                samples.append((opened, transform.base(opened.picture, opened.rng)))
            except UnreadableImageError as error:
                bad[opened.place] = self.bad(plan, opened.place, error)
        return samples

    def groups(self, plan: BatchPlan, bad: dict[int, BadSample]) -> Iterator[list[Opened]]:
        """The samples of a batch, read from their files.

        A few at a time: what is done to many images in a row finds its code in the cache, and takes about half as long
        as between decoding and resizing.
        """
        group, held = list[Opened](), 0
        crop_bytes = math.prod(self.transforms[plan.choice].preprocess.input_size)
        for place, (epoch, index, repeat) in enumerate(plan.addresses.tolist()):
            try:
                encoded = plan.samples[place].image if plan.samples else self.dataset.read(index)
                if isinstance(encoded, str):
                    raise UnreadableImageError(encoded)
                picture = Picture(encoded, self.dataset.channels)
            except UnreadableImageError as error:
                bad[place] = self.bad(plan, place, error)
                continue
            group.append(Opened(place, picture, sample_rng(self.dataset.seed, epoch, index, repeat)))
            held += picture.nbytes + crop_bytes
            if len(group) == GROUP or held > GROUP_BYTES:
                yield group
                group, held = [], 0
        yield group

    def target(self, plan: BatchPlan, place: int) -> Target:
        """What is known of a sample."""
        return plan.samples[place].target if plan.samples else self.dataset.target(int(plan.addresses[place, 1]))

    def bad(self, plan: BatchPlan, place: int, error: UnreadableImageError) -> BadSample:
        """A sample that cannot be read, by its name."""
        index = int(plan.addresses[place, 1])
        name = plan.samples[place].name if plan.samples else self.dataset.name(index)
        return BadSample(index, name, named(name, str(error)))

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
