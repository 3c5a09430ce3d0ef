"""Archives of NumPy arrays (`.npz`), in which Google's models were published."""

import zipfile
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

KINDS = 'fiub'  # floats, integers, booleans
MOST_INFLATION = 8  # trained weights pack to no less than nine tenths; constant ones could, but are seldom many
SMALL = 64 << 20  # bytes that may come of any archive, however small


def load(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive by name.

    Raises:
        ValueError, zipfile.BadZipFile: a file that is damaged, inflates to many times its size, or holds objects.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        allowed = max(SMALL, MOST_INFLATION * path.stat().st_size)
        if sum(member.file_size for member in members) > allowed:
            raise ValueError(f'it would inflate to more than {allowed} bytes')
        if len({member.filename for member in members}) < len(members):
            raise ValueError('two arrays have one name')
        return {member.filename.removesuffix('.npy'): torch.from_numpy(array(archive, member)) for member in members}


def array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array, after its header has been compared with the size of its member."""
    with archive.open(member) as file:
        if npy.read_magic(file) != (1, 0):
            raise ValueError(f'{member.filename} is of another version of the format than arrays of numbers are')
        shape, _, dtype = npy.read_array_header_1_0(file)
        if dtype.kind not in KINDS:
            raise ValueError(f'{member.filename} has the type {dtype}, and only numbers are read')
        if prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f'{member.filename} says to be of shape {shape}, and has another size')
    with archive.open(member) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False)).astype(dtype.newbyteorder('='), copy=False)
