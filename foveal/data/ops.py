"""The operations that augmentation policies are made of, on arrays (height, width, channels).

OpenCV does the work, three to ten times as fast as Pillow and torchvision at what costs most (moves, sharpness, blur);
docs/augmentation.md has the measurements.

Colours need uint8; geometric operations take uint8, uint16 and float32 of any number of channels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch

from foveal.data.resize import by_fours, crop_or_pad

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, of Pillow's mode L
LEVELS = np.arange(256)
WARPS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC}


class Settings(NamedTuple):
    """What the operations of a policy share.

    Attributes:
        fill: Colour of what comes in from outside the image, one value a channel or one for all.
        interpolation: Of geometric operations: nearest, bilinear, bicubic, or random (of the last two).
        translate_const: Pixels that TranslateX and TranslateY move by at level 10.
        translate_pct: Share of the side that TranslateXRel and TranslateYRel move by at level 10.
    """

    fill: tuple[int, ...] = (128,)
    interpolation: str = 'random'
    translate_const: float = 250
    translate_pct: float = 0.45


Generator = np.random.Generator


def colours(image: np.ndarray, name: str) -> None:
    """Refuse pixels whose range or meaning is not known."""
    if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        raise ValueError(
            f'{name} needs a grey or RGB image of uint8, got {image.shape[2]} channels of {image.dtype}; '
            'many-channel and deep images take geometric operations only'
        )


def scale(image: np.ndarray, factor: float, add: float = 0.0) -> np.ndarray:
    """Each value times `factor` and plus `add`."""
    return cv2.addWeighted(image, factor, image, 0, add).reshape(image.shape)


def pick_warp(settings: Settings, rng: Generator) -> int:
    """OpenCV's constant for the interpolation of this use."""
    name = settings.interpolation
    if name == 'random':
        name = ('bilinear', 'bicubic')[rng.random() < 0.5]
    return WARPS.get(name, cv2.INTER_CUBIC)


def affine(image: np.ndarray, matrix: np.ndarray, settings: Settings, warp: int) -> np.ndarray:
    """Moves every pixel: at (x, y) appears what was at matrix @ (x, y, 1).

    Args:
        image: Any depth and number of channels.
        matrix: (2, 3), in pixels from the upper left corner, so that pixel centres lie at halves.
        settings: Fill.
        warp: OpenCV's constant for the interpolation.
    """
    matrix = np.array(matrix, np.float64)
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5

    def warped(part: np.ndarray, fill: tuple[int, ...]) -> np.ndarray:
        size, flags = part.shape[1::-1], warp | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(part, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)

    if image.shape[2] == 3 and image.dtype == np.uint8:
        if warp == cv2.INTER_LINEAR:
            # the same values in half the time: OpenCV is quicker at four channels than at three
            with_alpha = by_fours(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), (*settings.fill, 0)[:4], warped)
            return cv2.cvtColor(with_alpha, cv2.COLOR_RGBA2RGB)
        if warp == cv2.INTER_CUBIC:
            # in three quarters of the time: OpenCV is quicker at floating point here
            return as_uint8(by_fours(image.astype(np.float32), settings.fill, warped))
    return by_fours(image, settings.fill, warped)


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Float32 pixels rounded, from 0 to 255; what is below 0 becomes 0 in the argument itself."""
    cv2.threshold(image, 0, 0, cv2.THRESH_TOZERO, image)
    return cv2.convertScaleAbs(image).reshape(image.shape)


def slide(image: np.ndarray, distances: np.ndarray, settings: Settings) -> np.ndarray:
    """Moves every row left by a distance of its own: what `affine` makes of a shear, bicubic in a third of the time.

    Args:
        image: uint8 (height, width, channels).
        distances: Pixels (height,).
        settings: Fill.
    """
    height, width, channels = image.shape
    whole = np.floor(distances).astype(np.int64)
    weights = torch.from_numpy(cubic_weights(distances - whole).astype(np.float32))[:, :, None]
    low, high = int(whole.min()), int(whole.max())
    source = crop_or_pad(image, 0, low - 1, (height, width + high - low + 3), settings.fill)
    # each row from its own first pixel on: the bytes from every place on, of which those of the rows are copied
    span = (width + 3) * channels
    every = np.lib.stride_tricks.as_strided(source, (source.size - span + 1, span), (1, 1))
    rows = torch.from_numpy(every[(np.arange(height) * source.shape[1] + whole - low) * channels]).float()
    taps = [rows[:, i * channels : (i + width) * channels] for i in range(4)]
    moved = taps[0] * weights[0]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        moved.addcmul_(tap, weight)
    return as_uint8(moved.numpy().reshape(image.shape))


# Keys 1981 with a = -0.75, as OpenCV has it: the weights of four pixels in a row, by powers of the place
CUBIC = np.array([[0, -0.75, 1.5, -0.75], [1, 0, -2.25, 1.25], [0, 0.75, 1.5, -1.25], [0, 0, -0.75, 0.75]])


def cubic_weights(share: float | np.ndarray) -> np.ndarray:
    """Weights (4, ...) of four pixels in a row for places between the middle two, in [0, 1)."""
    return CUBIC @ np.array([np.ones_like(share), share, share**2, share**3])


def translate(image: np.ndarray, pixels: float, axis: int, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves up (axis 0) or left (axis 1).

    A filter along one axis gives what `affine` would, bilinear in a quarter of the time and bicubic in a tenth.
    """
    warp, whole = pick_warp(settings, rng), math.floor(pixels)
    share = pixels - whole
    if warp == cv2.INTER_CUBIC:
        weights = cubic_weights(share)
    elif warp == cv2.INTER_LINEAR:
        weights = np.array([1 - share, share])
    else:
        whole, weights = math.floor(pixels + 0.5), np.ones(1)
    height, width, _ = image.shape
    first, more = whole - (len(weights) - 1) // 2, len(weights) - 1
    window = (first, 0, (height + more, width)) if axis == 0 else (0, first, (height, width + more))
    source = crop_or_pad(image, *window, settings.fill)
    kernel = weights.reshape((-1, 1) if axis == 0 else (1, -1))
    moved = cv2.filter2D(source, -1, kernel, anchor=(0, 0))[:height, :width]
    return np.ascontiguousarray(moved).reshape(image.shape)


