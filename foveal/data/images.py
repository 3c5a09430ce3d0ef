"""From the bytes of an image file to pixels, one rule for every kind of file."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from foveal.data.jpeg import Jpeg, open_jpeg

IMAGE_EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
PILLOW_MODES = {1: 'L', 3: 'RGB'}
# NumPy, TIFF and BigTIFF files, which may hold more channels than Pillow has modes for
RASTER_MAGIC = (b'\x93NUMPY', b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# fractions of a JPEG's size that libjpeg-turbo decodes at quicker than at the whole
FACTORS = (8, 4, 2)
# what decoders raise over damaged files
DAMAGE = (
    *(OSError, RuntimeError, ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

Window = tuple[int, int, int, int]
Source = bytes | np.ndarray | Image.Image


class UnreadableImageError(ValueError):
    """An image that cannot be read; the message says which and why."""


class Picture:
    """An image whose size is known and whose pixels are decoded when they are asked for, as many as are asked for.

    Every image is turned upright by its EXIF orientation and has the channels asked for: transparency lies on white,
    16-bit grey is scaled to 8 bits, of an animation the first frame counts. Pixels of an array keep their type.

    Args:
        data: The bytes of an image file, pixels (height, width[, channels]) or a Pillow image.
        channels: 1 for grey, 3 for RGB; any other number only where the source has it.

    Attributes:
        height, width, channels: Of the upright image.

    Raises:
        UnreadableImageError: The source is damaged, too large to be trusted, empty, or has other channels.
    """

    def __init__(self, data: Source, channels: int = 3):
        self.channels = channels
        self.jpeg = open_jpeg(data) if isinstance(data, bytes) else None
        self.array: np.ndarray | None = None
        if self.jpeg is None:
            self.array = decode_whole(data, channels)
            self.height, self.width = self.array.shape[:2]
            return
        sides = self.jpeg.height, self.jpeg.width
        self.height, self.width = sides if self.jpeg.orientation < 5 else sides[::-1]
        # Pillow's own limit, for what it does not decode
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and self.height * self.width > 2 * limit:
            raise UnreadableImageError(
                f'{self.width}x{self.height} pixels are more than twice PIL.Image.MAX_IMAGE_PIXELS={limit}'
            )
        if channels not in PILLOW_MODES:
            raise UnreadableImageError(f'it has {self.jpeg.components} channels, {channels} are asked for')

    @property
    def nbytes(self) -> int:
        """Bytes that it holds: of its file, or of its pixels."""
        return len(self.jpeg.data) if self.array is None else self.array.nbytes  # type: ignore[union-attr]

    def pixels(self, window: Window | None = None, least: tuple[int, int] | None = None) -> np.ndarray:
        """The image, or a part of it.

        Args:
            window: (top, left, height, width) of the part; all of the image where absent.
            least: (height, width) that the part will be shrunk to: it may come at half, a quarter or an eighth of its
                size, but not below these. For training: evaluation wants the true pixels.

        Returns:
            Array (height, width, channels), uint8 but for arrays of another type; it may be a view of a larger one.

        Raises:
            UnreadableImageError: The file is damaged. In a JPEG, what lies below the window is not looked at.
        """
        top, left, height, width = window or (0, 0, self.height, self.width)
        factor = 1
        if self.jpeg is None:
            assert self.array is not None
            decoded = self.array
        else:
            if least is not None:
                fits = (f for f in FACTORS if height // f >= least[0] and width // f >= least[1])
                factor = next(fits, 1)
            decoded = decode_jpeg(self.jpeg, top + height, factor, self.channels)
        return decoded[
            top // factor : -(-(top + height) // factor),
            left // factor : -(-(left + width) // factor),
        ]


def decode(data: Source, channels: int = 3) -> np.ndarray:
    """All pixels of an image (height, width, channels), by the rules of `Picture`."""
    return Picture(data, channels).pixels()


def read_image(path: str | Path, channels: int = 3) -> torch.Tensor:
    """Reads and decodes an image file.

    Args:
        path: A file of a format that Pillow knows, TIFF and NumPy arrays included.
        channels: 1 for grey or 3 for RGB, whatever the file holds; others where it holds them.

    Returns:
        Tensor (channels, height, width), uint8 but for files of numbers.

    Raises:
        UnreadableImageError: The file is missing, damaged or holds pixels without a known range.
    """
    try:
        return torch.from_numpy(decode(Path(path).read_bytes(), channels)).permute(2, 0, 1).contiguous()
    except (OSError, UnreadableImageError) as error:
        raise UnreadableImageError(f'cannot read image {path}: {reason_of(error)}') from error


def reason_of(error: BaseException) -> str:
    """An exception in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def decode_jpeg(jpeg: Jpeg, bottom: int, factor: int, channels: int) -> np.ndarray:
    """The upright image down to row `bottom` or further, at 1 / factor of its size."""
    try:
        pixels = jpeg.pixels(bottom if jpeg.orientation == 1 else None, factor)
    except ValueError as error:
        raise UnreadableImageError(reason_of(error)) from error
    if jpeg.orientation != 1:
        pixels = np.ascontiguousarray(turned(pixels, jpeg.orientation))
    return with_channels(pixels, channels)


