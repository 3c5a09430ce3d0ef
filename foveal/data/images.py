"""From the bytes of an image file to a uint8 tensor, one rule for every kind of file."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

IMAGE_EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
PILLOW_MODES = {1: 'L', 3: 'RGB'}


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message names the file and the reason."""


def read_image(path: str | Path, channels: int = 3) -> torch.Tensor:
    """Reads and decodes an image file.

    Args:
        path: A file of a format that Pillow knows.
        channels: 1 for grey or 3 for RGB, whatever the file holds.

    Returns:
        uint8 tensor (channels, height, width), by the rules of `decode_image`.

    Raises:
        UnreadableImageError: The file is missing, damaged or holds pixels without a known range.
    """
    try:
        return decode_image(Path(path).read_bytes(), channels)
    except (OSError, RuntimeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableImageError(f'cannot read image {path}: {reason}') from error


def decode_image(data: bytes, channels: int = 3) -> torch.Tensor:
    """Decodes the bytes of an image file, upright as its EXIF orientation says.

    Pillow decodes: torchvision's decoders are faster, and deprecated.

    Args:
        data: The whole file.
        channels: 1 for grey or 3 for RGB.

    Returns:
        uint8 tensor (channels, height, width).
    """
    with Image.open(io.BytesIO(data)) as image:
        return pillow_to_tensor(image, channels)


def pillow_to_tensor(image: Image.Image, channels: int = 3) -> torch.Tensor:
    """Converts a Pillow image of any mode to a uint8 tensor.

    - Turned upright by its EXIF orientation.
    - 16-bit grey is scaled to 8 bits (65535 becomes 255), never clipped.
    - Transparency, of a palette too, is laid on white: the colours hidden under it are arbitrary.
    - Grey, palette, CMYK and the rest are converted to the channels asked for.

    Args:
        image: The image.
        channels: 1 for grey or 3 for RGB.

    Returns:
        uint8 tensor (channels, height, width).

    Raises:
        ValueError: Float or 32-bit pixels, whose range no file states, or other channels than 1 and 3.
    """
    check_channels(channels)
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
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1).contiguous()


def array_to_tensor(pixels: np.ndarray, channels: int = 3) -> torch.Tensor:
    """Views a uint8 array (height, width) or (height, width, 3) as a tensor (channels, height, width)."""
    check_channels(channels)
    image = torch.from_numpy(pixels)
    if image.ndim == 2:
        return image.expand(channels, -1, -1)
    if channels == 1:
        return pillow_to_tensor(Image.fromarray(pixels), 1)
    return image.permute(2, 0, 1)


def check_channels(channels: int) -> None:
    """Refuse what image files cannot give."""
    if channels not in PILLOW_MODES:
        raise ValueError(f'image files give 1 (grey) or 3 (RGB) channels, got channels={channels}')
