"""Images of any number of channels and of deeper pixels than Pillow knows: NumPy files and TIFF."""

import io
import math
import struct

import numpy as np

DTYPES = (np.uint8, np.uint16, np.float32)
MAX_PIXELS = 178_956_970  # where Pillow calls an image a decompression bomb
NPY = b'\x93NUMPY'
BITS, PHOTOMETRIC, BANDS, EXTRA = 258, 262, 277, 338  # tags of TIFF
GREY, ALPHA = (0, 1), (1, 2)  # their values for black or white as zero, and for transparency


def read_raster(data: bytes) -> np.ndarray | None:
    """Decodes what Pillow cannot, or not whole.

    That is a `.npy` file, and TIFF with more than 4 channels or with more than one of over 8 bits (the bands of a
    satellite's image). Channels are the samples of the first page.

    Args:
        data: The whole file.

    Returns:
        Pixels (height, width, channels), uint8, uint16 or float32 as in the file; None for an image that is Pillow's.

    Raises:
        ValueError: A damaged file, other kinds of numbers, or pixels beyond all measure.
        ModuleNotFoundError: A TIFF that needs tifffile, which is not installed.
    """
    if data.startswith(NPY):
        return checked(read_npy(data))
    return None if pillow_knows(data) else checked(read_tiff(data))


def read_npy(data: bytes) -> np.ndarray:
    """The array of a `.npy` file; one of objects, which is a pickle, is refused."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f'NumPy file of version {version}')
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype not in DTYPES:
        raise ValueError(f'pixels of type {dtype}; legal are uint8, uint16 and float32')
    # before memory is taken for what a header only claims
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f'NumPy file of {len(data)} bytes, too few or many for an array {shape} of {dtype}')
    file.seek(0)
    return np.load(file, allow_pickle=False)


def pillow_knows(data: bytes) -> bool:
    """Whether Pillow decodes a TIFF, and without loss.

    Read from the tags of the first page (TIFF 6.0, section 2; BigTIFF has wider fields): Pillow logs an error of its
    own for every image with more channels than it knows.
    """
    order = '<' if data[:2] == b'II' else '>'
    big = data[2:4] in (b'+\0', b'\0+')
    at, count, entry = ('Q', 'Q', 'HHQ8s') if big else ('I', 'H', 'HHI4s')
    try:
        (start,) = struct.unpack_from(order + at, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, data, start)
        start += struct.calcsize('<' + count)
        tags = {}
        for i in range(min(entries, 256)):
            tag, _, length, value = struct.unpack_from(order + entry, data, start + i * struct.calcsize('<' + entry))
            if tag in (BITS, PHOTOMETRIC, BANDS, EXTRA):
                if length * 2 > len(value):
                    value = data[struct.unpack(order + at, value)[0] :]
                (tags[tag],) = struct.unpack_from(order + 'H', value)
    except struct.error:
        return True  # damaged: Pillow says how
    bands, bits = tags.get(BANDS, 1), tags.get(BITS, 1)
    grey = tags.get(PHOTOMETRIC) in GREY
    colours = bands == 2 and tags.get(EXTRA) in ALPHA if grey else bands <= 4
    return bands == 1 or (bits <= 8 and colours)


def read_tiff(data: bytes) -> np.ndarray:
    """The first page of a TIFF, channels last."""
    try:
        import tifffile
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'TIFF with many or deep channels needs tifffile: pip install "foveal[data]"', name='tifffile'
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            if math.prod(page.shape) > MAX_PIXELS:
                raise ValueError(f'decompression bomb: {math.prod(page.shape)} values')
            pixels, axes = page.asarray(), page.axes
    except (tifffile.TiffFileError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f'TIFF cannot be read: {error}') from error
    return np.moveaxis(pixels, 0, -1) if axes.startswith('S') else pixels


def checked(pixels: np.ndarray) -> np.ndarray:
    """Pixels as (height, width, channels), of a legal type and size."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype not in DTYPES or not pixels.size:
        raise ValueError(
            f'an array {pixels.shape} of {pixels.dtype} is no image: it must be uint8, uint16 or float32 '
            '(height, width[, channels])'
        )
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder('='), copy=False))
