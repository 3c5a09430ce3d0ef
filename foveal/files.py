"""Files replaced whole or not at all."""

import ctypes
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# what `replacing` calls its temporary files, .NAME.RANDOM and NAME's ending again; and safetensors (0.8) its own
LEFTOVER = re.compile(r'\..+(\.\w+)\.[a-z0-9_]{8}\1|\.tmp[A-Za-z0-9]{6}')


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary file to write, which takes the place of `path` when the block ends without an error.

    Its content reaches the disk before its name does, so that a crash at any moment leaves the old file or the new
    one. Only a rename within the folder is asked of the file system.

    Args:
        path: The file to create or replace; its folder must exist.

    Yields:
        The temporary file, in the same folder.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's files are private to the user; a result is as readable as any new file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files that a killed process left of a write. Nobody may be writing there."""
    for path in folder.glob('.*') if folder.is_dir() else ():
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@contextmanager
def replacing_folder(path: str | Path, belongs: Callable[[str], bool]) -> Iterator[Path]:
    """Gives a temporary folder to fill, which takes the place of `path` when the block ends without an error.

    A crash while it is filled leaves the old folder. On Linux so does one at any later moment, or it leaves the new
    one; elsewhere the old folder may be found under the temporary name. A folder that is a file system of its own
    cannot be renamed: then file after file is replaced.

    Args:
        path: The folder to create or replace; folders above it are made.
        belongs: Says of a name in the old folder whether it goes; the others are kept.

    Yields:
        The temporary folder, beside `path`.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    mounted = path.is_mount()
    temporary = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path if mounted else path.parent))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if mounted:
            for file in sorted(temporary.iterdir()):
                os.replace(file, path / file.name)
        elif not path.is_dir() or not any(path.iterdir()):
            os.replace(temporary, path)
        else:
            exchange(temporary, path)
            for old in temporary.iterdir():
                if not belongs(old.name) and not (path / old.name).exists():
                    os.replace(old, path / old.name)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(new: Path, old: Path) -> None:
    """Gives each of two folders the other's name, at once where the system can."""
    renameat2 = getattr(ctypes.CDLL(None), 'renameat2', None) if os.name == 'posix' else None
    if renameat2 and renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE) == 0:
        return
    aside = Path(tempfile.mkdtemp(prefix=f'.{old.name}.old.', dir=old.parent))
    os.replace(old, aside)
    try:
        os.replace(new, old)
    except OSError:
        os.replace(aside, old)
        raise
    os.replace(aside, new)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, have reached the disk."""
    if os.name == 'posix':
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def check_writable(path: str | Path | None) -> None:
    """Finds out before the work whether its result can be written.

    Raises:
        OSError: The folder is missing or cannot be written to.
    """
    if path is None:
        return
    folder = Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f'cannot write {path}: folder {folder} does not exist')
    if Path(path).is_dir():
        raise IsADirectoryError(f'cannot write {path}: it is a folder')
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f'cannot write {path}: {error.strerror}') from error
