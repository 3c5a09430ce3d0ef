"""Batches on the device, in an order that a seed and two integers decide."""

import atexit
import gc
import signal
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from foveal.data.bad import BadSamples
from foveal.data.dataset import ImageDataset
from foveal.data.fetch import Fetcher, RawBatch, Request
from foveal.data.images import UnreadableImageError
from foveal.data.memory import Recycled, Slots, is_forking
from foveal.data.preprocess import Preprocess
from foveal.data.random_erasing import RandomErasing
from foveal.data.sampler import BatchSampler
from foveal.data.stream import Mark, StreamDataset, StreamSampler
from foveal.data.transforms import Pipeline, normalize_batch

# batches that each worker may be ahead
PREFETCH = 2
# those whose workers must be told when the program ends
LOADERS: 'weakref.WeakSet[Loader]' = weakref.WeakSet()


@dataclass(frozen=True)
class Batch:
    """Images and targets, which it can be unpacked to, and where they come from.

    Attributes:
        images: Normalised (batch, channels, height, width).
        targets: Class indices, int64 (batch,), or rows of labels or numbers, float32 (batch, values).
        addresses: int64 (batch, 3), on the CPU: epoch, index in the data set and repeat of every image. With
            augmentation splits, the repeat counts them as well.
    """

    images: torch.Tensor
    targets: torch.Tensor
    addresses: torch.Tensor

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.images, self.targets))


class Requests(Sampler[Request]):
    """A sampler's batches, each with a buffer of its own until it has been taken."""

    def __init__(self, sampler: BatchSampler | StreamSampler, slots: int):
        self.sampler, self.slots = sampler, slots

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Request]:
        for number, plan in enumerate(self.sampler):
            yield Request(plan, number % self.slots)


