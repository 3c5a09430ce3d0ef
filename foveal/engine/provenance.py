"""Where a figure comes from: hashes of weights and data, and the versions of what computed it."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import nn

from foveal import __version__
from foveal.data import ImageDataset, UnreadableImageError
from foveal.data.pool import gather
from foveal.data.readers import Reader
from foveal.data.stream import StreamDataset

PACKAGES = ('torchvision', 'numpy', 'pillow', 'opencv-python-headless')
CHUNK = 256


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's state dict: names, types, shapes and values, in whatever file they came."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def listing_hash(dataset: ImageDataset | StreamDataset) -> str | None:
    """SHA-256 of what a data set lists: classes, names and labels in order; no image is read.

    Returns:
        The hash; None for a stream, which has no list.
    """
    if isinstance(dataset, StreamDataset):
        return None
    digest = hashlib.sha256('\n'.join(dataset.classes).encode(errors='surrogateescape'))
    for index in dataset.indices:
        digest.update(dataset.reader.name(index).encode(errors='surrogateescape') + b'\n')
        digest.update(np.asarray(dataset.reader.targets[index]).tobytes())
    return digest.hexdigest()


def data_hash(dataset: ImageDataset | StreamDataset, workers: int = 0) -> str | None:
    """SHA-256 of a data set: the content of every image as its source holds it, in order, with name and label.

    Reading is all it costs: a few percent of decoding.

    Args:
        dataset: The images.
        workers: Processes that read.

    Returns:
        The hash; None for a stream, which would have to be read twice.
    """
    if isinstance(dataset, StreamDataset):
        return None
    starts = range(0, len(dataset), CHUNK)
    parts = dict(gather(hash_chunk, (dataset.reader, np.asarray(dataset.indices)), starts, workers))
    digest = hashlib.sha256('\n'.join(dataset.classes).encode(errors='surrogateescape'))
    for start in starts:
        digest.update(parts[start])
    return digest.hexdigest()


def hash_chunk(reader: Reader, indices: np.ndarray, start: int) -> bytes:
    """The hash of CHUNK samples from `start` on."""
    digest = hashlib.sha256()
    for index in indices[start : start + CHUNK].tolist():
        digest.update(reader.name(index).encode(errors='surrogateescape') + b'\n')
        digest.update(np.asarray(reader.targets[index]).tobytes())
        try:
            content = reader.read(index)
            raw = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
        except UnreadableImageError as error:
            raw = str(error).encode()
        digest.update(hashlib.sha256(raw).digest())
    return digest.digest()


def versions() -> dict[str, str]:
    """Versions of what has a say in a figure, and the machine's kind."""
    # torch's own word tells the build too
    found = {'foveal': __version__, 'python': platform.python_version(), 'torch': torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = 'absent'
    found['platform'] = f'{platform.system()} {platform.machine()}'
    found['device'] = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or 'cpu'
    return found


def differing(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float = 0.0) -> list[str]:
    """The keys whose values differ, as text; numbers by more than `tolerance`, relative to the old one."""
    said = []
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            same = abs(before - after) <= tolerance * abs(before)
        else:
            same = before == after
        if not same:
            said.append(f'{key}: {before} there, {after} here')
    return said
