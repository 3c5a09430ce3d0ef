"""JPEG files by libjpeg-turbo, which says what it found damaged; only the rows and the scale that are asked for."""

import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

ORIENTATION = 0x0112
START_OF_SCAN, APP1 = 0xDA, 0xE1
# baseline and extended sequential, then progressive: what libjpeg-turbo takes, of 8 bits a value
SEQUENTIAL, FRAMES = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)
COLOURS = {1: ('Gray',), 3: ('YCbCr', 'RGB')}
# what follows the last pixel harms none
HARMLESS = 'extraneous bytes before marker'


@dataclass(frozen=True)
class Jpeg:
    """A JPEG file of one or three 8-bit components, its header read.

    Attributes:
        data: The whole file.
        height, width: As stored, before `orientation`.
        components: 1 (grey) or 3.
        orientation: 1 to 8, of the EXIF data.
        frame: Position of the frame header.
        is_cuttable: Whether the rows of the file come from top to bottom, in one scan that reaches its end.
    """

    data: bytes
    height: int
    width: int
    components: int
    orientation: int
    frame: int
    is_cuttable: bool

    def pixels(self, rows: int | None = None, factor: int = 1) -> np.ndarray:
        """Decodes the file, not turned by its orientation.

        A frame header that states fewer rows makes the decoder stop there: of a random crop's picture, what lies
        below the crop costs nothing.

        Args:
            rows: Give the first rows only; all where absent.
            factor: 1, or 2, 4 or 8: decode at this fraction of the size, which skips most of the inverse DCT.

        Returns:
            uint8 (ceil(rows / factor), ceil(width / factor), components).

        Raises:
            ValueError: The data are damaged within these rows.
        """
        data: bytes | bytearray = self.data
        height = self.height
        # the last row before a cut would lack the neighbours that its colours are interpolated from
        if rows is not None and self.is_cuttable and rows + 2 < height:
            height = rows + 2
            data = bytearray(data)
            data[self.frame + 5 : self.frame + 7] = height.to_bytes(2, 'big')
        colours = 'RGB' if self.components == 3 else 'GRAY'
        shape = (-(-height // factor), -(-self.width // factor), self.components)
        out = np.empty(shape, np.uint8)
        try:
            simplejpeg.decode_jpeg(data, colours, min_height=shape[0], min_width=shape[1], min_factor=1, buffer=out)
        except ValueError as error:
            # the first warning is the one reported, and the pixels are there
            if HARMLESS not in str(error):
                raise
        return out if rows is None else out[: -(-rows // factor)]


def open_jpeg(data: bytes) -> Jpeg | None:
    """Reads a JPEG file's header.

    Returns:
        The file; None where it is not a JPEG file, or of a kind that is left to Pillow: four components, 12 bits,
        arithmetic coding, subsampling that TurboJPEG does not know, a header that is damaged.
    """
    if data[:3] != b'\xff\xd8\xff':
        return None
    position, exif, frame = 2, None, None
    while data[position : position + 1] == b'\xff' and position + 4 < len(data):
        kind, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], 'big')
        if kind == 0xFF:  # a fill byte
            position += 1
            continue
        if kind == APP1 and exif is None and data[position + 4 : position + 10] == b'Exif\0\0':
            exif = data[position + 4 : position + 2 + length]
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            frame = position
        elif kind == START_OF_SCAN:
            break
        position += 2 + length
    else:
        return None
    if frame is None or data[frame + 1] not in FRAMES or data[frame + 4] != 8:
        return None
    components = data[frame + 9]
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in COLOURS.get(components, ()):
        return None
    is_sequential = data[frame + 1] in SEQUENTIAL and data[position + 4] == components
    is_cuttable = is_sequential and data.rfind(b'\xff\xd9', position) > 0
    return Jpeg(data, height, width, components, read_orientation(exif), frame, is_cuttable)


def read_orientation(exif: bytes | None) -> int:
    """The orientation of EXIF data, 1 (upright) where they do not say."""
    if exif is None:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
    except (SyntaxError, ValueError, LookupError, OSError, struct.error):
        return 1
    orientation = tags.get(ORIENTATION, 1)
    return int(orientation) if orientation in range(1, 9) else 1
