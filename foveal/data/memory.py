"""Memory used again and again: the first touch of a page costs more than the arithmetic on it.

Measured on a virtual machine, 224x224 RGB: to float32 into fresh memory 280 us an image, into used memory 22 us; into
fresh memory shared between processes 118 us, as uint8.
"""

import mmap
import weakref

import numpy as np
import torch
import torch.multiprocessing

KEPT = 4


class Slots:
    """Buffers that a process and the workers forked from it both see: batches cross without being sent.

    Anonymous memory, so that the size of /dev/shm, 64 MB in many containers, is no limit.

    Args:
        count: Buffers.
        size: Bytes of each.
    """

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        self.memory = mmap.mmap(-1, max(1, count * size))
        self.pages = np.frombuffer(self.memory, np.uint8, count * size).reshape(count, size)

    def view(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """The first bytes of a buffer as a uint8 array."""
        return self.pages[slot, : int(np.prod(shape))].reshape(shape)

    def pin(self) -> None:
        """Lets a CUDA device copy from here on its own; where it refuses, copies are merely slower."""
        cuda, address = torch.cuda.cudart(), self.pages.ctypes.data
        if cuda.cudaHostRegister(address, self.pages.nbytes, 0) == cuda.cudaError.success:
            weakref.finalize(self, cuda.cudaHostUnregister, address)


def is_forking() -> bool:
    """Whether worker processes are born with this one's memory."""
    return torch.multiprocessing.get_start_method() == 'fork'


class Recycled:
    """Float buffers that are given out again once nobody holds the tensor made of them."""

    def __init__(self) -> None:
        self.buffers: list[np.ndarray] = []
        self.users: list[weakref.ref[np.ndarray]] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A float32 tensor of undefined content."""
        size = int(np.prod(shape))
        for i, (buffer, user) in enumerate(zip(self.buffers, self.users, strict=True)):
            # a tensor's storage holds the array that it was made from
            if user() is None and buffer.size >= size:
                array = buffer[:size]
                self.users[i] = weakref.ref(array)
                return torch.from_numpy(array).view(shape)
        buffer = np.empty(size, np.float32)
        array = buffer[:]
        if len(self.buffers) < KEPT:
            self.buffers.append(buffer)
            self.users.append(weakref.ref(array))
        return torch.from_numpy(array).view(shape)
