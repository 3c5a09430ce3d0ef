"""From a picture to the input of a model: one pipeline to evaluate, one to train.

Inside, an image is an array (height, width, channels), of uint8 for ordinary pictures. Normalisation, erasing and
mixing are left to the loader, which does them per batch on the device, unless asked to normalise here.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from foveal.data.absent import refuse_absent
from foveal.data.auto_augment import Policy, create_policy
from foveal.data.color import ColorJitter, RandomBlur, RandomGray, jitter_strengths
from foveal.data.crop import EvalCrop, KeepRatioCrop, PadCrop, RandomFlip, RandomResizedCrop
from foveal.data.images import Picture
from foveal.data.ops import Settings
from foveal.data.preprocess import INTERPOLATIONS, Preprocess
from foveal.data.random_erasing import RandomErasing
from foveal.errors import near

Transform = Callable[..., Any]
WHITE = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}
Stage = Callable[[Any, np.random.Generator], np.ndarray]
AnyImage = Picture | Image.Image | torch.Tensor | np.ndarray
# range of the kept area or size, and of the aspect ratio, where none is given
CROP_DEFAULTS = {'rrc': ((0.08, 1.0), (3 / 4, 4 / 3)), 'rkrc': ((0.8, 1.0), (0.9, 1 / 0.9))}
CROP_DEFAULTS['rkrr'] = CROP_DEFAULTS['rkrc']
TRAIN_CROP_MODES = ('rrc', 'rkrc', 'rkrr', 'pad', 'none')


@dataclass(frozen=True)
class Augment:
    """What training does to an image before it is normalised, in this order.

    Attributes:
        train_crop_mode: rrc (random resized crop, the default), rkrc or rkrr (keep the ratio, crop in the middle or
            anywhere), pad (pad by `crop_padding` and crop at random, for images of the model's own size) or none.
        scale: Range of the area that rrc keeps (0.08 to 1), or of the factor of both sides in rkrc and rkrr (0.8 to 1).
        ratio: Range of the aspect ratio in rrc (3/4 to 4/3), or of its change in rkrc and rkrr (0.9 to 1/0.9).
        crop_padding: Pixels of zero padding on each side for pad.
        hflip, vflip: Probability of a flip.
        auto_augment: A policy string; `foveal.data.auto_augment` lists them.
        color_jitter: Strength of random brightness, contrast and saturation; or one for each, or four with the hue's.
            A policy takes its place, except 3a.
        color_jitter_prob: Probability of the jitter; always where absent.
        force_color_jitter: Jitter after any policy.
        grayscale_prob, gaussian_blur_prob: Probability of a grey, or a blurred image.
        train_interpolation: Of the crops and of the operations of a policy; random picks bilinear or bicubic for each
            sample. That of the preprocessing where absent.
    """

    train_crop_mode: str | None = None
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    crop_padding: int = 4
    hflip: float = 0.5
    vflip: float = 0.0
    auto_augment: str | None = None
    color_jitter: float | tuple[float, ...] | None = 0.4
    color_jitter_prob: float | None = None
    force_color_jitter: bool = False
    grayscale_prob: float = 0.0
    gaussian_blur_prob: float = 0.0
    train_interpolation: str | None = None

    def __post_init__(self) -> None:
        if self.train_crop_mode not in (None, *TRAIN_CROP_MODES):
            raise ValueError(
                f'train_crop_mode must be one of {", ".join(TRAIN_CROP_MODES)}, got {self.train_crop_mode!r}'
            )
        if self.train_interpolation not in (None, 'random', *INTERPOLATIONS):
            legal = ', '.join(('random', *INTERPOLATIONS))
            raise ValueError(f'train_interpolation must be one of {legal}, got {self.train_interpolation!r}')
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f'scale must be (low, high) with 0 < low <= high <= 1, got {self.scale}')
        if self.ratio is not None and not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f'ratio must be (low, high) with 0 < low <= high, got {self.ratio}')
        for name in ('hflip', 'vflip', 'color_jitter_prob', 'grayscale_prob', 'gaussian_blur_prob'):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f'{name} is a probability, in [0, 1], got {value}')
        if self.crop_padding < 0:
            raise ValueError(f'crop_padding must be at least 0, got {self.crop_padding}')
        jitter_strengths(self.color_jitter or 0.0)
        if self.auto_augment:
            create_policy(self.auto_augment)


class Pipeline(Protocol):
    """From a picture of any kind to a model's input."""

    preprocess: Preprocess

    def base(self, image: AnyImage, rng: np.random.Generator | None = None) -> np.ndarray:
        """Crop and flips: the clean image (height, width, channels)."""

    def augment_all(self, images: list[np.ndarray], rngs: list[np.random.Generator]) -> list[np.ndarray]:
        """Everything after crop and flips, on arrays (height, width, channels), each with its own generator."""

    def array(self, image: AnyImage, rng: np.random.Generator | None = None) -> np.ndarray:
        """The pixels (height, width, channels) that the model will see, not normalised."""

    def __call__(self, image: AnyImage, rng: np.random.Generator | None = None) -> torch.Tensor:
        """The model's input (channels, height, width)."""


class Stages(NamedTuple):
    """A training pipeline in three parts, each a callable `(image, rng)`.

    Attributes:
        base: Crop and flips; from a picture of any kind to an array (height, width, channels).
        augment: Policy, jitter, grey and blur; from array to array.
        final: From an array to the model's input, a tensor (channels, height, width).
    """

    base: Transform
    augment: Transform
    final: Transform


def create_transform(
    input_size: int | tuple[int, int] | tuple[int, int, int] = 224,
    is_training: bool = False,
    no_aug: bool = False,
    interpolation: str = 'bilinear',
    mean: tuple[float, ...] = Preprocess.mean,
    std: tuple[float, ...] = Preprocess.std,
    re_prob: float = 0.0,
    re_mode: str = 'const',
    re_count: int = 1,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    crop_border_pixels: int | None = None,
    normalize: bool = True,
    use_prefetcher: bool = False,
    separate: bool = False,
    **augment: Any,
) -> Any:
    """Builds the pipeline that turns an image into a model's input.

    Args:
        input_size: Side, (height, width) or (channels, height, width).
        is_training: Augment; otherwise resize and crop as `crop_mode` says.
        no_aug: In training, show the images as evaluation sees them.
        interpolation, mean, std, crop_pct, crop_mode: As in `Preprocess`; in training the interpolation may be random.
        re_prob, re_mode, re_count: Random erasing, of normalised images: `RandomErasing`.
        crop_border_pixels: In evaluation, cut these off each edge first.
        normalize: Return normalised float32; otherwise uint8, for a loader that normalises whole batches.
        use_prefetcher: The same as `normalize=False`.
        separate: Give a training pipeline as `Stages`.
        **augment: Fields of `Augment`, for training.

    Returns:
        A `Pipeline`: a callable `(image, rng=None) -> tensor (channels, height, width)`. The image is a Pillow image, a
        tensor (channels, height, width), an array (height, width, channels) or a `Picture`; `rng` is a numpy generator,
        drawn fresh where absent. With `separate`, `Stages`.

    Raises:
        ValueError, TypeError: An option outside its range, or an unknown one.
    """
    refuse_absent('create_transform', augment)
    known = [field.name for field in fields(Augment)]
    if unknown := [name for name in augment if name not in known]:
        raise TypeError(f'create_transform has no option {unknown[0]!r}{near(unknown[0], known)}')
    options = Augment(**augment)
    if is_training and interpolation == 'random':
        options, interpolation = replace(options, train_interpolation='random'), Preprocess.interpolation
    preprocess = Preprocess(
        full_size(input_size),
        interpolation,
        tuple(mean),
        tuple(std),
        Preprocess.crop_pct if crop_pct is None else crop_pct,
        Preprocess.crop_mode if crop_mode is None else crop_mode,
    )
    normalize = normalize and not use_prefetcher
    if re_prob and not normalize:
        raise ValueError('re_prob needs normalize=True: uint8 images are erased by the loader, once normalised')
    augmented = is_training and not no_aug
    erasing = RandomErasing(re_prob, mode=re_mode, max_count=re_count) if augmented and re_prob else None
    final = Final(preprocess, normalize, erasing)
    if augmented:
        pipeline: Pipeline = TrainTransform(preprocess, options, final)
    else:
        pipeline = EvalTransform(preprocess, final, crop_border_pixels or 0)
    if not separate:
        return pipeline
    if not isinstance(pipeline, TrainTransform):
        raise ValueError('separate needs is_training=True, and no_aug off')
    return Stages(pipeline.base, pipeline.augment, final)


def full_size(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of a side, (height, width) or itself."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    return (3, *size) if len(size) == 2 else size  # type: ignore[return-value]


def as_picture(image: AnyImage, channels: int) -> Picture:
    """An image of any kind as the crops want it."""
    if isinstance(image, Picture):
        return image
    return Picture(image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else image, channels)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    """An array (height, width, channels) as a tensor (channels, height, width), in the same memory where torch may."""
    if not image.flags.writeable or min(image.strides) < 0:
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)


def normalize_batch(images: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Takes the preprocessing's mean and deviation out.

    Args:
        images: (batch, channels, height, width); white is 255 in uint8, 65535 in uint16 and 1 in float32.
        preprocess: Mean and deviation.

    Returns:
        float32 (batch, channels, height, width).
    """
    white = WHITE[images.dtype]
    mean, std = (
        torch.tensor(values, device=images.device).mul_(white)[:, None, None]
        for values in (preprocess.mean, preprocess.std)
    )
    return (images.float() - mean) / std


@dataclass(frozen=True)
class Final:
    """From an array (height, width, channels) to the model's input (channels, height, width).

    Attributes:
        preprocess: The normalisation.
        normalize: Whether to normalise, to float32.
        erasing: Random erasing of normalised images.
    """

    preprocess: Preprocess
    normalize: bool = True
    erasing: RandomErasing | None = None

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
        tensor = as_tensor(image)
        if not self.normalize:
            return tensor
        batch = normalize_batch(tensor[None], self.preprocess)
        if self.erasing is not None:
            batch = self.erasing(batch, (rng or np.random.default_rng()).integers(1 << 31, size=(1, 3)))
        return batch[0]


class EvalTransform:
    """Resize and crop the same way every time."""

    def __init__(self, preprocess: Preprocess, final: Final, border_pixels: int = 0):
        self.preprocess, self.final = preprocess, final
        self.crop = EvalCrop(
            preprocess.input_size[1:],
            preprocess.crop_pct,
            preprocess.crop_mode,
            preprocess.interpolation,
            preprocess.mean,
            border_pixels,
        )

    def base(self, image: AnyImage, rng: np.random.Generator | None = None) -> np.ndarray:
        """The crop, (height, width, channels)."""
        del rng
        return self.crop(as_picture(image, self.preprocess.input_size[0]))

    array = base

    def augment_all(self, images: list[np.ndarray], rngs: list[np.random.Generator]) -> list[np.ndarray]:
        """The images as they are."""
        del rngs
        return images

    def __call__(self, image: AnyImage, rng: np.random.Generator | None = None) -> torch.Tensor:
        return self.final(self.array(image, rng), rng)


class TrainTransform:
    """Crop, flip and change at random, as `Augment` says."""

    def __init__(self, preprocess: Preprocess, options: Augment, final: Final):
        self.preprocess, self.options, self.final = preprocess, options, final
        size, interpolation = preprocess.input_size[1:], options.train_interpolation or preprocess.interpolation
        self.crop = train_crop(size, interpolation, preprocess.interpolation, options)
        self.flips = [RandomFlip(p, axis) for p, axis in ((options.hflip, 1), (options.vflip, 0)) if p]
        fill = tuple(min(255, round(255 * value)) for value in preprocess.mean)
        self.changes = changes(options, Settings(fill, interpolation, int(0.45 * min(size))))

    def base(self, image: AnyImage, rng: np.random.Generator | None = None) -> np.ndarray:
        """Crop and flips: the clean image (height, width, channels)."""
        rng = rng or np.random.default_rng()
        pixels = self.crop(as_picture(image, self.preprocess.input_size[0]), rng)
        for flip in self.flips:
            pixels = flip(pixels, rng)
        return pixels

    def augment(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Everything after crop and flips, on an array (height, width, channels)."""
        return self.augment_all([image], [rng or np.random.default_rng()])[0]

    def augment_all(self, images: list[np.ndarray], rngs: list[np.random.Generator]) -> list[np.ndarray]:
        """`augment` of several images, change by change: after the first image a change's code is in the cache."""
        for change in self.changes:
            images = [change(image, rng) for image, rng in zip(images, rngs, strict=True)]
        return images

    def array(self, image: AnyImage, rng: np.random.Generator | None = None) -> np.ndarray:
        """The augmented image (height, width, channels)."""
        rng = rng or np.random.default_rng()
        return self.augment(self.base(image, rng), rng)

    def __call__(self, image: AnyImage, rng: np.random.Generator | None = None) -> torch.Tensor:
        rng = rng or np.random.default_rng()
        return self.final(self.array(image, rng), rng)


def train_crop(size: tuple[int, int], interpolation: str, exact: str, options: Augment) -> Stage:
    """The first stage of training; `exact` is the interpolation of pictures that are only brought to the size."""
    mode = options.train_crop_mode or 'rrc'
    if mode in ('pad', 'none'):
        return PadCrop(size, exact, options.crop_padding if mode == 'pad' else 0)
    scale, ratio = options.scale or CROP_DEFAULTS[mode][0], options.ratio or CROP_DEFAULTS[mode][1]
    if mode == 'rrc':
        return RandomResizedCrop(size, scale, ratio, interpolation)
    return KeepRatioCrop(size, scale, ratio, interpolation, is_random=mode == 'rkrr')


def changes(options: Augment, settings: Settings) -> list[Policy]:
    """The stages after crop and flips."""
    stages: list[Policy] = []
    if options.auto_augment:
        stages.append(create_policy(options.auto_augment, settings))
    strengths = jitter_strengths(options.color_jitter or 0.0)
    with_jitter = not options.auto_augment or options.force_color_jitter or options.auto_augment.startswith('3a')
    if any(strengths) and with_jitter:
        stages.append(ColorJitter(strengths, 1.0 if options.color_jitter_prob is None else options.color_jitter_prob))
    if options.grayscale_prob:
        stages.append(RandomGray(options.grayscale_prob))
    if options.gaussian_blur_prob:
        stages.append(RandomBlur(options.gaussian_blur_prob))
    return stages