def decode_whole(data: Source, channels: int) -> np.ndarray:
    """Pixels (height, width, channels) of what libjpeg-turbo does not read."""
    try:
        if isinstance(data, bytes):
            pixels = decode_file(data, channels)
        elif isinstance(data, Image.Image):
            pixels = pillow_pixels(data, channels)
        else:
            pixels = data
        pixels = with_channels(pixels if pixels.ndim == 3 else pixels[..., None], channels)
    except DAMAGE as error:
        raise UnreadableImageError(reason_of(error)) from error
    if not pixels.size:
        raise UnreadableImageError(f'it has no pixels ({pixels.shape[1]}x{pixels.shape[0]})')
    return pixels


def decode_file(data: bytes, channels: int) -> np.ndarray:
    """Pixels of an image file by Pillow, or of a file of numbers."""
    if not data:
        raise ValueError('the file is empty')
    if data.startswith(RASTER_MAGIC):
        from foveal.data.rasters import read_raster

        pixels = read_raster(data)
        if pixels is not None:
            return pixels
    with warnings.catch_warnings():
        # of odd metadata, which the pixels do not depend on
        warnings.simplefilter('ignore')
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise ValueError('cannot identify its format: it is no image, or damaged at its beginning') from error
        with image:
            return pillow_pixels(image, channels)


def pillow_pixels(image: Image.Image, channels: int = 3) -> np.ndarray:
    """Pixels of a Pillow image of any mode as a uint8 array (height, width, channels).

    - Turned upright by its EXIF orientation.
    - 16-bit grey is scaled to 8 bits (65535 becomes 255), never clipped.
    - Transparency, of a palette too, is laid on white: the colours hidden under it are arbitrary.
    - Grey, palette, CMYK and the rest are converted to the channels asked for.

    Raises:
        ValueError: Float or 32-bit pixels, whose range no file states, or other channels than 1 and 3.
    """
    if channels not in PILLOW_MODES:
        raise ValueError(f'it has {len(image.getbands())} channels, {channels} are asked for')
    source_format = image.format
    image = ImageOps.exif_transpose(image)
    # Pillow before 11.3 opens 16-bit PNG files as 32-bit mode I
    if image.mode.startswith('I;16') or (image.mode == 'I' and source_format == 'PNG'):
        scaled = np.rint(np.asarray(image).astype(np.float32) / 257)
        image = Image.fromarray(scaled.astype(np.uint8))
    elif image.mode in ('I', 'F'):
        raise ValueError(f'pixels of mode {image.mode!r} (32 bits) have no known range; save it with 8 or 16 bits')
    elif image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    pixels = np.array(image.convert(PILLOW_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey as RGB or RGB as grey (its luma, ITU-R 601); any other change of channels is refused."""
    have = pixels.shape[-1]
    if have == channels:
        return pixels
    if (have, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=-1)
    if (have, channels) == (3, 1) and pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).convert('L'))[..., None]
    raise UnreadableImageError(f'it has {have} channels, {channels} are asked for')


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An image as its EXIF orientation (2 to 8) says it should be seen."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
