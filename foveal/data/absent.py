"""Options that users know from elsewhere and that have no counterpart here, each with what to do instead."""

from collections.abc import Iterable

ABSENT = {
    'collate_fn': 'batches are made in shared memory, as uint8; change images with the options of the augmentation',
    'fp16': 'give img_dtype=torch.float16',
    'persistent_workers': 'workers always live as long as the loader',
    'pin_memory': 'memory is always pinned where the device is a CUDA one',
    'tf_preprocessing': 'there is no TensorFlow graph here; interpolation and crop_pct say how images are resized',
    'use_multi_epochs_loader': 'workers always live as long as the loader',
    'use_prefetcher': 'batches are always normalised and erased on the device, ahead of the model',
    'worker_seeding': 'random numbers depend on seed, epoch and index, never on the worker',
}


def refuse_absent(function: str, options: Iterable[str]) -> None:
    """Says what takes the place of an option that is not here.

    Raises:
        TypeError: One of the options is such a one.
    """
    for name in options:
        if name in ABSENT:
            raise TypeError(f'{function} has no option {name!r}: {ABSENT[name]}')
