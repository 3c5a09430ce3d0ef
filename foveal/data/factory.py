"""The loader of a data set, from options under the names that users know."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from foveal.data.absent import refuse_absent
from foveal.data.bad import BadSamples
from foveal.data.dataset import ImageDataset
from foveal.data.loader import Loader
from foveal.data.preprocess import Preprocess
from foveal.data.random_erasing import RandomErasing
from foveal.data.sampler import BatchSampler
from foveal.data.schedule import SizeSchedule
from foveal.data.stream import StreamDataset, StreamSampler
from foveal.data.transforms import create_transform, full_size

Size = int | tuple[int, int] | tuple[int, int, int]


def create_loader(
    dataset: ImageDataset | StreamDataset,
    input_size: Size = 224,
    batch_size: int = 32,
    is_training: bool = False,
    no_aug: bool = False,
    re_prob: float = 0.0,
    re_mode: str = 'const',
    re_count: int = 1,
    re_split: bool = False,
    num_aug_repeats: float = 0,
    selected_ratio: float = 1.0,
    num_aug_splits: int = 0,
    interpolation: str = 'bilinear',
    mean: tuple[float, ...] = Preprocess.mean,
    std: tuple[float, ...] = Preprocess.std,
    num_workers: int = 1,
    distributed: bool = False,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    crop_border_pixels: int | None = None,
    img_dtype: torch.dtype = torch.float32,
    device: str | torch.device = 'cpu',
    input_size_choices: Sequence[Size] | None = None,
    batch_size_choices: Sequence[int] | None = None,
    batch_choice_weights: Sequence[float] | None = None,
    batch_choice_seed: int = 0,
    batch_choice_schedule: str = 'constant',
    batch_schedule_epochs: int | None = None,
    batch_schedule_spread: float = 0.65,
    batch_schedule_random_mix: float = 0.1,
    num_batches: int | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool | None = None,
    channels_last: bool = False,
    bad_samples: str = 'raise',
    bad_limit: int = 100,
    **augment: Any,
) -> Loader:
    """Builds the loader of a data set.

    Args:
        dataset: Of `create_dataset`; its transform is set here.
        input_size: Side, (height, width) or (channels, height, width).
        batch_size: Samples a batch and rank.
        is_training: Shuffle by (seed, epoch), augment, drop what does not fill a batch.
        no_aug: In training, show the images as evaluation sees them.
        re_prob, re_mode, re_count: Random erasing, on the device: `RandomErasing`.
        re_split: Leave the first augmentation split alone.
        num_aug_repeats: Appearances of a sample in a training epoch, next to each other, each augmented otherwise.
        selected_ratio: With repeats: the epoch's length is the data set's divided by it.
        num_aug_splits: Above 1: each sample of a batch comes so often, clean first, then augmented.
        interpolation, mean, std, crop_pct, crop_mode: The preprocessing; `**resolve_data_config(...)`.
        num_workers: Processes that decode and augment; 0 does it in this one. Samples do not depend on it.
        distributed: Take `rank` and `world_size` from torch.distributed.
        crop_border_pixels: In evaluation, cut these off each edge first.
        img_dtype: Of the batches: float32, bfloat16 or float16.
        device: Where batches are put and normalised.
        input_size_choices, batch_size_choices: Sizes that change from batch to batch in training; one of each a choice.
        batch_choice_weights, batch_choice_seed, batch_choice_schedule: How they are drawn: `SizeSchedule`.
        batch_schedule_epochs, batch_schedule_spread, batch_schedule_random_mix: Of progressive sizes.
        num_batches: Length of a training epoch in batches, however many samples there are.
        seed: Of the order and the augmentation.
        rank, world_size: This process among those that share the epoch.
        drop_last: Drop what does not fill a batch; in training, where absent.
        channels_last: Memory format of the batches.
        bad_samples: raise, or skip what cannot be read.
        bad_limit: How many different samples may be skipped before the run stops.
        **augment: Fields of `Augment`, for training.

    Returns:
        The loader.

    Raises:
        ValueError: A value outside its range, or a training set smaller than one batch over all ranks.
        TypeError: An unknown option, or one of `ABSENT`; the message says what to do instead.
    """
    refuse_absent('create_loader', augment)
    if num_workers < 0:
        raise ValueError(f'num_workers must be at least 0, got {num_workers}')
    if distributed and dist.is_initialized():
        rank, world_size = dist.get_rank(), dist.get_world_size()
    splits = max(1, num_aug_splits)
    if splits > 1 and (not is_training or no_aug):
        raise ValueError(f'num_aug_splits={num_aug_splits} is for training with augmentation')
    schedule = None
    sizes: Sequence[Size] = input_size_choices or [input_size]
    if is_training and (input_size_choices or batch_size_choices):
        sizes, batch_sizes = paired(sizes, batch_size_choices or [batch_size])
        schedule = SizeSchedule(
            batch_sizes,
            batch_choice_weights,
            batch_choice_seed,
            batch_choice_schedule,
            batch_schedule_epochs,
            batch_schedule_spread,
            batch_schedule_random_mix,
        )
    elif input_size_choices or batch_size_choices:
        raise ValueError('input_size_choices and batch_size_choices are for training')
    preprocessing: dict[str, Any] = {'interpolation': interpolation, 'mean': mean, 'std': std}
    preprocessing |= {'crop_pct': crop_pct, 'crop_mode': crop_mode, 'crop_border_pixels': crop_border_pixels}
    transforms = [
        create_transform(size, is_training=is_training, no_aug=no_aug, normalize=False, **preprocessing, **augment)
        for size in sizes
    ]
    preprocess = transforms[0].preprocess
    erasing = None
    if is_training and not no_aug and re_prob:
        erasing = RandomErasing(
            re_prob, mode=re_mode, max_count=re_count, num_splits=splits if re_split and splits > 1 else 0
        )
    dataset = dataset.with_transform(transforms[0], seed, full_size(sizes[0])[0])
    sampler: BatchSampler | StreamSampler
    if isinstance(dataset, StreamDataset):
        if schedule or num_batches or num_aug_repeats or drop_last is False:
            raise ValueError(
                f'{dataset.reader.origin} is a stream: repeats, changing sizes, num_batches and drop_last=False need '
                'samples in any order'
            )
        sampler = StreamSampler(dataset, batch_size, is_training, rank, world_size)
    else:
        repeats = num_aug_repeats or 1
        sampler = BatchSampler(
            len(dataset),
            batch_size,
            is_training,
            seed,
            rank,
            world_size,
            repeats,
            selected_ratio,
            drop_last,
            schedule,
            num_batches,
        )
    if is_training and not sampler.batches:
        raise ValueError(
            f'batch_size={batch_size} on {world_size} process(es) is more than the {len(dataset)} training images; '
            f'use a batch_size of at most {len(dataset) // world_size}'
        )
    return Loader(
        dataset,
        transforms,
        preprocess,
        sampler,
        num_workers,
        torch.device(device),
        channels_last,
        img_dtype,
        erasing,
        splits,
        BadSamples(bad_samples, bad_limit),
    )


def paired(sizes: Sequence[Size], batch_sizes: Sequence[int]) -> tuple[Sequence[Size], Sequence[int]]:
    """Choices of image and batch sizes, one for each other; a single one of either serves all of the other."""
    count = max(len(sizes), len(batch_sizes))
    sizes = list(sizes) * count if len(sizes) == 1 else sizes
    batch_sizes = list(batch_sizes) * count if len(batch_sizes) == 1 else batch_sizes
    if len(sizes) != len(batch_sizes):
        raise ValueError(
            f'input_size_choices and batch_size_choices must be as many, got {len(sizes)} and {len(batch_sizes)}'
        )
    return sizes, batch_sizes
