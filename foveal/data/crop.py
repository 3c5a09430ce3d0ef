"""Which part of a picture a model sees, at what size and which way round."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from foveal.data.images import Picture
from foveal.data.resize import center_corner, crop_or_pad, resize

# value of white, by depth
WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}


def pick_interpolation(name: str, rng: np.random.Generator) -> str:
    """The filter of this sample: `random` is bilinear or bicubic."""
    return ('bilinear', 'bicubic')[rng.random() < 0.5] if name == 'random' else name


@dataclass(frozen=True)
class RandomResizedCrop:
    """A window of random area and aspect ratio, resized (arXiv:1409.4842, section 6).

    Attributes:
        size: (height, width) of the result.
        scale: Range of the window's share of the picture's area.
        ratio: Range of its width divided by its height.
        interpolation: Of the resizing; random picks bilinear or bicubic for each sample.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = 'random'

    def __call__(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        window = random_resized_window(picture.height, picture.width, self.scale, self.ratio, rng)
        return resize(picture.pixels(window, self.size), self.size, pick_interpolation(self.interpolation, rng))


@dataclass(frozen=True)
class KeepRatioCrop:
    """The picture resized to cover the result, smaller or squeezed a little by chance, then cropped.

    Where the picture became smaller than the result, its reflection fills the rest.

    Attributes:
        size: (height, width) of the result.
        scale: Range of the factor of both sides, drawn for half of the samples.
        ratio: Range of the change of the aspect ratio, drawn on a log scale for half of the samples.
        interpolation: Of the resizing; random picks bilinear or bicubic for each sample.
        is_random: Crop anywhere; otherwise in the middle.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.8, 1.0)
    ratio: tuple[float, float] = (0.9, 1 / 0.9)
    interpolation: str = 'random'
    is_random: bool = False

    def __call__(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        factor = rng.uniform(*self.scale) if rng.random() < 0.5 else 1.0
        squeeze = math.exp(rng.uniform(*np.log(self.ratio)) / 2) if rng.random() < 0.5 else 1.0
        size = keep_ratio((picture.height, picture.width), self.size, 0.0, factor / squeeze, factor * squeeze)
        image = resize(picture.pixels(None, size), size, pick_interpolation(self.interpolation, rng))
        if self.is_random:
            return random_crop_or_pad(image, self.size, rng, mode='reflect')
        return crop_or_pad(image, *center_corner(size, self.size), self.size, mode='reflect')


@dataclass(frozen=True)
class PadCrop:
    """The picture at the size of the result, shifted by up to `padding` pixels each way; zeros come in at the edge.

    For small images, such as CIFAR's.

    Attributes:
        size: (height, width) of the result.
        interpolation: Of the resizing, where the picture has another size.
        padding: Longest shift; 0 for none.
    """

    size: tuple[int, int]
    interpolation: str = 'bilinear'
    padding: int = 4

    def __call__(self, picture: Picture, rng: np.random.Generator) -> np.ndarray:
        image = resize(picture.pixels(), self.size, self.interpolation)
        if not self.padding:
            return image
        top, left = rng.integers(-self.padding, self.padding + 1, size=2).tolist()
        return crop_or_pad(image, top, left, self.size)


@dataclass(frozen=True)
class EvalCrop:
    """The part of a picture that evaluation looks at.

    The picture is resized to `size / crop_pct`, rounded down, and the middle is cut out of it.

    Attributes:
        size: (height, width) of the result.
        crop_pct: Share of the resized picture that the crop keeps.
        mode: center (the short side is resized, the aspect ratio kept), squash (both sides) or border (the long side,
            and the mean colour fills the rest).
        interpolation: Of the resizing.
        mean: Colour of the border, in [0, 1], one value a channel.
        border_pixels: Cut off each edge of the picture first.
    """

    size: tuple[int, int]
    crop_pct: float = 0.875
    mode: str = 'center'
    interpolation: str = 'bilinear'
    mean: tuple[float, ...] = (0.0,)
    border_pixels: int = 0

    def __call__(self, picture: Picture) -> np.ndarray:
        height, width, cut = picture.height, picture.width, self.border_pixels
        window = None
        if cut:
            height, width = height - 2 * cut, width - 2 * cut
            if min(height, width) < 1:
                raise ValueError(
                    f'crop_border_pixels={cut} leaves nothing of a {picture.height} x {picture.width} image'
                )
            window = (cut, cut, height, width)
        scaled = (math.floor(self.size[0] / self.crop_pct), math.floor(self.size[1] / self.crop_pct))
        if self.mode == 'border':
            scaled = keep_ratio((height, width), scaled, 1.0)
        elif self.mode == 'center':
            scaled = cover((height, width), scaled)
        image = resize(picture.pixels(window), scaled, self.interpolation)
        fill: tuple[int, ...] = (0,)
        if self.mode == 'border':
            white = WHITE[image.dtype]
            fill = tuple(value if white == 1 else round(white * value) for value in self.mean)  # type: ignore[misc]
        return crop_or_pad(image, *center_corner(scaled, self.size), self.size, fill)


@dataclass(frozen=True)
class RandomFlip:
    """Mirrors left-right (axis 1) or upside down (axis 0), by chance."""

    probability: float
    axis: int

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.flip(image, self.axis).reshape(image.shape) if rng.random() < self.probability else image


def cover(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """Size at which a picture just covers another; to cover a square, the long side is rounded down (torchvision)."""
    if want[0] != want[1]:
        return keep_ratio(have, want, 0.0)
    short = min(have)
    height, width = (want[0] if side == short else int(want[0] * side / short) for side in have)
    return height, width


def keep_ratio(
    have: tuple[int, int], want: tuple[int, int], longest: float, factor_h: float = 1.0, factor_w: float = 1.0
) -> tuple[int, int]:
    """Size (height, width) of a picture that covers (longest=0) or fits into (longest=1) another one, times factors."""
    ratios = [side / goal for side, goal in zip(have, want, strict=True)]
    ratio = max(ratios) * longest + min(ratios) * (1 - longest)
    return max(1, round(have[0] * factor_h / ratio)), max(1, round(have[1] * factor_w / ratio))


def random_crop_or_pad(
    image: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    fill: tuple[int, ...] = (0,),
    mode: str = 'constant',
) -> np.ndarray:
    """A window (height, width) anywhere in an image; a smaller image lies anywhere in the window."""
    spare = [side - want for side, want in zip(image.shape[:2], size, strict=True)]
    top, left = (int(rng.integers(min(0, over), max(0, over) + 1)) for over in spare)
    return crop_or_pad(image, top, left, size, fill, mode)


def random_resized_window(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Window (top, left, height, width) of random area and aspect ratio.

    The aspect ratio is drawn on a log scale. Ten windows are tried; if none fits, the largest centred window of a legal
    aspect ratio is taken.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = (scale[0] + (scale[1] - scale[0]) * rng.random()) * height * width
        root = math.exp((low + (high - low) * rng.random()) / 2)
        h, w = round(math.sqrt(area) / root), round(math.sqrt(area) * root)
        if 0 < h <= height and 0 < w <= width:
            return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))
    return (height - h) // 2, (width - w) // 2, h, w
