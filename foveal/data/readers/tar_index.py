"""Where the members of a tar lie in it, so that they can be read in any order without unpacking."""

import hashlib
import io
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveal.data.readers.names import Names
from foveal.data.readers.places import exists, is_remote, read_place
from foveal.files import replacing

SUFFIX = '.index.npz'
VERSION = 1
NOTES = ('cls', 'cls2', 'id', 'index', 'inx', 'json', 'text', 'txt')  # endings of members that hold labels
NOTE_SIZE = 1 << 20
ANY_TIME = 0  # written with the tar, which nobody changes
MAX_DEPTH = 1  # of tars in a tar


@dataclass(frozen=True)
class TarIndex:
    """The members of a tar that are files, in its order.

    Attributes:
        names: Their paths; of members of a tar in the tar, after that one's.
        offsets, sizes: Where their bytes are in the tar, and how many.
        notes: The content of small members that hold labels; empty for the others.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    notes: Names

    def save(self, path: Path, size: int, changed: int) -> None:
        """Writes the index of a tar of a size (bytes) and time of change (ns)."""
        arrays: dict[str, Any] = {
            'about': np.array([VERSION, size, changed], np.int64), 'offsets': self.offsets, 'sizes': self.sizes,
            'names': self.names.data, 'name_ends': self.names.offsets,
            'notes': self.notes.data, 'note_ends': self.notes.offsets,
        }  # fmt: skip
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)


def tar_index(place: str) -> TarIndex:
    """The index of a tar: as it was stored beside it or in the cache, or made now and kept in the cache.

    A stored index counts while the tar's size and time of change are what they were.

    Args:
        place: A path. Of a remote tar only an index beside it is used; see `has_index`.

    Raises:
        ValueError: Not a tar, a compressed or damaged one, or one with links or with paths that lead out of it.
    """
    if is_remote(place):
        return load_index(read_place(place + SUFFIX), place)[0]
    facts = os.stat(place)
    cached = cache_folder() / (
        hashlib.sha256(os.path.abspath(place).encode(errors='surrogateescape')).hexdigest()[:32] + SUFFIX
    )
    for path in (Path(place + SUFFIX), cached):
        if path.is_file():
            try:
                index, (size, changed) = load_index(path.read_bytes(), place)
            except ValueError:
                continue
            if size == facts.st_size and changed in (facts.st_mtime_ns, ANY_TIME):
                return index
    index = scan_tar(place)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        index.save(cached, facts.st_size, facts.st_mtime_ns)
    except OSError:
        pass  # a home that cannot be written to: the next run scans again
    return index


def has_index(place: str) -> bool:
    """Whether the members of a tar can be found without reading it from start to end."""
    return not is_remote(place) or exists(place + SUFFIX)


def cache_folder() -> Path:
    """Where indexes are kept: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'foveal' / 'index'


def load_index(data: bytes, place: str) -> tuple[TarIndex, tuple[int, int]]:
    """A stored index, and the size and time of change that the tar had.

    Raises:
        ValueError: A damaged file, or one of another version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            version, size, changed = file['about'].tolist()
            offsets, sizes = file['offsets'], file['sizes']
            names = Names.of_arrays(file['names'], file['name_ends'])
            notes = Names.of_arrays(file['notes'], file['note_ends'])
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{place}{SUFFIX} is damaged: {error}') from error
    count = len(offsets)
    fits = len(sizes) == len(names) == len(notes) == count and (offsets >= 0).all() and (sizes >= 0).all()
    if version != VERSION or not fits:
        raise ValueError(f'{place}{SUFFIX} is no index of this version')
    return TarIndex(names, offsets, sizes, notes), (size, changed)


def scan_tar(place: str) -> TarIndex:
    """Reads the headers of a local tar."""
    names, offsets, sizes, notes = [], [], [], []
    with Path(place).open('rb') as file:
        end = os.fstat(file.fileno()).st_size
        for name, member in members(file, place, end):
            names.append(name)
            offsets.append(member.offset_data)
            sizes.append(member.size)
            note = b''
            if name.rsplit('.', 1)[-1].lower() in NOTES and member.size <= NOTE_SIZE:
                # tarfile itself seeks before it reads on
                file.seek(member.offset_data)
                note = file.read(member.size)
            notes.append(os.fsdecode(note))
    return TarIndex(Names(names), np.array(offsets, np.int64), np.array(sizes, np.int64), Names(notes))


def members(file: io.BufferedReader, place: str, end: int, depth: int = 0) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The members of the tar that begins where a file stands and ends at a byte, and of the tars in it."""
    try:
        with tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                if member.offset >= end:
                    break  # an inner tar without its end marks: here the outer one goes on
                name = checked_name(member, place)
                if member.isdir():
                    continue
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError(f'{name} is cut off')
                if name.lower().endswith('.tar') and depth < MAX_DEPTH:
                    here = file.tell()
                    file.seek(member.offset_data)
                    inner = members(file, f'{place}/{name}', member.offset_data + member.size, depth + 1)
                    yield from ((f'{name}/{below}', found) for below, found in inner)
                    file.seek(here)
                    continue
                yield name, member
    except tarfile.TarError as error:
        packed = '; a compressed tar cannot be read in place: unpack it first' if is_compressed(place) else ''
        raise ValueError(f'{place} cannot be read as a tar: {error}{packed}') from error


def checked_name(member: tarfile.TarInfo, place: str) -> str:
    """A member's path, without `./`.

    Raises:
        ValueError: It leads out of the tar, or the member is neither a whole file nor a folder.
    """
    name = posixpath.normpath(member.name)
    if name.startswith(('/', '../')) or name == '..':
        raise ValueError(f'{place}: the member {member.name!r} names a path outside of the tar')
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ValueError(f'{place}: the member {name!r} is a link, a device or sparse; members must be plain files')
    return name


def is_compressed(place: str) -> bool:
    """Whether a file begins as gzip, bzip2, xz or zstandard do."""
    try:
        with Path(place).open('rb') as file:
            start = file.read(6)
    except OSError:
        return False
    return start.startswith((b'\x1f\x8b', b'BZh', b'\xfd7zXZ\0', b'\x28\xb5\x2f\xfd'))
