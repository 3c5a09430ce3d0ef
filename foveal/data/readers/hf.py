"""Hugging Face data sets, in any order or streamed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foveal.data.images import UnreadableImageError
from foveal.data.labels import Encoder
from foveal.data.readers.base import StreamSample
from foveal.data.splits import choose
from foveal.errors import near

FILE_KINDS = {'.parquet': 'parquet', '.arrow': 'arrow', '.csv': 'csv', '.json': 'json', '.jsonl': 'json'}
TARGET_NAMES = ('label', 'labels', 'class', 'target', 'fine_label', 'cls')
IMAGE_NAMES = ('image', 'img', 'jpg', 'png', 'webp')


def import_datasets(name: str) -> Any:
    """The package `datasets`."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'{name} needs datasets: pip install "foveal[data]"', name='datasets') from None
    return datasets


def load_hf(name: str, root: str | Path | None, split: str, streaming: bool) -> tuple[Any, str]:
    """Loads a split, and gives its name.

    Args:
        name: An ID of the hub; a folder that `datasets` has saved, or of files that it reads; or one file.
        root: Folder of the cache.
        split: A split's name, or a slice of one, `train[:10%]`.
        streaming: Do not fetch all of it.

    Raises:
        FileNotFoundError: No such data set or split.
        ValueError: A slice of a stream, or one that cannot be read.
    """
    datasets = import_datasets(name)
    path, base, part = Path(name), *split.partition('[')[:2]
    slicing = part + split.partition('[')[2]
    if slicing and streaming:
        raise ValueError(f'hfids/{name} is a stream, which has no slice {split!r}')
    options: dict[str, Any] = {'cache_dir': str(root) if root else None, 'streaming': streaming}
    if path.is_file():
        if path.suffix.lower() not in FILE_KINDS:
            raise ValueError(f'{name} is no file that hfds reads{near(path.suffix, FILE_KINDS)}')
        kind = FILE_KINDS[path.suffix.lower()]
        return datasets.load_dataset(kind, data_files=name, split='train' + slicing, **options), path.name
    if (path / 'state.json').is_file() or (path / 'dataset_dict.json').is_file():
        saved = datasets.load_from_disk(name)
        found = ''
        if isinstance(saved, dict):
            found = find_split(name, base, list(saved))
            saved = saved[found]
        if slicing:
            raise ValueError(f'{name} is a saved data set, which has no slice {split!r}')
        return saved.to_iterable_dataset() if streaming else saved, found
    try:
        found = find_split(name, base, datasets.get_dataset_split_names(name))
        return datasets.load_dataset(name, split=found + slicing, **options), found + slicing
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f'data set {name!r} is not to be had: {error}') from error


def find_split(name: str, split: str, there: Sequence[str]) -> str:
    """The split that stands for one of the usual names."""
    found = choose(split, there)
    if found is None:
        raise FileNotFoundError(f'{name} has no {split} split, only {", ".join(there)}')
    return found


def find_feature(name: str, features: dict[str, Any], key: str | None, usual: Sequence[str], option: str) -> str:
    """The column that is asked for, or that has a usual name."""
    top = key.split('/')[0] if key else None
    if top is not None and top not in features:
        raise ValueError(f'{name} has no column {option}={key!r}{near(top, features)}')
    found = top or next((column for column in usual if column in features), None)
    if found is None:
        raise ValueError(f'{name} has the columns {", ".join(features)}; which is it? give {option}')
    return found


def find_image(name: str, features: dict[str, Any], key: str | None) -> str:
    """The column of the images: as asked, else of images by its type, else of a usual name."""
    typed = [column for column, feature in features.items() if type(feature).__name__ == 'Image']
    return find_feature(name, features, key, (*typed, *IMAGE_NAMES), 'input_key')


def label_names(feature: Any, path: Sequence[str]) -> list[str] | None:
    """The names of the classes that a column's type holds, of a list of labels too."""
    for key in path:
        feature = feature[key]
    while not hasattr(feature, 'names') and getattr(feature, 'feature', None) is not None:
        feature = feature.feature
    return list(feature.names) if getattr(feature, 'names', None) else None


def dig(value: Any, path: Sequence[str]) -> Any:
    """What lies in nested fields."""
    for key in path:
        value = value[key]
    return value


