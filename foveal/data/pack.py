"""Writes data sets as WebDataset shards that can be read in any order, and of which no half is ever left."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveal.data.check import kind_of
from foveal.data.images import UnreadableImageError, decode
from foveal.data.pool import gather
from foveal.data.readers import Reader, StreamReader
from foveal.data.readers.base import Encoded
from foveal.data.readers.shard_spec import INFO
from foveal.data.readers.tar_index import ANY_TIME, SUFFIX, scan_tar
from foveal.files import replacing, write_text

FORMAT = 'foveal shards 1'
JOURNAL = '.packing'  # folder of what is known of the shards that are done
ENDINGS = {
    'JPEG': 'jpg',
    'MPO': 'jpg',
    'PNG': 'png',
    'WEBP': 'webp',
    'BMP': 'bmp',
    'TIFF': 'tif',
    'NPY': 'npy',
    'GIF': 'gif',
}
TARGETS = {'class': ('cls', None), 'labels': ('json/labels', 'indices'), 'numbers': ('json/numbers', 'numbers')}


@dataclass(frozen=True)
class PackOptions:
    """How a data set is packed.

    Attributes:
        shard_size: Samples a shard, at least 1.
        size: Images whose shorter side is longer are shrunk to it and saved as JPEG; None keeps all files as they are.
        quality: Of such JPEG files, 1 to 100.
        seed: Of the order of the samples; None for the source's.
        skip_bad: Leave out what cannot be read.
        channels: That the images have to decode to.
    """

    shard_size: int = 1000
    size: int | None = None
    quality: int = 92
    seed: int | None = None
    skip_bad: bool = False
    channels: int = 3

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f'shard_size must be at least 1, got {self.shard_size}')
        if self.size is not None and self.size < 1:
            raise ValueError(f'size must be at least 1, got {self.size}')
        if self.size is not None and self.channels not in (1, 3):
            raise ValueError(f'size is for images of 1 or 3 channels, got channels={self.channels}')
        if not 1 <= self.quality <= 100:
            raise ValueError(f'quality must be in 1 to 100, got {self.quality}')


@dataclass(frozen=True)
class Shard:
    """A shard to write.

    Attributes:
        split: Of the data.
        file: Its name.
        start, stop: The samples of the split that belong in it; of a stream, the shard that becomes this one.
    """

    split: str
    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Packed:
    """A sample to write.

    Attributes:
        key: What its members' names begin with.
        name: What its source calls it.
        target: Its label.
        read: Gives its image.
    """

    key: str
    name: str
    target: Any
    read: Callable[[], Encoded]


def pack(
    readers: Mapping[str, Reader | StreamReader],
    output: Path,
    options: PackOptions,
    workers: int = 0,
    progress: Callable[[str, int], None] = lambda split, done: None,
) -> dict[str, Any]:
    """Writes the shards of all splits, reads each again, and writes `_info.json` when all is well.

    Each shard of a stream becomes a shard, of as many samples as it has, in its order.

    What a former run has finished is kept. The bytes of the shards depend on the images, the options and the versions
    of the image libraries alone.

    Args:
        readers: Split -> source.
        output: Folder to write to; made where it is absent.
        options: How.
        workers: Processes; 0 does it in this one.
        progress: Told the split and how many more samples are done.

    Returns:
        The content of `_info.json`.

    Raises:
        FileExistsError: `output` holds shards of other data or options.
        UnreadableImageError: An image that cannot be read, unless `skip_bad`.
        ValueError: A stream is to be shuffled.
        OSError: A shard does not hold what was written to it.
    """
    for split, reader in readers.items():
        if isinstance(reader, StreamReader) and options.seed is not None:
            raise ValueError(
                f'{split} is a stream, which seed cannot shuffle: pack it without, and the result with seed'
            )
    plan = plan_of(readers, options)
    journal = output / JOURNAL
    if (output / INFO).is_file():
        info: dict[str, Any] = json.loads((output / INFO).read_text(encoding='utf-8'))
        if info.get('plan') != plan:
            raise FileExistsError(f'{output} holds shards of other data or options; give another folder')
    elif (journal / 'plan').is_file() and (journal / 'plan').read_text() != plan:
        raise FileExistsError(f'{output} holds the beginning of shards of other data or options; give another folder')
    elif not journal.is_dir() and output.is_dir() and any(output.iterdir()):
        raise FileExistsError(f'{output} is not empty, and does not hold shards of this data set')
    else:
        journal.mkdir(parents=True, exist_ok=True)
        write_text(journal / 'plan', plan)
        for unfinished in [*output.glob('.*.tar'), *output.glob('.*.npz'), *journal.glob('.*')]:
            unfinished.unlink()
        info = write_all(readers, output, options, workers, progress) | {'plan': plan}
    for split, entry in info['splits'].items():
        for file, digest in zip(entry['filenames'], entry['sha256'], strict=True):
            if sha256(output / file) != digest:
                (journal / f'{file}.json').unlink(missing_ok=True)
                raise OSError(f'{output / file} of {split} does not hold what was written to it; run again to mend it')
    write_text(output / INFO, json.dumps(info, indent=1, ensure_ascii=False) + '\n')
    shutil.rmtree(journal, ignore_errors=True)
    return info


def write_all(
    readers: Mapping[str, Reader | StreamReader],
    output: Path,
    options: PackOptions,
    workers: int,
    progress: Callable[[str, int], None],
) -> dict[str, Any]:
    """Writes the shards that are missing; returns what `_info.json` says of all."""
    done: dict[Shard, dict[str, Any]] = {}
    missing: list[Shard] = []
    for split, reader in readers.items():
        for shard in shards_of(split, reader, options.shard_size):
            if record := finished(output, shard):
                done[shard] = record
                progress(split, record['count'] + len(record['left_out']))
            else:
                missing.append(shard)
    for shard, record in gather(write_shard, (readers, output, options), missing, workers):
        done[shard] = record
        progress(shard.split, record['count'] + len(record['left_out']))
    first = next(iter(readers.values()))
    target_key, target_format = TARGETS[first.task]
    info: dict[str, Any] = {
        'format': FORMAT,
        'task': first.task,
        'classes': list(first.classes),
        'input_key': ';'.join(sorted({ending for record in done.values() for ending in record['endings']})),
        'target_key': target_key,
    }
    info |= {'target_format': target_format} if target_format else {}
    info |= {'options': asdict(options), 'splits': {}}
    for split, reader in readers.items():
        records = [done[shard] for shard in shards_of(split, reader, options.shard_size)]
        info['splits'][split] = {
            'num_samples': sum(record['count'] for record in records),
            'filenames': [record['file'] for record in records],
            'shard_lengths': [record['count'] for record in records],
            'sha256': [record['sha256'] for record in records],
            'left_out': [entry for record in records for entry in record['left_out']],
        }
    return info


def shards_of(split: str, reader: Reader | StreamReader, size: int) -> Iterator[Shard]:
    """The shards of a split."""
    count, size = (len(reader.shards), 1) if isinstance(reader, StreamReader) else (len(reader), size)
    for number, start in enumerate(range(0, count, size)):
        yield Shard(split, f'{split}-{number:06}.tar', start, min(start + size, count))


def plan_of(readers: Mapping[str, Reader | StreamReader], options: PackOptions) -> str:
    """A digest of what is to be packed and how: names and labels of all samples, or a stream's shards; the options."""
    # what is done does not change when the first bad image makes a user skip them
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(replace(options, skip_bad=False))]).encode())
    for split, reader in readers.items():
        if isinstance(reader, StreamReader):
            digest.update(json.dumps([split, reader.task, list(reader.classes), reader.shards]).encode())
            continue
        digest.update(json.dumps([split, reader.task, list(reader.classes), len(reader)]).encode())
        for i in range(len(reader)):
            digest.update(reader.name(i).encode(errors='surrogateescape') + b'\0')
            digest.update(np.asarray(reader.targets[i]).tobytes())
    return digest.hexdigest()