def rotate(image: np.ndarray, degrees: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Turns about the centre, counter-clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = image.shape[1] / 2, image.shape[0] / 2
    matrix = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])
    return affine(image, matrix, settings, pick_warp(settings, rng))


def shear_x(image: np.ndarray, factor: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves each row left by `factor` times its distance from the top."""
    return shear(image, factor, 1, settings, rng)


def shear_y(image: np.ndarray, factor: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves each column up by `factor` times its distance from the left."""
    return shear(image, factor, 0, settings, rng)


def shear(image: np.ndarray, factor: float, axis: int, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves each column up (axis 0) or each row left (axis 1), by `factor` times its distance from the first edge."""
    warp = pick_warp(settings, rng)
    if warp == cv2.INTER_CUBIC and image.dtype == np.uint8 and image.shape[2] in (1, 3):
        distances = factor * (np.arange(image.shape[1 - axis]) + 0.5)
        if axis == 1:
            return slide(image, distances, settings)
        turned = cv2.transpose(image).reshape(*image.shape[1::-1], -1)
        return cv2.transpose(slide(turned, distances, settings)).reshape(image.shape)
    matrix = np.eye(2, 3)
    matrix[1 - axis, axis] = factor
    return affine(image, matrix, settings, warp)


def translate_x(image: np.ndarray, pixels: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves left."""
    return translate(image, pixels, 1, settings, rng)


def translate_y(image: np.ndarray, pixels: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves up."""
    return translate(image, pixels, 0, settings, rng)


def translate_x_rel(image: np.ndarray, share: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves left by a share of the width."""
    return translate_x(image, share * image.shape[1], settings, rng)


def translate_y_rel(image: np.ndarray, share: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Moves up by a share of the height."""
    return translate_y(image, share * image.shape[0], settings, rng)


def each_channel(image: np.ndarray, levels: Callable[[list[np.ndarray]], np.ndarray]) -> np.ndarray:
    """Replaces the pixels of each channel (height, width) by its table, of those (channels, 256) of `levels`."""
    planes = list(np.empty((image.shape[2], *image.shape[:2]), np.uint8))
    cv2.split(image, planes)
    tables = np.clip(levels(planes), 0, 255).astype(np.uint8)
    changed = [cv2.LUT(plane, own) for plane, own in zip(planes, tables, strict=True)]
    return cv2.merge(changed).reshape(image.shape)


def stretching(planes: list[np.ndarray]) -> np.ndarray:
    """The tables that stretch channels to the full range; those of one level stay."""
    low, high = np.array([cv2.minMaxLoc(plane)[:2] for plane in planes], np.int64).T[:, :, None]
    return np.where(low == high, LEVELS, (LEVELS - low) * 255 // np.maximum(high - low, 1))


def flattening(planes: list[np.ndarray]) -> np.ndarray:
    """The tables that flatten the histograms of channels."""
    counts = np.array([cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel() for plane in planes]).astype(np.int64)
    below = counts.cumsum(axis=1) - counts
    # the last level that occurs is left out, so that it lands on 255 (as in AutoAugment, arXiv:1805.09501)
    step = below.max(axis=1, where=counts > 0, initial=0, keepdims=True) // 255
    return np.where(step, (below + step // 2) // np.maximum(step, 1), LEVELS)


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to the full range."""
    colours(image, 'AutoContrast')
    return each_channel(image, stretching)


def equalize(image: np.ndarray) -> np.ndarray:
    """Flattens the histogram of each channel."""
    colours(image, 'Equalize')
    return each_channel(image, flattening)


def invert(image: np.ndarray) -> np.ndarray:
    """The negative."""
    colours(image, 'Invert')
    return cv2.bitwise_not(image).reshape(image.shape)


def posterize(image: np.ndarray, bits: float) -> np.ndarray:
    """Keeps the highest `bits` of each pixel's eight: 8 or more is the image, 0 is black."""
    colours(image, 'Posterize')
    return image & np.uint8(255 << max(0, 8 - int(bits)) & 255)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Inverts the pixels from the threshold up."""
    colours(image, 'Solarize')
    # all bits of a pixel are turned over by 255, which is -1
    return image ^ -(image >= threshold).view(np.uint8)


def solarize_add(image: np.ndarray, add: float, threshold: int = 128) -> np.ndarray:
    """Adds to the pixels below the threshold."""
    colours(image, 'SolarizeAdd')
    return cv2.add(image, -(image < threshold).view(np.uint8) & np.uint8(min(255, int(add)))).reshape(image.shape)


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Saturation: 0 is grey, 1 the image, above 1 stronger."""
    colours(image, 'Color')
    if image.shape[2] == 1:
        return image
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * LUMA)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Distance of every pixel from the mean grey of the image, times `factor`."""
    colours(image, 'Contrast')
    grey = image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = math.floor(cv2.mean(grey)[0] + 0.5)
    return scale(image, factor, (1 - factor) * mean)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Every pixel times `factor`."""
    colours(image, 'Brightness')
    return scale(image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Distance of every pixel from a 3 x 3 blur, times `factor`: below 1 blurs, above 1 sharpens. The edge stays."""
    colours(image, 'Sharpness')
    kernel = np.full((3, 3), (1 - factor) / 13)
    kernel[1, 1] = (5 + 8 * factor) / 13
    result = cv2.filter2D(image, -1, kernel).reshape(image.shape)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        result[edge] = image[edge]
    return result


def desaturate(image: np.ndarray, share: float) -> np.ndarray:
    """Takes a share of the colour away."""
    return color(image, 1 - share)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by a Gaussian of this many pixels; the image is mirrored at its edge."""
    side = 2 * math.ceil(4 * sigma) + 1
    return cv2.GaussianBlur(image, (side, side), sigma).reshape(image.shape) if sigma > 0 else image


def gaussian_blur_rand(image: np.ndarray, strength: float, settings: Settings, rng: Generator) -> np.ndarray:
    """Blurs by a Gaussian of a random width, up to 2 pixels at strength 1."""
    del settings
    return gaussian_blur(image, 0.1 + (2 * strength - 0.1) * rng.random())


# What an operation's argument is at a level: (level, sign, settings) -> argument. A level is a tenth of the strongest.
Argument = Callable[[float, int, Settings], float]


class Operation(NamedTuple):
    """One operation of a policy.

    Attributes:
        apply: Takes the image, its argument unless `argument` is None, and where `random`, settings and generator.
        argument: What the argument is at a level.
        signed: Whether a level means its argument or the opposite one, by chance.
        random: Whether the operation takes settings and draws numbers.
    """

    apply: Callable[..., np.ndarray]
    argument: Argument | None = None
    signed: bool = False
    random: bool = False

    def __call__(self, image: np.ndarray, level: float, rng: Generator, settings: Settings) -> np.ndarray:
        """Applies the operation at a level, 0 to 10 and above."""
        if self.argument is None:
            return self.apply(image)
        value = self.argument(level, 1 if self.signed and rng.random() < 0.5 else -1, settings)
        return self.apply(image, value, settings, rng) if self.random else self.apply(image, value)


def geometric(apply: Callable[..., np.ndarray], most: Callable[[Settings], float]) -> Operation:
    """A move by up to `most` at level 10, either way."""
    return Operation(apply, lambda level, sign, settings: sign * level / 10 * most(settings), signed=True, random=True)


def enhance(apply: Callable[..., np.ndarray]) -> Operation:
    """A factor that rises from 0.1 to 1.9, as in AutoAugment: level 5 changes nothing."""
    return Operation(apply, lambda level, *_: 0.1 + 1.8 * level / 10)


def enhance_increasing(apply: Callable[..., np.ndarray]) -> Operation:
    """A factor whose distance from 1 rises with the level, either way."""
    return Operation(apply, lambda level, sign, _: max(0.1, 1 + sign * 0.9 * level / 10), signed=True)


def between(apply: Callable[..., np.ndarray], low: float, high: float, random: bool = False) -> Operation:
    """An argument that rises from `low` to `high` and stays there."""
    return Operation(apply, lambda level, *_: low + (high - low) * min(1, level / 10), random=random)


ENHANCERS = {'Color': color, 'Contrast': contrast, 'Brightness': brightness, 'Sharpness': sharpness}
OPERATIONS = {
    'AutoContrast': Operation(auto_contrast),
    'Equalize': Operation(equalize),
    'Invert': Operation(invert),
    'Rotate': geometric(rotate, lambda _: 30),
    # three papers, three meanings of a level: the bits kept rise to 4, fall from 4, or rise from 4
    'Posterize': Operation(posterize, lambda level, *_: min(4, int(level / 10 * 4))),
    'PosterizeIncreasing': Operation(posterize, lambda level, *_: max(0, 4 - int(level / 10 * 4))),
    'PosterizeOriginal': Operation(posterize, lambda level, *_: min(8, 4 + int(level / 10 * 4))),
    'Solarize': Operation(solarize, lambda level, *_: min(256, int(level / 10 * 256))),
    'SolarizeIncreasing': Operation(solarize, lambda level, *_: max(0, 256 - int(level / 10 * 256))),
    'SolarizeAdd': Operation(solarize_add, lambda level, *_: min(128, int(level / 10 * 110))),
    **{name: enhance(apply) for name, apply in ENHANCERS.items()},
    **{f'{name}Increasing': enhance_increasing(apply) for name, apply in ENHANCERS.items()},
    'ShearX': geometric(shear_x, lambda _: 0.3),
    'ShearY': geometric(shear_y, lambda _: 0.3),
    'TranslateX': geometric(translate_x, lambda settings: settings.translate_const),
    'TranslateY': geometric(translate_y, lambda settings: settings.translate_const),
    'TranslateXRel': geometric(translate_x_rel, lambda settings: settings.translate_pct),
    'TranslateYRel': geometric(translate_y_rel, lambda settings: settings.translate_pct),
    'Desaturate': between(desaturate, 0.5, 1),
    'GaussianBlur': between(gaussian_blur, 0.1, 2),
    'GaussianBlurRand': between(gaussian_blur_rand, 0, 1, random=True),
}
