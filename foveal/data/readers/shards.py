"""WebDataset shards: tars in which the members of a sample share a name, `0001.jpg`, `0001.cls`, `0001.json`."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.data.images import IMAGE_EXTENSIONS
from foveal.data.labels import Encoder
from foveal.data.readers.base import StreamSample
from foveal.data.readers.names import Names
from foveal.data.readers.places import open_place
from foveal.data.readers.shard_spec import ShardSpec
from foveal.data.readers.tar_index import NOTE_SIZE, NOTES, checked_name, has_index, tar_index
from foveal.data.readers.tars import TarReader
from foveal.errors import near

INPUT_KEY = ';'.join(ending[1:] for ending in (*IMAGE_EXTENSIONS, '.npy'))
TARGET_KEY = 'cls'
INDEX_ENDINGS = ('cls', 'cls2', 'id', 'index', 'inx')
PICKLES = ('pickle', 'pkl', 'pt', 'pth', 'pyd', 'pyd2')
MAX_IMAGE = 1 << 30  # bytes of one image in a streamed shard


@dataclass(frozen=True)
class Fields:
    """Where image and label of a sample are.

    Attributes:
        images: Endings of the members that may be the image, the first that is there counts.
        targets: Paths of the label's parts: an ending, then keys into JSON.
    """

    images: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]

    @classmethod
    def of_keys(cls, input_key: str | None, target_key: str | None) -> 'Fields':
        """From `jpg;png` and `cls` or `json/label` or `json/a,json/b`.

        Raises:
            ValueError: A key that asks for a pickle or for what holds no label.
        """
        images = tuple(key.strip().lower() for key in (input_key or INPUT_KEY).split(';') if key.strip())
        targets = tuple(tuple(key.strip().split('/')) for key in (target_key or TARGET_KEY).split(','))
        for ending in (*images, *(path[0] for path in targets)):
            if ending in PICKLES:
                raise ValueError(f'.{ending} members are pickles, which can run any code; they are never loaded')
        for path in targets:
            if path[0] not in NOTES:
                raise ValueError(f'target_key {"/".join(path)!r} is no label{near(path[0], NOTES)}')
        return cls(images, targets)

    def image(self, members: dict[str, Any]) -> Any:
        """The image among a sample's members, by their endings; None where there is none."""
        return next((members[ending] for ending in self.images if ending in members), None)

    def label(self, notes: dict[str, str], name: str) -> Any:
        """The label in the text of a sample's members.

        Raises:
            ValueError: The text is no label; the message names the sample.
        """
        values = [self.part(path, notes, name) for path in self.targets]
        return values if len(values) > 1 else values[0]

    def part(self, path: tuple[str, ...], notes: dict[str, str], name: str) -> Any:
        """One part of a label."""
        text = notes.get(path[0])
        if text is None:
            return None
        if path[0] != 'json':
            text = text.strip()
            return int(text) if path[0] in INDEX_ENDINGS and text.lstrip('-').isdigit() else text or None
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f'{name}.json cannot be read: {error}') from error
        for key in path[1:]:
            if not isinstance(value, dict) or key not in value:
                there = near(key, value) if isinstance(value, dict) else ''
                raise ValueError(f'{name}.json has no {"/".join(path[1:])!r}{there}')
            value = value[key]
        if isinstance(value, dict):
            raise ValueError(f'{name}.json holds an object; say which field is the label, such as json/label')
        return value


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a member: `a/0001.seg.png` is ('a/0001', 'seg.png')."""
    folder, slash, base = name.rpartition('/')
    key, _, ending = base.partition('.')
    return folder + slash + key, ending.lower()


def is_sample(name: str) -> bool:
    """Whether a member belongs to a sample: hidden files and WebDataset's own notes do not."""
    return not name.rsplit('/', 1)[-1].startswith(('.', '__'))


