"""Random erasing (arXiv:1708.04896) of whole batches, on the device where they are."""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from foveal.data.philox import seeds_of, uniform, words
from foveal.data.sample import Key

MODES = ('const', 'rand', 'pixel')
TRIES = 10
NOISE = 1 << 24  # the first draw of an address for noise, beyond those for boxes


class Box(NamedTuple):
    """A box to erase: of which sample of the batch, the seed of its noise, and where."""

    sample: int
    seed: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class RandomErasing:
    """Replaces boxes of images by a constant or by noise.

    What happens to an image depends on the seed and its address alone, not on the batch around it. Noise is another
    one on another kind of device.

    Attributes:
        probability: That an image has boxes erased.
        min_area, max_area: Range of the erased share of the image's area; several boxes share it.
        min_aspect, max_aspect: Range of a box's height divided by its width, drawn on a log scale; max_aspect is
            1 / min_aspect where absent.
        mode: const (zeros: the mean colour of normalised images), rand (one normal colour a box) or pixel (noise).
        min_count, max_count: Range of the number of boxes; max_count is min_count where absent.
        num_splits: Above 1, the batch is made of augmentation splits, and the first of them is left alone.
    """

    probability: float = 0.5
    min_area: float = 0.02
    max_area: float = 1 / 3
    min_aspect: float = 0.3
    max_aspect: float | None = None
    mode: str = 'const'
    min_count: int = 1
    max_count: int | None = None
    num_splits: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f're_mode must be one of {", ".join(MODES)}, got {self.mode!r}')
        if not 0 <= self.probability <= 1:
            raise ValueError(f're_prob is a probability, in [0, 1], got {self.probability}')
        if not 0 < self.min_area <= self.max_area <= 1:
            raise ValueError(f'0 < min_area <= max_area <= 1 is needed, got {self.min_area} and {self.max_area}')
        if not 0 < self.min_aspect <= (self.max_aspect or 1 / self.min_aspect):
            raise ValueError(f'0 < min_aspect <= max_aspect is needed, got {self.min_aspect} and {self.max_aspect}')
        if not 1 <= self.min_count <= (self.max_count or self.min_count):
            raise ValueError(f'1 <= min_count <= max_count is needed, got {self.min_count} and {self.max_count}')

    def __call__(self, images: torch.Tensor, addresses: np.ndarray | torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Erases in place.

        Args:
            images: Float, normalised (batch, channels, height, width).
            addresses: Integers (batch, 3): epoch, index and repeat of each sample.
            seed: Of the run.

        Returns:
            The same tensor.
        """
        for box in self.boxes(addresses, images.shape[-2:], seed):
            part = images[box.sample, :, box.top : box.top + box.height, box.left : box.left + box.width]
            part.copy_(self.noise(box, len(part), images.device)) if self.mode != 'const' else part.zero_()
        return images

    def boxes(self, addresses: np.ndarray | torch.Tensor, size: tuple[int, ...], seed: int) -> list[Box]:
        """The boxes of a batch of (height, width)."""
        height, width = size
        skipped = len(addresses) // self.num_splits if self.num_splits > 1 else 0
        most = self.max_count or self.min_count
        # all at once, which takes about as long as one
        draws = words(np.asarray(addresses)[:, None], np.r_[: 1 + most * TRIES, NOISE : NOISE + most], seed)
        numbers, seeds = uniform([word[:, :-most] for word in draws]), seeds_of([word[:, -most:] for word in draws])
        first = numbers[:, 0]
        chosen = [i for i in np.flatnonzero(first[:, 0] < self.probability).tolist() if i >= skipped]
        tried = numbers[chosen, 1:].reshape(len(chosen), most, TRIES, 4).tolist()
        low, high = math.log(self.min_aspect), math.log(self.max_aspect or 1 / self.min_aspect)
        boxes = []
        for sample, rows in zip(chosen, tried, strict=True):
            count = self.min_count + int(first[sample, 1] * (most - self.min_count + 1))
            for k in range(count):
                for area, aspect, top, left in rows[k]:
                    share = (self.min_area + area * (self.max_area - self.min_area)) * height * width / count
                    root = math.exp((low + aspect * (high - low)) / 2)
                    h, w = round(math.sqrt(share) * root), round(math.sqrt(share) / root)
                    if 0 < h < height and 0 < w < width:
                        corner = int(top * (height - h + 1)), int(left * (width - w + 1))
                        boxes.append(Box(sample, seeds[sample][k], *corner, h, w))
                        break
        return boxes

    def noise(self, box: Box, channels: int, device: torch.device) -> torch.Tensor:
        """What a box is filled with: (channels, height, width), or one colour (channels, 1, 1)."""
        draw = normal_numbers if device.type == 'cpu' else torch_numbers
        size = (box.height, box.width) if self.mode == 'pixel' else (1, 1)
        return draw((channels, *size), box.seed, device)


def torch_numbers(shape: tuple[int, ...], seed: int, device: torch.device) -> torch.Tensor:
    """Normal numbers of torch's generator."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)


def normal_numbers(shape: tuple[int, ...], seed: int, device: torch.device) -> torch.Tensor:
    """Normal numbers, each of 65,536 that are equally likely: in half of the time of torch's on a CPU."""
    count = math.prod(shape)
    # SFC64 takes half of Philox's time
    bits = np.random.SFC64(Key(seed, 0, 0)).random_raw(-(-count // 4))  # type: ignore[arg-type]
    return (
        quantiles()
        .index_select(0, torch.from_numpy(bits.view(np.uint16)[:count].astype(np.int32)))
        .view(shape)
        .to(device)
    )


@cache
def quantiles() -> torch.Tensor:
    """The middles of 65,536 equal shares of the normal distribution."""
    return torch.special.ndtri((torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)).float()
