"""Many strings in two arrays."""

import os
from collections.abc import Iterable

import numpy as np


class Names:
    """An immutable list of strings without a Python object for each.

    A list of a million strings is touched, reference counts and all, by every worker process that reads it, and so
    copied into each of them. Here it is one array of bytes and one of offsets, which forked workers share.

    Args:
        names: The strings; such as the file system's, which need not be valid Unicode.
    """

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self.offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(name) for name in encoded], out=self.offsets[1:])
        self.data = np.frombuffer(b''.join(encoded), np.uint8)

    @classmethod
    def of_arrays(cls, data: np.ndarray, offsets: np.ndarray) -> 'Names':
        """The names whose arrays were stored."""
        names = cls.__new__(cls)
        names.data, names.offsets = data, offsets
        return names

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} of {len(self)} names')
        return os.fsdecode(self.data[self.offsets[index] : self.offsets[index + 1]].tobytes())