def open_shards(
    spec: ShardSpec, origin: str, encoder: Encoder, input_key: str | None, target_key: str | None
) -> 'TarReader | ShardStream':
    """Opens shards: for reading in any order where their members can be found, else as a stream.

    Args:
        spec: The shards.
        origin: What was opened.
        encoder: Makes targets of the labels.
        input_key, target_key: See `Fields`; else what `_info.json` says, else any image and `cls`.

    Raises:
        ValueError: A shard that cannot be read, or samples without images.
    """
    fields = Fields.of_keys(input_key or spec.info.get('input_key'), target_key or spec.info.get('target_key'))
    if not all(has_index(shard) for shard in spec.shards):
        return ShardStream(spec, origin, encoder, fields)
    names: list[str] = []
    labels: list[Any] = []
    columns: list[tuple[int, int, int]] = []
    for number, shard in enumerate(spec.shards):
        index = tar_index(shard)
        for key, found in grouped((index.names[i], i) for i in range(len(index.names))):
            member = fields.image(found)
            notes = {ending: index.notes[i] for ending, i in found.items() if ending in NOTES}
            if member is None and not notes:
                continue
            # a sample without an image stays, as bytes that are none: it is counted where images are read
            columns.append(
                (number, int(index.offsets[member]), int(index.sizes[member])) if member is not None else (number, 0, 0)
            )
            names.append(key)
            labels.append(fields.label(notes, key))
    if spec.count is not None and spec.count != len(names):
        raise ValueError(f'{origin} should have {spec.count} samples, its shards hold {len(names)}')
    if not any(size for _, _, size in columns):
        raise FileNotFoundError(f'{origin}: no sample has an image ({" ".join(fields.images)}); give input_key')
    which, offsets, sizes = (np.array([row[i] for row in columns], np.int64) for i in range(3))
    found_labels = encoder.encode(labels, lambda i: names[i])
    return TarReader(spec.shards, which.astype(np.int32), offsets, sizes, Names(names), found_labels, origin)


def grouped(members: Iterator[tuple[str, Any]] | Sequence[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Samples, of members that follow each other: key, and ending -> what came with the member."""
    key: str | None = None
    sample: dict[str, Any] = {}
    for name, value in members:
        if not is_sample(name):
            continue
        this, ending = split_name(name)
        if this != key or ending in sample:
            if key is not None:
                yield key, sample
            key, sample = this, {}
        sample[ending] = value
    if key is not None:
        yield key, sample


class ShardStream:
    """Shards whose members nobody has listed, read from start to end.

    Args:
        spec: The shards.
        origin: What was opened.
        encoder: Makes targets of the labels; must know the classes.
        fields: Where image and label are.

    Raises:
        ValueError: Nothing says what the classes are.
    """

    def __init__(self, spec: ShardSpec, origin: str, encoder: Encoder, fields: Fields):
        self.shards, self.count, self.origin, self.fields = spec.shards, spec.count, origin, fields
        self.encoder = encoder
        self.classes, self.task, self.find = encoder.streaming()

    def iterate(self, shard: int, start: int = 0) -> Iterator[StreamSample]:
        """The samples of a shard from number `start` on.

        Raises:
            OSError, ValueError: The shard cannot be read.
        """
        place = self.shards[shard]
        with open_place(place) as file:
            try:
                with tarfile.open(fileobj=file, mode='r|') as tar:
                    for number, (key, found) in enumerate(grouped(self.contents(tar, place))):
                        if number >= start:
                            yield self.sample(key, found)
            except tarfile.TarError as error:
                raise ValueError(f'{place} cannot be read as a tar: {error}') from error

    def contents(self, tar: tarfile.TarFile, place: str) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the members that a sample needs."""
        for member in tar:
            name = checked_name(member, place)
            ending = split_name(name)[1]
            needed = ending in self.fields.images or ending in NOTES
            if member.isreg() and needed and is_sample(name):
                limit = NOTE_SIZE if ending in NOTES else MAX_IMAGE
                content = tar.extractfile(member)
                yield name, content.read() if content and member.size <= limit else b''

    def sample(self, key: str, found: dict[str, bytes]) -> StreamSample:
        """A sample of its members."""
        image = self.fields.image(found)
        notes = {ending: text.decode(errors='surrogateescape') for ending, text in found.items() if ending in NOTES}
        target = self.find(self.fields.label(notes, key), key)
        return StreamSample(key, image if image else f'no image ({" ".join(self.fields.images)})', target)
