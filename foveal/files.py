"""Files replaced whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
