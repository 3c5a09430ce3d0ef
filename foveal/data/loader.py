"""Batches for the device, in an order that a seed and two integers decide."""

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from foveal.data.dataset import BadSample, ImageDataset, Key, Sample
from foveal.data.images import UnreadableImageError
from foveal.data.preprocess import Preprocess
from foveal.data.transforms import create_transform, normalize_batch

Batch = tuple[torch.Tensor, torch.Tensor]


class BatchSampler(Sampler[list[Key]]):
    """Addresses of one rank's batches.

    In training an epoch is one permutation, decided by (seed, epoch) and cut into global batches of
    `batch_size * world_size`; each rank takes its part of every global batch, so two processes of 8 see what one of
    16 sees. What does not fill a global batch is dropped. In evaluation the ranks share the samples out, each exactly
    once.

    `epoch` and `start` (batches of the epoch already done) are the whole state.
    """

    def __init__(self, count: int, batch_size: int, is_training: bool, seed: int, rank: int, world_size: int):
        self.count, self.batch_size, self.is_training, self.seed = count, batch_size, is_training, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0

    @property
    def batches(self) -> int:
        """Batches of a whole epoch on this rank."""
        if self.is_training:
            return self.count // (self.batch_size * self.world_size)
        return -(-len(range(self.rank, self.count, self.world_size)) // self.batch_size)

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        size, epoch = self.batch_size, self.epoch
        if self.is_training:
            # a sequence of its own: (seed, epoch) also keys the samples' generators, by another algorithm
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
            mine = order[: self.batches * size * self.world_size].reshape(-1, self.world_size, size)[:, self.rank]
            mine = mine.reshape(-1)
        else:
            mine = np.arange(self.rank, self.count, self.world_size)
        for i in range(self.start, self.batches):
            yield [Key(epoch, int(index)) for index in mine[i * size : (i + 1) * size]]


class Loader:
    """Iterates over normalised batches on a device.

    Attributes:
        dataset: The samples.
        preprocess: The normalisation.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        preprocess: Preprocess,
        sampler: BatchSampler,
        num_workers: int,
        device: torch.device,
        channels_last: bool,
    ):
        self.dataset, self.preprocess, self.sampler = dataset, preprocess, sampler
        self.device, self.channels_last = device, channels_last
        self.batches: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=device.type == 'cuda',
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_signals_to_main,
            # it would otherwise draw its workers' seeds, which nothing here uses, from the model's random numbers
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        return self.sampler.batches

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next iteration gives this epoch's batches from number `start` on."""
        self.sampler.epoch, self.sampler.start = epoch, start

    def __iter__(self) -> Iterator[Batch]:
        """Yields images, float32 (batch, channels, height, width), and class indices, int64 (batch,).

        Raises:
            UnreadableImageError: An image that cannot be decoded; the message names its file.
        """
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        for images, targets, bad in self.batches:
            if bad:
                raise UnreadableImageError(bad[0].reason)
            images, targets = (x.to(self.device, non_blocking=True) for x in (images, targets))
            yield normalize_batch(images, self.preprocess).contiguous(memory_format=layout), targets


def leave_signals_to_main(worker: int) -> None:
    """Ctrl-C and a supervisor's SIGTERM reach every process of a group; the main one decides what they mean.

    A second SIGTERM counts: that is how the loader ends a worker that hangs.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def collate(samples: Sequence[Sample | BadSample]) -> tuple[torch.Tensor, torch.Tensor, list[BadSample]]:
    """Stacks what could be read and lists what could not."""
    good = [sample for sample in samples if not isinstance(sample, BadSample)]
    bad = [sample for sample in samples if isinstance(sample, BadSample)]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    return images, torch.tensor([target for _, target in good]), bad


def create_loader(
    dataset: ImageDataset,
    input_size: int | tuple[int, int] | tuple[int, int, int] = 224,
    batch_size: int = 32,
    is_training: bool = False,
    interpolation: str = 'bilinear',
    mean: tuple[float, ...] = Preprocess.mean,
    std: tuple[float, ...] = Preprocess.std,
    crop_pct: float = 0.875,
    crop_mode: str = 'center',
    num_workers: int = 1,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: str | torch.device = 'cpu',
    channels_last: bool = False,
    no_aug: bool = False,
    **augment: Any,
) -> Loader:
    """Builds the loader of a data set.

    Args:
        dataset: Of `create_dataset`; its transform is set here.
        input_size, interpolation, mean, std, crop_pct, crop_mode: The preprocessing; `**resolve_data_config(...)`.
        batch_size: Samples a batch and rank.
        is_training: Shuffle by (seed, epoch), augment, drop what does not fill a batch.
        num_workers: Processes that decode and augment; 0 does it in this one. Samples do not depend on it.
        seed: Of the order and the augmentation.
        rank, world_size: This process among those that share the epoch.
        device: Where batches are put and normalised.
        channels_last: Memory format of the batches.
        no_aug: In training, leave the augmentation out.
        **augment: Fields of `Augment`, for training.

    Returns:
        The loader.

    Raises:
        ValueError: A value outside its range, or a training set smaller than one batch over all ranks.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}')
    if num_workers < 0:
        raise ValueError(f'num_workers must be at least 0, got {num_workers}')
    size = (3, input_size, input_size) if isinstance(input_size, int) else input_size
    size = (3, *size) if len(size) == 2 else size
    preprocess = Preprocess(size, interpolation, tuple(mean), tuple(std), crop_pct, crop_mode)
    transform = create_transform(**preprocess, is_training=is_training, no_aug=no_aug, normalize=False, **augment)
    dataset = dataset.with_transform(transform, seed, size[0])
    sampler = BatchSampler(len(dataset), batch_size, is_training, seed, rank, world_size)
    if is_training and not sampler.batches:
        raise ValueError(
            f'batch_size={batch_size} on {world_size} process(es) is more than the {len(dataset)} training images; '
            f'use a batch_size of at most {len(dataset) // world_size}'
        )
    return Loader(dataset, preprocess, sampler, num_workers, torch.device(device), channels_last)
