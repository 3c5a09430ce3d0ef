"""Images in tars, read in place."""

from pathlib import Path

import numpy as np

from foveal.data.images import UnreadableImageError
from foveal.data.labels import Encoder, Labels, natural_key
from foveal.data.readers.names import Names
from foveal.data.readers.places import RangeReader
from foveal.data.readers.tar_index import tar_index
from foveal.data.splits import choose, is_split


class TarReader:
    """Members of tars.

    Args:
        tars: Places of the tars.
        which: Of every sample the number of its tar, int32 (count,).
        offsets, sizes: Where its bytes are there, int64 (count,).
        names: Its name.
        labels: Its target.
        origin: As a `Reader`'s.
    """

    def __init__(
        self,
        tars: list[str],
        which: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        names: Names,
        labels: Labels,
        origin: str,
    ):
        self.tars, self.which, self.offsets, self.sizes, self.names = Names(tars), which, offsets, sizes, names
        self.targets, self.classes, self.task = labels.targets, labels.classes, labels.task
        self.origin, self.files = origin, RangeReader()

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> bytes:
        tar = self.tars[int(self.which[index])]
        try:
            return self.files.read(tar, int(self.offsets[index]), int(self.sizes[index]))
        except OSError as error:
            raise UnreadableImageError(
                f'cannot read {self.names[index]} of {tar}: {error.strerror or error}'
            ) from error


def open_tars(path: Path, split: str, encoder: Encoder, extensions: tuple[str, ...]) -> TarReader:
    """Opens the images of a tar, of a tar of tars, or of a folder of tars.

    The class of an image is the folder that it lies in, within the tar, or else the tar's name. A single tar may hold
    the splits as its outermost folders.

    Args:
        path: The tar or folder.
        split: The split, where a tar holds several.
        encoder: Makes targets of the names of the classes.
        extensions: Endings of the members that are images, in lower case.

    Raises:
        FileNotFoundError: No images, or not those of the split.
        ValueError: A tar that cannot be read, or is not to be trusted.
    """
    tars = [path] if path.is_file() else sorted(path.glob('*.tar'), key=lambda tar: natural_key(tar.name))
    rows: list[tuple[str, str, int, int, int]] = []  # name, class, tar, offset, size
    for number, tar in enumerate(tars):
        index = tar_index(str(tar))
        prefix = '' if path.is_file() else f'{tar.name}/'
        for i in range(len(index.names)):
            name = index.names[i]
            if name.lower().endswith(extensions) and not name.rsplit('/', 1)[-1].startswith('.'):
                label = class_of(name, tar.stem)
                rows.append((prefix + name, label, number, int(index.offsets[i]), int(index.sizes[i])))
    origin = str(path)
    if path.is_file():
        rows, inside = of_split(path, split, rows)
        origin += f':{inside}' if inside else ''
    if not rows:
        raise FileNotFoundError(f'{path} holds no images ({" ".join(extensions)})')
    rows.sort(key=lambda row: natural_key(row[0]))
    which, offsets, sizes = (np.array([row[i] for row in rows], np.int64) for i in (2, 3, 4))
    labels = encoder.single([row[1] for row in rows])
    names = Names(row[0] for row in rows)
    return TarReader([str(tar) for tar in tars], which.astype(np.int32), offsets, sizes, names, labels, origin)


def class_of(name: str, tar: str) -> str:
    """The class of a member: its folder, or the tar that it lies in."""
    folder = name.split('/')[-2] if '/' in name else tar
    return folder.removesuffix('.tar')


def of_split(path: Path, split: str, rows: list) -> tuple[list, str]:
    """The rows of a split, where a tar's outermost folders (or those in its only folder) are splits."""
    for depth in (0, 1):
        parts = {row[0].split('/')[depth] for row in rows if row[0].count('/') > depth + 1}
        if any(is_split(part) for part in parts):
            found = choose(split, parts)
            if found is None:
                raise FileNotFoundError(f'{path} has no {split} split, only {", ".join(sorted(parts))}')
            return [row for row in rows if row[0].split('/')[depth] == found], found
        if len(parts) != 1:
            break
    return rows, ''
