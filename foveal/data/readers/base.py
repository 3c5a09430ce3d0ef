"""What every source of images answers."""

from typing import Protocol

import torch


class Reader(Protocol):
    """A source of labelled images.

    Attributes:
        classes: Names of the classes, in the order of their indices.
        targets: Class index of every sample.
    """

    classes: list[str]
    targets: list[int]

    def read(self, index: int, channels: int) -> torch.Tensor:
        """The image as uint8 (channels, height, width); raises UnreadableImageError."""

    def name(self, index: int) -> str:
        """The name of a sample: its file relative to the root, or its number."""
