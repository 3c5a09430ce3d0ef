"""Images that lie in memory as one array: NumPy archives and IDX files."""

import gzip
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foveal.data.images import UnreadableImageError
from foveal.data.labels import Encoder
from foveal.data.readers.base import Targets
from foveal.data.splits import usual_names
from foveal.errors import near

IMAGE_KEYS = ('images', 'image', 'x', 'data', 'imgs')
LABEL_KEYS = ('labels', 'label', 'y', 'targets', 'target')
IDX_TYPES = {8: '>u1', 9: '>i1', 11: '>i2', 12: '>i4', 13: '>f4', 14: '>f8'}
IDX_PREFIXES = {'train': 'train', 'validation': 't10k', 'test': 't10k'}


class ArrayReader:
    """Samples of one array.

    Args:
        images: (count, height, width) or (count, height, width, channels), uint8, uint16 or float32.
        targets, classes, task, origin: As a `Reader`'s.
    """

    def __init__(self, images: np.ndarray, targets: Targets, classes: list[str], task: str = 'class', origin: str = ''):
        if len(images) != len(targets):
            raise ValueError(f'{origin or "array"} has {len(images)} images but {len(targets)} labels')
        if images.ndim not in (3, 4) or images.dtype not in (np.uint8, np.uint16, np.float32):
            raise ValueError(
                f'{origin or "array"}: images must be uint8, uint16 or float32 (count, height, width[, channels]), '
                f'got {images.dtype} {images.shape}'
            )
        self.images, self.targets, self.classes, self.task, self.origin = images, targets, classes, task, origin

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]


def open_npz(path: Path, split: str, encoder: Encoder, input_key: str | None, target_key: str | None) -> ArrayReader:
    """Opens a NumPy archive.

    Images and labels are the arrays `input_key` and `target_key`, or those called `images` and `labels` (`x` and `y`,
    ...); where the archive holds several splits, with the split's name before or after: `train_images`, `x_test`.

    Args:
        path: An .npz file; arrays of objects, which are pickles, are refused.
        split: Its split, where it has several.
        encoder: Makes targets of the labels.
        input_key, target_key: Names of the arrays.

    Raises:
        ValueError: Arrays that are not there, or are no images.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = (
                archive[find_array(path, archive.files, split, key, usual, what)]
                for key, usual, what in (
                    (input_key, IMAGE_KEYS, 'input_key'),
                    (target_key, LABEL_KEYS, 'target_key'),
                )
            )
            several = any(is_of_split(name) for name in archive.files)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableImageError(f'cannot read {path}: {error}') from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    found = encoder.encode(labels)
    origin = f'{path}:{split}' if several else str(path)
    return ArrayReader(images, found.targets, found.classes, found.task, origin)


def is_of_split(name: str) -> bool:
    """Whether an array's name says of which split it is."""
    parts = name.split('_')
    return bool({parts[0], parts[-1]} & {'train', 'val', 'valid', 'validation', 'test'})


def find_array(path: Path, names: Sequence[str], split: str, key: str | None, usual: Sequence[str], option: str) -> str:
    """The name of an archive's array of a split."""
    if key is not None:
        if key not in names:
            raise ValueError(f'{path} has no array {option}={key!r}{near(key, names)}')
        return key
    candidates = [
        name for part in usual_names(split) for word in usual for name in (f'{part}_{word}', f'{word}_{part}')
    ]
    candidates += [] if any(is_of_split(name) for name in names) else usual
    found = next((name for name in candidates if name in names), None)
    if found is None:
        raise ValueError(f'{path} has the arrays {", ".join(names)}; which is it? give {option}')
    return found


def read_idx(path: Path) -> np.ndarray:
    """Reads an array in the IDX format of MNIST, gzipped or not.

    The header is two zero bytes, the type of the numbers, how many dimensions there are, then each as a big-endian
    32-bit number (http://yann.lecun.com/exdb/mnist).

    Raises:
        UnreadableImageError: Not such a file, or one shorter or longer than its header says.
    """
    try:
        data = path.read_bytes()
        if path.suffix == '.gz':
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableImageError(f'cannot read {path}: {error}') from error
    if len(data) < 4 or data[:2] != b'\0\0' or data[2] not in IDX_TYPES:
        raise UnreadableImageError(f'{path} is not an IDX file')
    kind, start = np.dtype(IDX_TYPES[data[2]]), 4 + 4 * data[3]
    shape = [int(side) for side in np.frombuffer(data[4:start], '>u4')]
    if len(shape) != data[3] or len(data) - start != math.prod(shape) * kind.itemsize:
        said = math.prod(shape) * kind.itemsize
        raise UnreadableImageError(f'{path} holds {len(data) - start} bytes, its header says {said}')
    return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder('='))


def find_idx_files(root: Path, split: str) -> list[Path] | None:
    """The images and labels of a split in a plain folder of IDX files, or None where they are not all there."""
    prefix = IDX_PREFIXES.get(split)
    found = [
        next((path for ending in ('', '.gz') if (path := root / f'{prefix}-{what}-ubyte{ending}').is_file()), None)
        for what in ('images-idx3', 'labels-idx1')
    ]
    return [path for path in found if path] if all(found) else None


def open_idx(files: Sequence[Path], encoder: Encoder) -> ArrayReader:
    """Opens a file of images and a file of labels."""
    images, labels = (read_idx(file) for file in files)
    found = encoder.encode(labels)
    return ArrayReader(images, found.targets, found.classes, found.task, str(files[0]))