def as_file(value: Any) -> bytes | str:
    """The image file of a cell: its bytes, or its path."""
    if isinstance(value, dict):
        value = value['bytes'] if value.get('bytes') is not None else value.get('path')
    if value is None:
        raise UnreadableImageError('there is no image')
    return value


class HfReader:
    """A data set of Arrow tables, which workers read from the same mapped files.

    Args:
        data: A `datasets.Dataset`.
        name: Its name.
        split: Its split.
        encoder: Makes targets of the labels, given the names of the classes.
        input_key, target_key: Columns; with `/` into nested ones; else of usual names.
    """

    def __init__(
        self, data: Any, name: str, split: str, encoder: Encoder, input_key: str | None, target_key: str | None
    ):
        features = data.features
        self.column = find_image(name, features, input_key)
        values, names, columns = [], None, tuple(target_key.split(',')) if target_key and ',' in target_key else ()
        for key in columns or (target_key,):
            top = find_feature(name, features, key, TARGET_NAMES, 'target_key')
            path = key.split('/')[1:] if key else []
            names = label_names(features[top], path)
            cells = data.select_columns([top])[top]
            values.append([dig(cell, path) for cell in cells])
        labels = Encoder(encoder.where, encoder.numbering, None if columns else names, encoder.target_format, columns)
        found = labels.encode(list(zip(*values, strict=True)) if columns else values[0])
        self.targets, self.classes, self.task = found.targets, found.classes, found.task
        data = data.select_columns([self.column])
        if type(features[self.column]).__name__ == 'Image':
            data = data.cast_column(self.column, import_datasets(name).Image(decode=False))
        self.data, self.origin, self.base = (
            data,
            f'{name}:{split}',
            Path(name).parent if Path(name).is_file() else Path(),
        )

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> bytes:
        try:
            found = as_file(self.data[int(index)][self.column])
            return found if isinstance(found, bytes) else (self.base / found).read_bytes()
        except (OSError, UnreadableImageError) as error:
            raise UnreadableImageError(f'cannot read image {index} of {self.origin}: {error}') from error


class HfStream:
    """A streamed data set.

    Args:
        data: A `datasets.IterableDataset`.
        name: Its name.
        split: Its split.
        encoder: Makes targets of the labels, given the names of the classes.
        input_key, target_key: As of `HfReader`.
        count: Samples, where the data set does not say.
    """

    def __init__(
        self,
        data: Any,
        name: str,
        split: str,
        encoder: Encoder,
        input_key: str | None,
        target_key: str | None,
        count: int | None,
    ):
        features = data.features or dict.fromkeys(next(iter(data.decode(False)), {}))
        self.column = find_image(name, features, input_key)
        top = find_feature(name, features, target_key, TARGET_NAMES, 'target_key')
        self.path = [top, *(target_key.split('/')[1:] if target_key else [])]
        names = label_names(features[top], self.path[1:]) if features[top] is not None else None
        known = Encoder(encoder.where, encoder.numbering, names, encoder.target_format)
        self.classes, self.task, self.find = known.streaming()
        self.data, self.origin = data.decode(False), f'{name}:{split}'
        self.shards = [str(i) for i in range(data.num_shards)]
        said = (data.info.splits or {}).get(split)
        self.count = count if count is not None else (said.num_examples or None if said else None)

    def iterate(self, shard: int, start: int = 0) -> Iterator[StreamSample]:
        """The samples of a shard from number `start` on."""
        rows = self.data.shard(num_shards=len(self.shards), index=shard)
        for number, row in enumerate(rows.skip(start), start):
            name = f'{shard}/{number}'
            try:
                found: Any = as_file(row[self.column])
                found = found if isinstance(found, bytes) else Path(found).read_bytes()
            except (OSError, UnreadableImageError) as error:
                found = str(error)
            target = self.find(dig(row, self.path), name)
            yield StreamSample(name, found, target)


def open_hf(
    name: str,
    root: str | Path | None,
    split: str,
    encoder: Encoder,
    input_key: str | None,
    target_key: str | None,
    streaming: bool,
    count: int | None,
) -> HfReader | HfStream:
    """Opens a split of a data set; see `load_hf`, `HfReader` and `HfStream`."""
    data, found = load_hf(name, root, split, streaming)
    if streaming:
        return HfStream(data, name, found, encoder, input_key, target_key, count)
    return HfReader(data, name, found, encoder, input_key, target_key)
