"""What is in a data set, and what is wrong with it."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from foveal.data.images import UnreadableImageError, decode
from foveal.data.labels import Targets
from foveal.data.pool import gather
from foveal.data.readers import Reader, StreamReader
from foveal.data.readers.base import Encoded

CHUNK = 64  # samples that a process examines in one go
SHARD_BITS = 40  # of a stream's address, number within the shard
FACTS = np.dtype([('address', 'i8'), ('width', 'i4'), ('height', 'i4'), ('bytes', 'i8'), ('high', 'u8'), ('low', 'u8')])
ENDINGS = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif'), 'PNG': ('.png',), 'WEBP': ('.webp',), 'BMP': ('.bmp',),
    'GIF': ('.gif',), 'TIFF': ('.tif', '.tiff'), 'MPO': ('.jpg', '.jpeg', '.mpo'), 'NPY': ('.npy',),
}  # fmt: skip


@dataclass
class Part:
    """What was found in some samples of a split.

    Attributes:
        facts: A record of FACTS for every image that could be read.
        unreadable: Address and reason of the others.
        kinds: Images of each format and mode, 'JPEG RGB'.
        misnamed: Address and format of images whose file's ending says another one.
        total, squares: Sums over the images of the mean and of the mean square of their pixels in [0, 1] (of deeper
            pixels as they are), per channel.
        targets: Of a stream's samples.
    """

    facts: np.ndarray = field(default_factory=lambda: np.zeros(0, FACTS))
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    misnamed: list[tuple[int, str]] = field(default_factory=list)
    total: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    targets: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """A split and all that was found in it; addresses are in order."""

    reader: Reader | StreamReader
    found: Part

    def name(self, address: int) -> str:
        """The name of a sample."""
        if isinstance(self.reader, StreamReader):
            return f'{self.reader.shards[address >> SHARD_BITS]}:{address & (1 << SHARD_BITS) - 1}'
        return self.reader.name(address)

    def label(self, address: int) -> Any:
        """The label of a sample of a source that can be read in any order: the name of its class, or a row."""
        if isinstance(self.reader, StreamReader):
            return None
        target = self.reader.targets[address]
        if self.reader.task == 'class':
            return self.reader.classes[int(target)] if target >= 0 else None
        return np.asarray(target).tolist()

    @property
    def targets(self) -> Targets:
        """Targets of all samples."""
        return np.asarray(self.found.targets) if isinstance(self.reader, StreamReader) else self.reader.targets


def examine(reader: Reader | StreamReader, channels: int, chunk: range | int) -> Part:
    """Reads and decodes some samples.

    Args:
        reader: The source.
        channels: Channels to decode to.
        chunk: Indices of the samples; of a stream the number of a shard.
    """
    part, rows = Part(), []
    for address, name, read, target in samples(reader, chunk):
        try:
            data = read()
            kind, ending = kind_of(data)
            pixels = decode(data, channels)
        except UnreadableImageError as error:
            part.unreadable.append((address, str(error)))
        else:
            part.kinds[kind] += 1
            legal = ENDINGS.get(ending, ())
            if legal and PurePath(name).suffix and PurePath(name).suffix.lower() not in legal:
                part.misnamed.append((address, ending))
            height, width = pixels.shape[:2]
            digest = hashlib.blake2b(repr((pixels.shape, pixels.dtype.str)).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(pixels).data)
            size = len(data) if isinstance(data, bytes) else data.nbytes
            high, low = np.frombuffer(digest.digest(), '>u8').tolist()
            rows.append((address, width, height, size, high, low))
            mean, square = moments(pixels)
            part.total, part.squares = part.total + mean, part.squares + square
        if isinstance(reader, StreamReader):
            part.targets.append(target)
    part.facts = np.array(rows, FACTS)
    return part


def samples(reader: Reader | StreamReader, chunk: range | int) -> Iterator[tuple[int, str, Callable[[], Encoded], Any]]:
    """Address, name, what reads the image, and target."""
    if isinstance(chunk, range):
        assert not isinstance(reader, StreamReader)
        for i in chunk:
            yield i, reader.name(i), lambda i=i: reader.read(i), None  # type: ignore[misc]
        return
    assert isinstance(reader, StreamReader)
    for number, sample in enumerate(reader.iterate(chunk)):
        yield chunk << SHARD_BITS | number, '', lambda image=sample.image: given(image), sample.target  # type: ignore[misc]


def given(image: Encoded | str) -> Encoded:
    """The image of a stream's sample, or the reason why there is none as an error."""
    if isinstance(image, str):
        raise UnreadableImageError(image)
    return image