class Loader:
    """Iterates over normalised batches on a device.

    Workers write uint8 images into buffers that this process sees; it normalises them into buffers of its own, or on
    the device, on a stream beside the model's.

    Args:
        dataset: The samples.
        transforms: A pipeline for each of a schedule's sizes.
        preprocess: The normalisation.
        sampler: Decides the batches.
        num_workers: Processes that decode and augment; 0 does it in this one. They live as long as the loader.
        device: Where batches are put and normalised.
        channels_last: Memory format of the batches.
        img_dtype: float32, bfloat16 or float16.
        erasing: Random erasing of the normalised images.
        splits: Augmentation splits; 1 for none.
        bad: What to do about samples that cannot be read.
    """

    def __init__(
        self,
        dataset: ImageDataset | StreamDataset,
        transforms: list[Pipeline],
        preprocess: Preprocess,
        sampler: BatchSampler | StreamSampler,
        num_workers: int,
        device: torch.device,
        channels_last: bool,
        img_dtype: torch.dtype = torch.float32,
        erasing: RandomErasing | None = None,
        splits: int = 1,
        bad: BadSamples | None = None,
    ):
        self.dataset, self.preprocess, self.sampler = dataset, preprocess, sampler
        self.device, self.channels_last, self.img_dtype, self.erasing = device, channels_last, img_dtype, erasing
        self.bad = bad or BadSamples()
        self.taken = 0
        self.recycled = Recycled()
        # batches that workers are at, one being normalised, and on CUDA one being copied
        count = PREFETCH * num_workers + 1 + (device.type == 'cuda')
        self.slots = None
        if not num_workers or is_forking():
            self.slots = Slots(count, splits * batch_bytes(transforms, sampler))
            if device.type == 'cuda':
                self.slots.pin()
        self.batches: DataLoader[Any] = DataLoader(
            Fetcher(dataset, transforms, splits, channels_last, self.slots),
            batch_sampler=Requests(sampler, count),  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=as_it_is,  # type: ignore[arg-type]
            pin_memory=device.type == 'cuda' and self.slots is None,
            persistent_workers=num_workers > 0,
            prefetch_factor=PREFETCH if num_workers else None,
            worker_init_fn=begin_worker,
            # it would otherwise draw its workers' seeds, which nothing here uses, from the model's random numbers
            generator=torch.Generator(),
        )
        LOADERS.add(self)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return self.sampler.batches

    def set_epoch(self, epoch: int, start: int = 0, marks: Iterable[Sequence[int]] = ()) -> None:
        """The next iteration gives this epoch's batches from number `start` on.

        Args:
            epoch: Decides the order.
            start: Batches of the epoch that are done.
            marks: What `marks` gave at `start`, on any rank of any number; without, streams are read from the epoch's
                begin on.
        """
        self.sampler.epoch, self.sampler.start = epoch, start
        if isinstance(self.sampler, StreamSampler):
            self.sampler.begins, self.sampler.seen = {lane: Mark(*mark) for lane, *mark in marks}, {}
        self.taken = start

    def marks(self) -> list[list[int]]:
        """Of a stream, where in its lanes this rank goes on after the batches that were taken; nothing of others."""
        if not isinstance(self.sampler, StreamSampler):
            return []
        return [[lane, *mark] for lane, mark in self.sampler.marks(self.taken).items()]

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: after the batches that were taken from it. Plain numbers, for JSON."""
        sampler = self.sampler
        return {
            'epoch': sampler.epoch,
            'batch': self.taken,
            'seed': sampler.seed,
            'samples': sampler.count,
            'global_batch': sampler.batch_size * sampler.world_size,
            'marks': self.marks(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on from there: on any number of workers, and of ranks if the global batch is kept.

        Raises:
            ValueError: The state is that of other data, another seed or another global batch.
        """
        own = self.state_dict()
        for name in ('seed', 'samples', 'global_batch'):
            if state[name] != own[name]:
                raise ValueError(f'the loader stopped with {name}={state[name]}, here it is {own[name]}')
        self.set_epoch(state['epoch'], state['batch'], state['marks'])

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the epoch.

        Raises:
            UnreadableImageError: An image that cannot be decoded, or too many; the message names a file.
        """
        self.taken = self.sampler.start
        make = self.on_cuda if self.device.type == 'cuda' else self.on_host
        for batch in make(self.readable()):
            self.taken += 1
            yield batch
        # the next iteration without another word is of the whole epoch
        self.sampler.start = 0

    def readable(self) -> Iterator[RawBatch]:
        """The workers' batches that have an image."""
        for raw in self.batches:
            self.bad.note(raw.bad)
            if len(raw.targets):
                yield raw
            elif self.sampler.is_training:
                raise UnreadableImageError(f'none of the {len(raw.bad)} images of a batch can be read')

    def on_host(self, batches: Iterator[RawBatch]) -> Iterator[Batch]:
        """Batches normalised here, then put on the device."""
        for raw in batches:
            images = self.normalize_host(self.pixels(raw)).to(self.device, self.img_dtype)
            yield self.finished(images, raw)

    def on_cuda(self, batches: Iterator[RawBatch]) -> Iterator[Batch]:
        """Batches copied and normalised beside the model's work, one ahead of it."""
        stream = torch.cuda.Stream(self.device)
        waiting: tuple[Batch, torch.cuda.Event] | None = None
        for raw in batches:
            with torch.cuda.stream(stream):
                images = self.pixels(raw).to(self.device, non_blocking=True)
                layout = torch.channels_last if self.channels_last else torch.contiguous_format
                images = normalize_batch(images, self.preprocess).to(self.img_dtype).contiguous(memory_format=layout)
                batch = self.finished(images, raw)
            event = stream.record_event()
            if waiting is not None:
                yield handed_over(*waiting)
            waiting = batch, event
        if waiting is not None:
            yield handed_over(*waiting)

    def pixels(self, raw: RawBatch) -> torch.Tensor:
        """A batch's images (batch, channels, height, width), where the worker put them."""
        if raw.images is not None:
            images = raw.images
        else:
            assert self.slots is not None
            images = torch.from_numpy(self.slots.view(raw.slot, raw.shape))
        return images.permute(0, 3, 1, 2) if self.channels_last else images

    def normalize_host(self, images: torch.Tensor) -> torch.Tensor:
        """`normalize_batch` image by image, while it is in the cache, into a buffer that is used again."""
        if images.dtype != torch.uint8:
            layout = torch.channels_last if self.channels_last else torch.contiguous_format
            return normalize_batch(images, self.preprocess).contiguous(memory_format=layout)
        batch, channels, height, width = images.shape
        mean, std = (torch.tensor(values).mul_(255) for values in (self.preprocess.mean, self.preprocess.std))
        if not self.channels_last:
            out = self.recycled.take((batch, channels, height, width))
            # in one pass over a channel, where torch takes three
            for source, target in zip(images.numpy(), out.numpy(), strict=True):
                for plane, into, m, s in zip(source, target, mean.tolist(), std.tolist(), strict=True):
                    cv2.addWeighted(plane, 1 / s, plane, 0, -m / s, into, cv2.CV_32F)
            return out
        rows = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        mean, std = mean.repeat(width), std.repeat(width)
        out = self.recycled.take(tuple(rows.shape))
        for source, target in zip(rows, out, strict=True):
            target.copy_(source).sub_(mean).div_(std)
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def finished(self, images: torch.Tensor, raw: RawBatch) -> Batch:
        """A batch with its targets, erased where that is asked for."""
        if self.erasing is not None:
            images = self.erasing(images, raw.addresses, self.sampler.seed)
        return Batch(images, torch.from_numpy(raw.targets).to(self.device), torch.from_numpy(raw.addresses))


def handed_over(batch: Batch, event: torch.cuda.Event) -> Batch:
    """A batch that the current stream may use; its buffers are free again."""
    event.synchronize()
    for tensor in batch:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return batch


def batch_bytes(transforms: list[Pipeline], sampler: BatchSampler | StreamSampler) -> int:
    """Bytes of the largest batch of uint8 images."""
    sizes = sampler.schedule.batch_sizes if sampler.schedule else [sampler.batch_size]
    areas = [transform.preprocess.input_size for transform in transforms]
    return max(size * c * h * w for size, (c, h, w) in zip(sizes, areas, strict=True))


def as_it_is(batch: RawBatch) -> RawBatch:
    """Batches come whole from the fetcher."""
    return batch


def begin_worker(worker: int) -> None:
    """A worker keeps to one core, and leaves signals to the main process.

    Ctrl-C and a supervisor's SIGTERM reach every process of a group; the main one decides what they mean. A second
    SIGTERM counts: that is how the loader ends a worker that hangs.
    """
    del worker
    cv2.setNumThreads(0)
    # a collection would write to every object of the main process, 40 MB of them, and so copy their pages
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


@atexit.register
def end_workers() -> None:
    """At the program's end, before multiprocessing sends one SIGTERM, which is not enough, and waits for ever."""
    for loader in LOADERS:
        iterator = getattr(loader.batches, '_iterator', None)
        if iterator is not None and loader.batches.num_workers:
            iterator._shutdown_workers()
