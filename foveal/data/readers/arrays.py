"""Images that already lie in memory as one uint8 array."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from foveal.data.images import UnreadableImageError, array_to_tensor


class ArrayReader:
    """Samples of one array.

    Args:
        images: uint8 (count, height, width) or (count, height, width, 3).
        targets: Class index of every image.
        classes: Names of the classes.
    """

    def __init__(self, images: np.ndarray, targets: list[int], classes: list[str]):
        if len(images) != len(targets):
            raise ValueError(f'{len(images)} images but {len(targets)} labels')
        self.images, self.targets, self.classes = images, targets, classes

    def read(self, index: int, channels: int) -> torch.Tensor:
        return array_to_tensor(self.images[index], channels)

    def name(self, index: int) -> str:
        return str(index)


def read_idx(path: Path) -> np.ndarray:
    """Reads an array of bytes in the IDX format of MNIST, gzipped or not.

    The header is two zero bytes, the type (8: unsigned byte), the number of dimensions, then each as a big-endian
    32-bit number (http://yann.lecun.com/exdb/mnist).

    Raises:
        UnreadableImageError: Another type, or a file shorter or longer than its header says.
    """
    try:
        data = path.read_bytes()
        if path.suffix == '.gz':
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableImageError(f'cannot read {path}: {error}') from error
    if data[:3] != b'\0\0\x08':
        raise UnreadableImageError(f'{path} is not an IDX file of unsigned bytes')
    start = 4 + 4 * data[3]
    shape = [int(side) for side in np.frombuffer(data[4:start], '>u4')]
    if len(data) - start != math.prod(shape):
        raise UnreadableImageError(f'{path} holds {len(data) - start} bytes, its header says {math.prod(shape)}')
    # the copy is writable, as torch wants its memory
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()
