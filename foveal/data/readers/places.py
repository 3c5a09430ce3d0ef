"""Files by their place: a path, or any address that fsspec knows (s3://, gs://, hf://, https://, memory://)."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

OPEN_FILES = 128  # kept open by one process; a common limit is 1024


def is_remote(place: str) -> bool:
    """Whether a place is an address, not a path."""
    return '://' in place


def join(root: str, name: str) -> str:
    """A name under a root; an absolute path or address stands for itself."""
    if is_remote(name) or os.path.isabs(name) or not root:
        return name
    return f'{root.rstrip("/")}/{name}'


def file_system(place: str) -> tuple[Any, str]:
    """The file system of an address, and the path within it.

    It is asked for anew each time: connections do not survive a fork, and fsspec keeps them for a process.

    Raises:
        ModuleNotFoundError: fsspec, or what it needs for this kind of address, is not installed.
    """
    try:
        import fsspec
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'{place} needs fsspec: pip install "foveal[data]"', name='fsspec') from None
    try:
        return fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise ModuleNotFoundError(f'{place} cannot be read: {error}') from error


def open_place(place: str) -> BinaryIO:
    """Opens a file to read from start to end."""
    if not is_remote(place):
        return Path(place).open('rb')
    system, path = file_system(place)
    return system.open(path, 'rb')


def exists(place: str) -> bool:
    """Whether a file is there."""
    if not is_remote(place):
        return Path(place).is_file()
    system, path = file_system(place)
    return bool(system.isfile(path))


def read_place(place: str) -> bytes:
    """The whole content of a file."""
    with open_place(place) as file:
        return file.read()


def list_place(place: str) -> list[str]:
    """Names of the files and folders in a folder, sorted."""
    if not is_remote(place):
        return sorted(os.listdir(place))
    system, path = file_system(place)
    return sorted(str(entry).rstrip('/').rsplit('/', 1)[-1] for entry in system.ls(path, detail=False))


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Bytes of a file from a position on."""
    if hasattr(os, 'pread'):
        # not by seeking: workers share the file that they were forked with
        return os.pread(handle, size, offset)
    # Windows has no such call, and no fork
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, size)


class RangeReader:
    """Reads parts of files, each opened at most once by a process while it is among the last used."""

    def __init__(self) -> None:
        self.opened: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {'opened': OrderedDict()}

    def read(self, place: str, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size) of a file.

        Raises:
            OSError: The file cannot be read, or is shorter.
        """
        if is_remote(place):
            system, path = file_system(place)
            data: bytes = system.cat_file(path, start=offset, end=offset + size)
        else:
            data = read_at(self.handle(place), size, offset)
        if len(data) != size:
            raise OSError(0, f'{place} ends at byte {offset + len(data)}, not {offset + size}')
        return data

    def handle(self, place: str) -> int:
        """The descriptor of a local file."""
        if place not in self.opened:
            if len(self.opened) >= OPEN_FILES:
                os.close(self.opened.popitem(last=False)[1])
            self.opened[place] = os.open(place, os.O_RDONLY | getattr(os, 'O_BINARY', 0))
        self.opened.move_to_end(place)
        return self.opened[place]

    def __del__(self) -> None:
        for handle in self.opened.values():
            os.close(handle)