def moments(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mean square of each channel."""
    flat = pixels.reshape(-1, pixels.shape[2])
    if pixels.dtype != np.uint8:
        return flat.mean(0, dtype=np.float64), np.square(flat, dtype=np.float64).mean(0)
    # exact, and a third of the time of sums over floats
    counts = np.stack([np.bincount(channel, minlength=256) for channel in flat.T]) / len(flat)
    levels = np.arange(256) / 255
    return counts @ levels, counts @ levels**2


def kind_of(data: Encoded) -> tuple[str, str]:
    """Format and mode for people, and the format."""
    if isinstance(data, np.ndarray):
        return f'array {data.dtype} {1 if data.ndim == 2 else data.shape[2]}', 'array'
    if data.startswith(b'\x93NUMPY'):
        return 'NPY', 'NPY'
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = getattr(image, 'n_frames', 1)
            moving = f', {frames} frames' if frames > 1 and image.format != 'MPO' else ''
            return f'{image.format} {image.mode}{moving}', str(image.format)
    except Exception:  # whatever is wrong with it, decoding says it
        return 'TIFF, many channels', 'TIFF'


def check(
    readers: Mapping[str, Reader | StreamReader],
    channels: int = 3,
    workers: int = 0,
    progress: Callable[[str, int], None] = lambda split, done: None,
) -> dict[str, Split]:
    """Reads and decodes every sample of every split, without keeping an image.

    Args:
        readers: Split -> source.
        channels: Channels to decode to.
        workers: Processes; 0 does it in this one.
        progress: Told the split and how many more samples are done.

    Returns:
        Split -> what was found.
    """
    parts: dict[str, list[Part]] = {split: [] for split in readers}
    jobs = ((split, chunk) for split, reader in readers.items() for chunk in chunks(reader))
    for (split, _), part in gather(examine_chunk, (readers, channels), jobs, workers):
        parts[split].append(part)
        progress(split, size_of(part))
    return {split: Split(readers[split], merged(found)) for split, found in parts.items()}


def examine_chunk(readers: Mapping[str, Reader | StreamReader], channels: int, job: tuple[str, range | int]) -> Part:
    """Examines a chunk of a split."""
    return examine(readers[job[0]], channels, job[1])


def size_of(part: Part) -> int:
    """Samples that a part is about."""
    return len(part.facts) + len(part.unreadable)


def chunks(reader: Reader | StreamReader) -> Iterator[range | int]:
    """What is examined in one go: some samples, or a shard."""
    if isinstance(reader, StreamReader):
        yield from range(len(reader.shards))
    else:
        for start in range(0, len(reader), CHUNK):
            yield range(start, min(start + CHUNK, len(reader)))


def merged(parts: Sequence[Part]) -> Part:
    """One part of many, in the order of their addresses."""
    parts = sorted(
        parts, key=lambda part: min([*part.facts['address'][:1], *(a for a, _ in part.unreadable[:1])], default=0)
    )
    whole = Part(np.concatenate([np.zeros(0, FACTS), *(part.facts for part in parts)]))
    for part in parts:
        whole.unreadable += part.unreadable
        whole.kinds += part.kinds
        whole.misnamed += part.misnamed
        whole.total = whole.total + part.total
        whole.squares = whole.squares + part.squares
        whole.targets += part.targets
    return whole