def finished(output: Path, shard: Shard) -> dict[str, Any] | None:
    """The record of a shard that a former run has written, if it has."""
    try:
        record: dict[str, Any] = json.loads((output / JOURNAL / f'{shard.file}.json').read_text(encoding='utf-8'))
        whole = (output / shard.file).stat().st_size == record['bytes'] and (output / (shard.file + SUFFIX)).is_file()
    except (OSError, ValueError):
        return None
    return record if whole else None


def write_shard(
    readers: Mapping[str, Reader | StreamReader], output: Path, options: PackOptions, shard: Shard
) -> dict[str, Any]:
    """Writes a shard, its index, and then the record that it is done."""
    reader, path = readers[shard.split], output / shard.file
    count = 0
    left_out: list[dict[str, str]] = []
    endings: set[str] = set()
    with replacing(path) as temporary:
        with tarfile.open(temporary, 'w', format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples_of(reader, shard, options):
                try:
                    ending, image = image_file(sample.read(), options)
                except UnreadableImageError as error:
                    if not options.skip_bad:
                        raise UnreadableImageError(f'cannot pack {sample.name}: {error}') from error
                    left_out.append({'name': sample.name, 'reason': str(error)})
                    continue
                count += 1
                endings.add(ending)
                for part, content in ((ending, image), *labels(reader, sample)):
                    add(tar, f'{sample.key}.{part}', content)
        digest = sha256(temporary)
    # the index counts for the tar that lies beside it, whenever and wherever it is copied
    size = path.stat().st_size
    scan_tar(str(path)).save(path.with_name(path.name + SUFFIX), size, ANY_TIME)
    record = {
        'file': shard.file, 'count': count, 'bytes': size, 'sha256': digest,
        'endings': sorted(endings), 'left_out': left_out,
    }  # fmt: skip
    write_text(output / JOURNAL / f'{shard.file}.json', json.dumps(record))
    return record


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a member that says nothing of when and by whom it was written."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


def samples_of(reader: Reader | StreamReader, shard: Shard, options: PackOptions) -> Iterator[Packed]:
    """The samples of a shard, in the order in which they are written."""
    if isinstance(reader, StreamReader):
        for number, sample in enumerate(reader.iterate(shard.start)):
            yield Packed(f'{shard.start:06}-{number:08}', sample.name, sample.target, partial(there, sample.image))
        return
    order = np.arange(len(reader))
    if options.seed is not None:
        order = np.random.default_rng((options.seed, len(shard.split))).permutation(order)
    for number in range(shard.start, shard.stop):
        index = int(order[number])
        yield Packed(f'{number:08}', reader.name(index), reader.targets[index], partial(reader.read, index))


def there(image: Encoded | str) -> Encoded:
    """The image of a stream's sample.

    Raises:
        UnreadableImageError: There is none, for the reason given in its place.
    """
    if isinstance(image, str):
        raise UnreadableImageError(image)
    return image


def labels(reader: Reader | StreamReader, sample: Packed) -> Iterator[tuple[str, bytes]]:
    """The members of a sample beside its image."""
    target = sample.target
    about: dict[str, Any] = {'filename': sample.name.encode(errors='surrogateescape').decode(errors='replace')}
    if reader.task == 'class':
        if target >= 0:
            about['class'] = reader.classes[int(target)]
            yield 'cls', str(int(target)).encode()
    elif reader.task == 'labels':
        about['labels'] = np.flatnonzero(target).tolist()
    else:
        about['numbers'] = np.asarray(target, np.float64).tolist()
    yield 'json', json.dumps(about, ensure_ascii=False).encode()


def image_file(data: Encoded, options: PackOptions) -> tuple[str, bytes]:
    """The ending and the bytes of a sample's image file.

    Raises:
        UnreadableImageError: It cannot be decoded.
    """
    pixels = decode(data, options.channels)
    height, width = pixels.shape[:2]
    if options.size is not None and min(height, width) > options.size:
        if pixels.dtype != np.uint8:
            raise UnreadableImageError(f'pixels of {pixels.dtype} cannot be saved as JPEG; leave size out')
        scale = options.size / min(height, width)
        image = Image.fromarray(pixels[..., 0] if options.channels == 1 else pixels)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        return 'jpg', saved(image, 'jpeg', quality=options.quality)
    if isinstance(data, bytes):
        kind = kind_of(data)[1]
        return ENDINGS.get(kind, kind.lower()), data
    if data.dtype == np.uint8 and (data.ndim == 2 or data.shape[2] in (1, 3)):
        return 'png', saved(Image.fromarray(data[..., 0] if data.ndim == 3 and data.shape[2] == 1 else data), 'png')
    file = io.BytesIO()
    np.save(file, data, allow_pickle=False)
    return 'npy', file.getvalue()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
