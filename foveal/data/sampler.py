"""Which samples come in which batch: an order that a seed and two integers decide."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from foveal.data.readers import StreamSample
from foveal.data.schedule import SizeSchedule


class BatchPlan(NamedTuple):
    """One batch of one rank.

    Attributes:
        addresses: int64 (batch, 3): epoch, index in the data set, and repeat of every sample.
        choice: Which of a schedule's sizes it has; 0 without one.
        samples: The samples themselves, where they come from a stream.
    """

    addresses: np.ndarray
    choice: int = 0
    samples: Sequence[StreamSample] | None = None


class BatchSampler:
    """Addresses of one rank's batches.

    In training an epoch is one permutation, decided by (seed, epoch) and cut into global batches of
    `batch_size * world_size`; each rank takes its part of every global batch, so two processes of 8 see what one of
    16 sees. What does not fill a global batch is dropped. In evaluation the ranks share the samples out, each exactly
    once.

    With `repeats` (repeated augmentation, arXiv:1902.05509) every sample of the permutation comes so often in
    a row, each time with other random numbers, and the epoch ends after `count / selected_ratio` of them. Repeats lie
    on different ranks where there are several.

    `epoch` and `start` (batches of the epoch already done) are the whole state.

    Args:
        count: Samples.
        batch_size: Samples a batch and rank.
        is_training: Shuffle, and drop what does not fill a batch.
        seed: Of the order.
        rank, world_size: This process among those that share an epoch.
        repeats: Appearances of a sample, at least 1; 2.5 is two or three.
        selected_ratio: The epoch's length is the data set's divided by it.
        drop_last: Drop what does not fill a global batch; in training, where absent. Otherwise the last batch is
            smaller, and as large on every rank.
        schedule: Sizes that change from batch to batch, for training; `batch_size` is not looked at.
        num_batches: Length of an epoch in batches, over as many permutations as it takes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        is_training: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: float = 1,
        selected_ratio: float = 1.0,
        drop_last: bool | None = None,
        schedule: SizeSchedule | None = None,
        num_batches: int | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        if not 0 <= rank < world_size:
            raise ValueError(f'rank must be in [0, world_size={world_size}), got {rank}')
        if repeats < 1:
            raise ValueError(f'num_aug_repeats must be at least 1 (0: none), got {repeats}')
        if not selected_ratio > 0:
            raise ValueError(f'selected_ratio must be above 0, got {selected_ratio}')
        if num_batches is not None and num_batches < 1:
            raise ValueError(f'num_batches must be at least 1, got {num_batches}')
        self.count, self.batch_size, self.is_training, self.seed = count, batch_size, is_training, seed
        self.rank, self.world_size, self.repeats, self.schedule = rank, world_size, repeats, schedule
        self.drop_last = is_training if drop_last is None else drop_last
        self.num_batches = num_batches
        self.length = int(count / selected_ratio) if is_training else count
        self.epoch = self.start = 0

    @property
    def batches(self) -> int:
        """Batches of this epoch on this rank."""
        if not self.is_training:
            return -(-len(range(self.rank, self.count, self.world_size)) // self.batch_size)
        if self.num_batches is not None:
            return self.num_batches
        if self.schedule is not None:
            return len(self.schedule.choices(self.epoch, self.length, None, self.world_size))
        whole, rest = divmod(self.length, self.batch_size * self.world_size)
        return whole + (not self.drop_last and rest >= self.world_size)

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[BatchPlan]:
        yield from self.training() if self.is_training else self.evaluation()

    def evaluation(self) -> Iterator[BatchPlan]:
        """Every `world_size`-th sample, in order."""
        size = self.batch_size
        for start in range(self.start, self.batches):
            first, last = (min(self.count, self.rank + (start + i) * size * self.world_size) for i in (0, 1))
            yield plan(self.epoch, np.arange(first, last, self.world_size))

    def training(self) -> Iterator[BatchPlan]:
        """This rank's part of every global batch."""
        epoch, world, passes = self.epoch, self.world_size, Passes(self.count, self.repeats, self.seed, self.epoch)
        if self.schedule is None:
            choices, sizes = np.zeros(self.batches, np.int64), np.full(self.batches, self.batch_size)
        else:
            choices = self.schedule.choices(epoch, self.length, self.num_batches, world)
            sizes = np.asarray(self.schedule.batch_sizes)[choices]
        if self.schedule is None and self.num_batches is None and not self.drop_last:
            sizes[-1] = min(self.batch_size, (self.length - (len(sizes) - 1) * self.batch_size * world) // world)
        ends = np.cumsum(sizes * world)
        for i in range(self.start, len(sizes)):
            size = int(sizes[i])
            indices, repeats = passes.between(int(ends[i]) - size * world, int(ends[i]))
            # a sample's repeats, which follow each other, go to different ranks
            layout = (size, world) if self.repeats > 1 else (world, size)
            axis = 1 if self.repeats > 1 else 0
            mine = (part.reshape(layout).take(self.rank, axis=axis) for part in (indices, repeats))
            yield plan(epoch, *mine)._replace(choice=int(choices[i]))


class Passes:
    """The endless sequence that an epoch's batches are cut from: permutation after permutation, each sample of one
    `repeats` times in a row."""

    def __init__(self, count: int, repeats: float, seed: int, epoch: int):
        self.count, self.repeats, self.seed, self.epoch = count, repeats, seed, epoch
        self.length = math.floor(count * repeats)
        self.orders: dict[int, np.ndarray] = {}

    def order(self, number: int) -> np.ndarray:
        """The permutation of a pass; earlier ones are forgotten."""
        if number not in self.orders:
            # a sequence of its own: (seed, epoch) also keys the samples' generators, by another algorithm
            entropy = (self.seed, self.epoch, number) if number else (self.seed, self.epoch)
            order = np.random.default_rng(entropy).permutation(self.count)
            self.orders = {n: o for n, o in self.orders.items() if n == number - 1} | {number: order}
        return self.orders[number]

    def between(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and repeats of the places [first, last) of the sequence."""
        places = np.arange(first, last)
        passes, places = np.divmod(places, self.length)
        which = np.floor(places / self.repeats).astype(np.int64)
        # of a sample's appearances, the first is at ceil(which * repeats)
        repeats = places - np.ceil(which * self.repeats).astype(np.int64)
        indices = np.empty_like(places)
        for number in np.unique(passes):
            inside = passes == number
            indices[inside] = self.order(int(number))[which[inside]]
        return indices, repeats + passes * math.ceil(self.repeats)


def plan(epoch: int, indices: np.ndarray, repeats: np.ndarray | int = 0) -> BatchPlan:
    """The plan of a batch of an epoch."""
    addresses = np.empty((len(indices), 3), np.int64)
    addresses[:, 0], addresses[:, 1], addresses[:, 2] = epoch, indices, repeats
    return BatchPlan(addresses)
