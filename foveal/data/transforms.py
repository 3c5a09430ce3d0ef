"""From a decoded image to the input of a model: one pipeline to evaluate, one to train.

Both work on uint8 tensors and leave normalisation to the loader, which does it per batch on the device, unless
asked to normalise here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from foveal.data.images import pillow_to_tensor
from foveal.data.preprocess import INTERPOLATIONS, Preprocess

Transform = Callable[..., torch.Tensor]
TENSOR_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic')
TRAIN_CROP_MODES = ('rrc', 'pad', 'none')


@dataclass(frozen=True)
class Augment:
    """What training does to an image before it is normalised.

    Attributes:
        train_crop_mode: rrc (random resized crop, arXiv:1409.4842), pad (pad by `crop_padding` and crop at random, for
            images of the model's own size) or none.
        scale: Range of the area that rrc keeps.
        ratio: Range of the aspect ratio that rrc keeps.
        crop_padding: Pixels of zero padding on each side for pad.
        hflip, vflip: Probability of a flip.
        color_jitter: Strength of random brightness, contrast and saturation; 0 for none.
        train_interpolation: Of rrc; random picks bilinear or bicubic for each sample.
    """

    train_crop_mode: str = 'rrc'
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int = 4
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float = 0.0
    train_interpolation: str = 'random'

    def __post_init__(self) -> None:
        if self.train_crop_mode not in TRAIN_CROP_MODES:
            raise ValueError(
                f'train_crop_mode must be one of {", ".join(TRAIN_CROP_MODES)}, got {self.train_crop_mode!r}'
            )
        if self.train_interpolation not in ('random', *INTERPOLATIONS):
            legal = ', '.join(('random', *INTERPOLATIONS))
            raise ValueError(f'train_interpolation must be one of {legal}, got {self.train_interpolation!r}')
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f'scale must be (low, high) with 0 < low <= high <= 1, got {self.scale}')
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f'ratio must be (low, high) with 0 < low <= high, got {self.ratio}')
        for name, value in (('hflip', self.hflip), ('vflip', self.vflip)):
            if not 0 <= value <= 1:
                raise ValueError(f'{name} is a probability, in [0, 1], got {value}')
        for name, least in (('crop_padding', self.crop_padding), ('color_jitter', self.color_jitter)):
            if least < 0:
                raise ValueError(f'{name} must be at least 0, got {least}')


def create_transform(
    input_size: int | tuple[int, int] | tuple[int, int, int] = 224,
    is_training: bool = False,
    no_aug: bool = False,
    normalize: bool = True,
    interpolation: str = 'bilinear',
    mean: tuple[float, ...] = Preprocess.mean,
    std: tuple[float, ...] = Preprocess.std,
    crop_pct: float = 0.875,
    crop_mode: str = 'center',
    **augment: Any,
) -> Transform:
    """Builds the pipeline that turns an image into a model's input.

    Args:
        input_size: Side, (height, width) or (channels, height, width).
        is_training: Augment; otherwise resize and crop as `crop_mode` says.
        no_aug: In training, leave the augmentation out.
        normalize: Return normalised float32; otherwise uint8, for a loader that normalises whole batches.
        interpolation, mean, std, crop_pct, crop_mode: As in `Preprocess`.
        **augment: Fields of `Augment`, for training.

    Returns:
        A callable `(image, rng=None) -> tensor (channels, height, width)`. The image is a Pillow image or a uint8
        tensor (channels, height, width); `rng` is a numpy generator, drawn fresh where absent.

    Raises:
        ValueError, TypeError: An option outside its range, or an unknown one.
    """
    size = (3, input_size, input_size) if isinstance(input_size, int) else input_size
    size = (3, *size) if len(size) == 2 else size
    preprocess = Preprocess(size, interpolation, tuple(mean), tuple(std), crop_pct, crop_mode)
    pipeline: Transform
    if is_training and not no_aug:
        pipeline = TrainTransform(preprocess, Augment(**augment))
    else:
        pipeline = EvalTransform(preprocess)
    return Normalized(pipeline, preprocess) if normalize else pipeline


@dataclass(frozen=True)
class Normalized:
    """A pipeline followed by its normalisation, for use without a loader."""

    pipeline: Transform
    preprocess: Preprocess

    def __call__(self, image: Image.Image | torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        return normalize_batch(self.pipeline(image, rng)[None], self.preprocess)[0]


def normalize_batch(images: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """uint8 (batch, channels, height, width) to float32 with the preprocessing's mean and deviation taken out."""
    mean, std = (
        torch.tensor(values, device=images.device).mul_(255)[:, None, None]
        for values in (preprocess.mean, preprocess.std)
    )
    return (images.float() - mean) / std


@dataclass(frozen=True)
class EvalTransform:
    """Resize and crop the same way every time."""

    preprocess: Preprocess

    def __call__(self, image: Image.Image | torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        del rng
        channels, *size = self.preprocess.input_size
        image = as_tensor(image, channels)
        scaled = [int(side / self.preprocess.crop_pct) for side in size]
        have = image.shape[-2:]
        if self.preprocess.crop_mode == 'squash':
            target = scaled
        else:
            # center covers the box and is cropped, border fits inside it and is filled
            choose = max if self.preprocess.crop_mode == 'center' else min
            limit = choose((0, 1), key=lambda i: scaled[i] / have[i])
            target = [max(1, side * scaled[limit] // have[limit]) for side in have]
        image = resize(image, target, self.preprocess.interpolation)
        fill = [round(255 * value) for value in self.preprocess.mean]
        return center_crop(image, size, fill if self.preprocess.crop_mode == 'border' else [0] * channels)


@dataclass(frozen=True)
class TrainTransform:
    """Crop, flip and jitter at random."""

    preprocess: Preprocess
    augment: Augment

    def __call__(self, image: Image.Image | torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        rng = rng or np.random.default_rng()
        channels, *size = self.preprocess.input_size
        image = as_tensor(image, channels)
        if self.augment.train_crop_mode == 'rrc':
            top, left, height, width = random_resized_window(
                image.shape[-2], image.shape[-1], self.augment.scale, self.augment.ratio, rng
            )
            interpolation = self.augment.train_interpolation
            if interpolation == 'random':
                interpolation = ('bilinear', 'bicubic')[rng.integers(2)]
            image = resize(image[:, top : top + height, left : left + width], size, interpolation)
        else:
            image = resize(image, size, self.preprocess.interpolation)
            if self.augment.train_crop_mode == 'pad':
                image = pad_and_crop(image, self.augment.crop_padding, rng)
        if rng.random() < self.augment.hflip:
            image = image.flip(-1)
        if rng.random() < self.augment.vflip:
            image = image.flip(-2)
        return jitter(image, self.augment.color_jitter, rng) if self.augment.color_jitter else image


def as_tensor(image: Image.Image | torch.Tensor, channels: int) -> torch.Tensor:
    """An image as a uint8 tensor (channels, height, width)."""
    return image if isinstance(image, torch.Tensor) else pillow_to_tensor(image, channels)


def resize(image: torch.Tensor, size: list[int], interpolation: str) -> torch.Tensor:
    """Resizes a uint8 tensor (channels, height, width), antialiased, to [height, width]."""
    if list(image.shape[-2:]) == list(size):
        return image
    mode = InterpolationMode(interpolation)
    if interpolation in TENSOR_INTERPOLATIONS:
        return F.resize(image, size, interpolation=mode, antialias=True)
    # torch has no box, Hamming or Lanczos filter
    return F.pil_to_tensor(F.resize(F.to_pil_image(image), size, interpolation=mode))


def center_crop(image: torch.Tensor, size: list[int], fill: list[int]) -> torch.Tensor:
    """The middle (height, width) of an image, on a ground of `fill` where the image is smaller."""
    have = image.shape[-2:]
    if have[0] < size[0] or have[1] < size[1]:
        ground = torch.tensor(fill, dtype=image.dtype)[:, None, None]
        ground = ground.expand(-1, *(max(pair) for pair in zip(have, size, strict=True))).clone()
        top, left = (max(0, want - side) // 2 for side, want in zip(have, size, strict=True))
        ground[:, top : top + have[0], left : left + have[1]] = image
        image, have = ground, ground.shape[-2:]
    top, left = (round((side - want) / 2) for side, want in zip(have, size, strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


def random_resized_window(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Window (top, left, height, width) of random area and aspect ratio (arXiv:1409.4842, section 6).

    The aspect ratio is drawn on a log scale. Ten windows are tried; if none fits, the largest centred window of a legal
    aspect ratio is taken.
    """
    for area, log_ratio in zip(
        rng.uniform(*scale, 10) * height * width, rng.uniform(math.log(ratio[0]), math.log(ratio[1]), 10), strict=True
    ):
        h, w = round(float(np.sqrt(area / np.exp(log_ratio)))), round(float(np.sqrt(area * np.exp(log_ratio))))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, max(1, round(width / aspect))), min(width, max(1, round(height * aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


def pad_and_crop(image: torch.Tensor, padding: int, rng: np.random.Generator) -> torch.Tensor:
    """Shifts an image by up to `padding` pixels each way; zeros come in at the edge."""
    height, width = image.shape[-2:]
    top, left = rng.integers(2 * padding + 1, size=2)
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    return padded[:, top : top + height, left : left + width]


def jitter(image: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation, each by a factor in [1 - strength, 1 + strength], in random order."""
    operations = [F.adjust_brightness, F.adjust_contrast]
    if image.shape[0] == 3:
        operations.append(F.adjust_saturation)
    factors = rng.uniform(max(0, 1 - strength), 1 + strength, len(operations))
    for i in rng.permutation(len(operations)):
        image = operations[i](image, float(factors[i]))
    return image
