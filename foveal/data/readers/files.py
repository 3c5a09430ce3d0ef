"""Images in files of their own."""

import os
from collections.abc import Iterable
from pathlib import Path

from foveal.data.images import UnreadableImageError
from foveal.data.readers.base import Targets
from foveal.data.readers.names import Names


class FileReader:
    """Image files by their paths.

    Args:
        root: Folder that the paths are relative to.
        files: The paths; absolute ones stand for themselves.
        targets, classes, task: As a `Reader`'s.
    """

    def __init__(
        self, root: str | Path, files: Iterable[str], targets: Targets, classes: list[str], task: str = 'class'
    ):
        self.root, self.files = Path(root), Names(files)
        self.targets, self.classes, self.task = targets, classes, task
        self.origin = str(self.root)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int) -> bytes:
        path = os.path.join(self.root, self.files[index])
        try:
            # without a buffer, which would be filled and copied
            with open(path, 'rb', buffering=0) as file:
                return file.read()
        except OSError as error:
            raise UnreadableImageError(f'cannot read image {path}: {error.strerror}') from error
