"""What the targets of training images are like: how often classes occur, how numbers spread."""

import numpy as np
import torch
from torch import Tensor

from foveal.data import ImageDataset
from foveal.data.labels import MultiLabel
from foveal.data.stream import StreamDataset


def count_classes(dataset: ImageDataset) -> tuple[Tensor, int]:
    """How often each class occurs, float32 (classes,), and images in all."""
    targets, indices = dataset.reader.targets, np.unique(dataset.indices)
    if isinstance(targets, MultiLabel):
        starts, ends = targets.offsets[indices], targets.offsets[indices + 1]
        there = np.concatenate([targets.indices[a:b] for a, b in zip(starts, ends, strict=True)])
    else:
        there = np.asarray(targets)[indices]
    return torch.from_numpy(np.bincount(there, minlength=len(dataset.classes))).float(), len(indices)


def spread(dataset: ImageDataset | StreamDataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each number; 0 and 1 for a stream, which cannot be asked beforehand.

    Raises:
        ValueError: A number that is the same for all images.
    """
    if isinstance(dataset, StreamDataset):
        count = len(dataset.classes)
        return (0.0,) * count, (1.0,) * count
    rows = numbers_of(dataset)
    mean, std = rows.mean(0), rows.std(0)
    if (std == 0).any():
        at = int(np.argmax(std == 0))
        raise ValueError(f'{dataset.reader.origin}: {dataset.classes[at]} is {mean[at]:g} for all training images, so '
                         'there is nothing to learn')  # fmt: skip
    return tuple(mean.tolist()), tuple(std.tolist())


def numbers_of(dataset: ImageDataset) -> np.ndarray:
    """The numbers of all images, float64 (images, numbers).

    Raises:
        ValueError: One that is not finite.
    """
    rows = np.asarray(dataset.reader.targets, np.float64)[np.asarray(dataset.indices)]
    if not (finite := np.isfinite(rows).all(1)).all():
        at = int(np.argmin(finite))
        raise ValueError(
            f'{dataset.reader.origin}: the number of {dataset.name(at)} is {rows[at].tolist()}, not finite'
        )
    return rows
