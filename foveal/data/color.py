"""Random changes of colour: jitter, grey, blur. Images are uint8 arrays (height, width, channels)."""

from dataclasses import dataclass

import cv2
import numpy as np

from foveal.data.ops import brightness, color, colours, contrast, gaussian_blur


def jitter_strengths(color_jitter: float | tuple[float, ...]) -> tuple[float, float, float, float]:
    """Strengths of brightness, contrast, saturation and hue.

    Args:
        color_jitter: One number for the first three, three numbers, or four with the hue's, which is at most 0.5.

    Raises:
        ValueError: Another number of values, or one out of range.
    """
    values = (color_jitter,) * 3 if isinstance(color_jitter, (int, float)) else tuple(color_jitter)
    if len(values) not in (3, 4):
        raise ValueError(
            'color_jitter is one strength, or (brightness, contrast, saturation) or '
            f'(brightness, contrast, saturation, hue), got {color_jitter}'
        )
    if min(values) < 0:
        raise ValueError(f'color_jitter must be at least 0, got {color_jitter}')
    hue = values[3] if len(values) == 4 else 0.0
    if hue > 0.5:
        raise ValueError(f'color_jitter: the hue turns by at most 0.5 of the circle, got {hue}')
    return (*values[:3], hue)  # type: ignore[return-value]


def turn_hue(image: np.ndarray, share: float) -> np.ndarray:
    """Turns the hues by a share of the colour circle; a grey image has none."""
    colours(image, 'hue')
    if image.shape[2] == 1:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(round(share * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation times random factors, and a random turn of the hue, in random order.

    Attributes:
        strengths: Of the four: factors are from [1 - strength, 1 + strength], turns from [-strength, strength].
        probability: That anything is done.
    """

    strengths: tuple[float, float, float, float]
    probability: float = 1.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.probability < 1 and rng.random() >= self.probability:
            return image
        changes = (brightness, contrast, color, turn_hue)
        wanted = [i for i, strength in enumerate(self.strengths) if strength]
        numbers = rng.random(2 * len(wanted))
        for place in np.argsort(numbers[: len(wanted)]):
            i, strength = wanted[place], self.strengths[wanted[place]]
            middle = 0 if changes[i] is turn_hue else 1
            low, high = middle - (min(1, strength) if middle else strength), middle + strength
            image = changes[i](image, low + (high - low) * numbers[len(wanted) + place])
        return image


@dataclass(frozen=True)
class RandomGray:
    """Takes all colour away, by chance."""

    probability: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return color(image, 0.0) if rng.random() < self.probability else image


@dataclass(frozen=True)
class RandomBlur:
    """Blurs by a Gaussian of a random width, by chance.

    Attributes:
        probability: That the image is blurred.
        sigma: Range of the width in pixels.
    """

    probability: float
    sigma: tuple[float, float] = (0.1, 2.0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return gaussian_blur(image, rng.uniform(*self.sigma)) if rng.random() < self.probability else image
