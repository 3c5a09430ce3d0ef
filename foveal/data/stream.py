"""Samples that come in the order of their shards, from sources without an index."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from foveal.data.dataset import Sample, Target
from foveal.data.readers import StreamReader, StreamSample
from foveal.data.sampler import BatchPlan, plan
from foveal.data.transforms import Transform

# training samples are shuffled in blocks of so many, besides the shards
BLOCK = 1024
SHARD_BITS = 32


class Mark(NamedTuple):
    """A place in a rank's stream.

    Attributes:
        turn: How often the shards have been gone through in this epoch.
        place: Which shard, in the epoch's order of this rank's shards.
        number: Which sample of it; the first of a block.
        within: How many samples of the shuffled block are used up.
    """

    turn: int = 0
    place: int = 0
    number: int = 0
    within: int = 0


class Item(NamedTuple):
    """A sample of the stream: its number, how often it came before in this epoch, and what it is."""

    number: int
    repeat: int
    sample: StreamSample


@dataclass(frozen=True)
class StreamDataset(Dataset[Sample]):
    """Images of a reader that gives them in its own order.

    The main process reads the encoded images and puts their order right; workers decode them. So the batches are the
    same for any number of workers.

    Attributes:
        reader: Where the images come from.
        transform, seed, channels: As in `ImageDataset`.
    """

    reader: StreamReader
    transform: Transform | None = None
    seed: int = 0
    channels: int = 3

    def __len__(self) -> int:
        if self.reader.count is None:
            raise TypeError(f'{self.reader.origin} does not say how many samples it has; give num_samples')
        return self.reader.count

    @property
    def classes(self) -> list[str]:
        return self.reader.classes

    def with_transform(self, transform: Transform | None, seed: int = 0, channels: int = 3) -> 'StreamDataset':
        """The same samples under another pipeline."""
        return replace(self, transform=transform, seed=seed, channels=channels)

    def name(self, index: int) -> str:
        return f'{self.reader.shards[index >> SHARD_BITS]}[{index % (1 << SHARD_BITS)}]'

    def read(self, index: int) -> bytes:
        raise TypeError(f'{self.reader.origin} gives its samples in its own order only, not number {index}')

    def target(self, index: int) -> Target:
        raise TypeError(f'{self.reader.origin} gives its targets with its samples only, not number {index}')


class StreamSampler:
    """Batches of one rank, with the samples in them.

    A sample's index is its shard's number and its own number in the shard, so what it looks like does not depend on
    the order. In training the shards are permuted by (seed, epoch), the ranks take them in turn, and each rank's
    samples are shuffled block by block. A rank that has used its shards up before the epoch's end goes through them
    again. In evaluation every sample comes exactly once. Where ranks outnumber the shards, each reads them all and
    takes its share of the samples.

    `epoch`, `start` (batches of the epoch already done) and, so that nothing needs to be read again, `mark` are the
    state.

    Args:
        dataset: Gives the samples.
        batch_size: Samples a batch and rank.
        is_training: Shuffle, and drop what does not fill a batch.
        rank, world_size: This process among those that share the epoch.
    """

    schedule = None

    def __init__(self, dataset: StreamDataset, batch_size: int, is_training: bool, rank: int = 0, world_size: int = 1):
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        if is_training and dataset.reader.count is None:
            raise ValueError(f'{dataset.reader.origin}: training needs to know num_samples, the length of an epoch')
        self.dataset, self.reader, self.seed = dataset, dataset.reader, dataset.seed
        self.count = dataset.reader.count or 0
        self.batch_size, self.is_training, self.rank, self.world_size = batch_size, is_training, rank, world_size
        self.epoch = self.start = 0
        self.mark: Mark | None = None
        self.marks: dict[int, Mark] = {}

    @property
    def batches(self) -> int:
        """Batches of a training epoch on this rank."""
        if not self.is_training:
            raise TypeError('how many batches a stream has is known at its end')
        return self.count // (self.batch_size * self.world_size)

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[BatchPlan]:
        yield from self.training() if self.is_training else self.evaluation()

    def shards(self) -> tuple[np.ndarray, int, int]:
        """This rank's shards in the epoch's order, and which of their samples it takes: [first::step]."""
        order = np.arange(len(self.reader.shards))
        if self.is_training:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        if len(order) < self.world_size:
            return order, self.rank, self.world_size
        return order[self.rank :: self.world_size], 0, 1

    def walk(self, mark: Mark) -> Iterator[tuple[Mark, Item]]:
        """This rank's samples in their shards' order, each with its place, once through from `mark` on."""
        order, first, step = self.shards()
        for place in range(mark.place, len(order)):
            shard, begin = int(order[place]), mark.number if place == mark.place else 0
            for number, sample in enumerate(self.reader.iterate(shard, begin), begin):
                if number % step == first:
                    yield Mark(mark.turn, place, number), Item(shard << SHARD_BITS | number, mark.turn, sample)

    def evaluation(self) -> Iterator[BatchPlan]:
        """Every sample, in order; the batches already done are read over."""
        batch: list[Item] = []
        number = 0
        for _, item in self.walk(Mark()):
            batch.append(item)
            if len(batch) == self.batch_size:
                if number >= self.start:
                    yield self.planned(batch)
                batch, number = [], number + 1
        if batch:
            yield self.planned(batch)

    def training(self) -> Iterator[BatchPlan]:
        """Shuffled samples, until the epoch's batches are done."""
        mark, skip = (self.mark, 0) if self.mark else (Mark(), self.start * self.batch_size)
        number, batch = self.start, list[Item]()
        self.mark, self.marks = None, {}
        for block_mark, block in self.blocks(mark):
            begin = (mark.within if block_mark[:3] == mark[:3] else 0) + skip
            skip = max(0, begin - len(block))
            if skip:
                continue
            order = np.random.default_rng((self.seed, self.epoch, self.rank, *block_mark[:3])).permutation(len(block))
            if not batch:
                self.marks[number] = block_mark._replace(within=begin)
            for within in range(begin, len(block)):
                batch.append(block[order[within]])
                if len(batch) == self.batch_size:
                    yield self.planned(batch)
                    batch, number = [], number + 1
                    if number == self.batches:
                        return
                    self.marks[number] = block_mark._replace(within=within + 1)

    def blocks(self, mark: Mark) -> Iterator[tuple[Mark, list[Item]]]:
        """The samples from a mark on, turn after turn, in blocks that are shuffled each."""
        while True:
            first, block = None, []
            for at, item in self.walk(mark):
                first = first or at
                block.append(item)
                if len(block) == BLOCK:
                    yield first, block
                    first, block = None, []
            if first:
                yield first, block
            elif mark[1:] == (0, 0, 0):
                raise ValueError(f'{self.reader.origin}: rank {self.rank} has no samples')
            mark = Mark(mark.turn + 1)

    def planned(self, batch: list[Item]) -> BatchPlan:
        """The plan of a batch, with its samples."""
        indices, repeats, samples = zip(*batch, strict=True)
        return plan(self.epoch, np.array(indices), np.array(repeats))._replace(samples=samples)
