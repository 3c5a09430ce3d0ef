"""Samples that come in the order of their shards, from sources without an index."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from foveal.data.dataset import Sample, Target
from foveal.data.readers import StreamReader, StreamSample
from foveal.data.sampler import BatchPlan, plan
from foveal.data.transforms import Transform

# training samples are shuffled in blocks of so many, of all lanes together, besides the shards
BLOCK = 1024
# numbers of lanes, which many numbers of ranks divide; each has shards enough to be about as long as the others
LANES, SHARDS_A_LANE = (24, 12, 8, 6, 4, 3, 2, 1), 8
SHARD_BITS = 32


class Mark(NamedTuple):
    """A place in a lane, where a block begins.

    Attributes:
        turn: How often the lane's shards have been gone through in this epoch.
        place: Which shard, in the epoch's order of the lane's shards.
        number: Which sample of it.
        before: Samples of the lane that come before.
    """

    turn: int = 0
    place: int = 0
    number: int = 0
    before: int = 0


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
    the order.

    In training the shards are permuted by (seed, epoch) and dealt out to lanes, as many as the number of shards says.
    Each lane is shuffled block by block, and global batches are taken from the lanes in turn: sample p of an epoch is
    sample p // lanes of lane p % lanes, and belongs to rank p % world_size. So global batches hold the same samples on
    any number of ranks, and a rank reads the lanes only that it takes samples from: where the number of ranks divides
    that of the lanes, no shard is read by two. A lane that ends before the epoch goes through its shards again.

    In evaluation every sample comes exactly once: the ranks take the shards in turn, and where ranks outnumber the
    shards, each reads them all and takes its share of the samples.

    `epoch`, `start` (batches of the epoch already done) and, so that nothing needs to be read again, `begins` are the
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
        if not 0 <= rank < world_size:
            raise ValueError(f'rank must be in [0, world_size={world_size}), got {rank}')
        if is_training and dataset.reader.count is None:
            raise ValueError(f'{dataset.reader.origin}: training needs to know num_samples, the length of an epoch')
        self.dataset, self.reader, self.seed = dataset, dataset.reader, dataset.seed
        self.count = dataset.reader.count or 0
        self.batch_size, self.is_training, self.rank, self.world_size = batch_size, is_training, rank, world_size
        shards = len(dataset.reader.shards)
        self.lanes = next(lanes for lanes in LANES if lanes * SHARDS_A_LANE <= shards or lanes == 1)
        self.epoch = self.start = 0
        # where lanes' blocks begin: those that the next iteration goes on from, and those that this one has met
        self.begins: dict[int, Mark] = {}
        self.seen: dict[int, list[Mark]] = {}

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

    def evaluation(self) -> Iterator[BatchPlan]:
        """Every sample, in order; the batches already done are read over."""
        shards, step, first = range(len(self.reader.shards)), self.world_size, self.rank
        if len(shards) >= self.world_size:
            shards, step, first = shards[self.rank :: self.world_size], 1, 0
        batch: list[Item] = []
        number = 0
        for mark, item in self.walk(shards, Mark()):
            if mark.number % step != first:
                continue
            batch.append(item)
            if len(batch) == self.batch_size:
                if number >= self.start:
                    yield self.planned(batch)
                batch, number = [], number + 1
        if batch:
            yield self.planned(batch)

    def training(self) -> Iterator[BatchPlan]:
        """This rank's samples of the global batches, until the epoch's are done."""
        size = self.batch_size * self.world_size
        places = range(self.start * size + self.rank, self.batches * size, self.world_size)
        self.seen = {lane: [self.begins.get(lane, Mark())] for lane in self.own_lanes()}
        self.begins = {}
        for lane, (mark,) in self.seen.items():
            if mark.before > self.first(lane, self.start):
                raise ValueError(f'the mark {tuple(mark)} of lane {lane} lies behind batch {self.start}')
        lanes = {lane: self.lane(lane, seen[0]) for lane, seen in self.seen.items()}
        batch: list[Item] = []
        for place in places:
            number, lane = divmod(place, self.lanes)
            batch.append(next(item for at, item in lanes[lane] if at == number))
            if len(batch) == self.batch_size:
                yield self.planned(batch)
                batch = []

    def own_lanes(self) -> range:
        """The lanes that this rank takes samples from."""
        step = math.gcd(self.lanes, self.world_size)
        return range(self.rank % step, self.lanes, step)

    def marks(self, batch: int) -> dict[int, Mark]:
        """Where to begin reading this rank's lanes for a batch."""
        found = dict(self.begins)
        for lane, seen in self.seen.items():
            found[lane] = max(mark for mark in seen if mark.before <= self.first(lane, batch))
        return found

    def first(self, lane: int, batch: int) -> int:
        """Number of the first sample of a lane that is taken from a batch on."""
        return -(-(batch * self.batch_size * self.world_size - lane) // self.lanes)

    def lane(self, lane: int, begin: Mark) -> Iterator[tuple[int, Item]]:
        """The shuffled samples of a lane from the block at a mark on, each with its number."""
        for mark, block in self.blocks(lane, begin):
            self.seen[lane].append(mark)
            order = np.random.default_rng((self.seed, self.epoch, lane, *mark[:3])).permutation(len(block))
            for within, which in enumerate(order):
                yield mark.before + within, block[which]

    def blocks(self, lane: int, begin: Mark) -> Iterator[tuple[Mark, list[Item]]]:
        """The samples of a lane from a mark on, turn after turn, in blocks that are shuffled each."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.reader.shards))
        shards, size = order[lane :: self.lanes].tolist(), max(1, BLOCK // self.lanes)
        while True:
            first, block, count = begin, list[Item](), begin.before
            for mark, item in self.walk(shards, begin):
                first, count = first if block else mark, mark.before + 1
                block.append(item)
                if len(block) == size:
                    yield first, block
                    block = []
            if block:
                yield first, block
            if count == begin.before:
                raise ValueError(f'{self.reader.origin}: lane {lane} of {self.lanes} has no samples')
            begin = Mark(begin.turn + 1, before=count)

    def walk(self, shards: Sequence[int], begin: Mark) -> Iterator[tuple[Mark, Item]]:
        """The samples of shards, each with its place, once through from a mark on."""
        count = begin.before
        for place in range(begin.place, len(shards)):
            shard, first = shards[place], begin.number if place == begin.place else 0
            for number, sample in enumerate(self.reader.iterate(shard, first), first):
                yield Mark(begin.turn, place, number, count), Item(shard << SHARD_BITS | number, begin.turn, sample)
                count += 1

    def planned(self, batch: list[Item]) -> BatchPlan:
        """The plan of a batch, with its samples."""
        indices, repeats, samples = zip(*batch, strict=True)
        return plan(self.epoch, np.array(indices), np.array(repeats))._replace(samples=samples)
