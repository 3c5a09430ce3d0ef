"""What every source of images answers."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from foveal.data.labels import Targets

Encoded = bytes | np.ndarray
"""An image as its source holds it: the bytes of an image file, or pixels (height, width[, channels])."""


@runtime_checkable
class Reader(Protocol):
    """Images that can be had in any order.

    A reader is sent to worker processes and held there for as long as they live: it pickles, opens files where it is
    read first, and keeps the names of its samples in arrays (`readers.names.Names`), not in lists of strings, so that
    forked workers share the memory.

    Attributes:
        classes: Names of the classes, in the order of their indices; names of the columns where targets are numbers.
        targets: What is known of every sample.
        task: What the targets mean: 'class' (an index), 'labels' (rows of 0 and 1) or 'numbers' (rows of floats).
        origin: What was opened: two splits of the same origin hold the same images.
    """

    classes: list[str]
    targets: Targets
    task: str
    origin: str

    def __len__(self) -> int:
        """Number of samples."""

    def name(self, index: int) -> str:
        """The name of a sample: its file relative to the root, or its number."""

    def read(self, index: int) -> Encoded:
        """A sample's image file, or its pixels as uint8, uint16 or float32.

        Raises:
            UnreadableImageError: The bytes cannot be had; the message names the sample.
        """


class StreamSample(NamedTuple):
    """A sample of a shard.

    Attributes:
        name: Its key in the shard.
        image: The image file or the pixels; a string is the reason why there are none.
        target: As an entry of `Reader.targets`.
    """

    name: str
    image: Encoded | str
    target: int | np.ndarray


@runtime_checkable
class StreamReader(Protocol):
    """Images that come in the order of their shards, from remote shards that nobody has indexed.

    The address of a sample is (shard, index in the shard).

    Attributes:
        classes, task, origin: As a `Reader`'s.
        shards: Names of the shards.
        count: Number of samples, where it is known without reading the shards.
    """

    classes: list[str]
    task: str
    origin: str
    shards: list[str]
    count: int | None

    def iterate(self, shard: int, start: int = 0) -> Iterator[StreamSample]:
        """The samples of a shard from number `start` on; the same ones in the same order every time."""
