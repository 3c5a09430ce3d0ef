"""One door to every source of labelled images."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveal.data.class_map import ClassMap, read_class_map
from foveal.data.dataset import ImageDataset
from foveal.data.images import IMAGE_EXTENSIONS
from foveal.data.labels import Encoder
from foveal.data.readers import Reader, StreamReader
from foveal.data.readers.arrays import find_idx_files, open_idx, open_npz
from foveal.data.readers.folder import open_folder
from foveal.data.readers.places import is_remote, join
from foveal.data.readers.shard_spec import INFO
from foveal.data.readers.table import open_table
from foveal.data.readers.tars import open_tars
from foveal.data.splits import canonical, choose, is_split
from foveal.data.stream import StreamDataset
from foveal.data.transforms import Transform
from foveal.errors import near

FOLDER_NAMES = ('', 'folder', 'torch/folder', 'torch/image_folder')
PREFIXES = ('torch', 'hfds', 'hfids', 'tfds', 'wds')
TABLES = ('.csv', '.tsv', '.parquet')
FILES = ('.tar', *TABLES, '.npz')
IMG_MODES = {'L': 1, 'RGB': 3}


@dataclass(frozen=True)
class Source:
    """What is asked of a source; the fields are arguments of `create_dataset`."""

    name: str = ''
    root: str | Path | None = None
    split: str = 'validation'
    search_split: bool = True
    numbering: Mapping[str, int] | None = None
    download: bool = False
    input_key: str | None = None
    target_key: str | None = None
    target_format: str | None = None
    num_samples: int | None = None

    def encoder(self, where: object, names: list[str] | None = None, columns: tuple[str, ...] = ()) -> Encoder:
        """What makes targets of this source's labels."""
        return Encoder(str(where), self.numbering, names, self.target_format, columns)


def create_dataset(
    name: str = '',
    root: str | Path | None = None,
    split: str = 'validation',
    is_training: bool = False,
    *,
    search_split: bool = True,
    class_map: ClassMap | None = None,
    download: bool = False,
    input_key: str | None = None,
    target_key: str | None = None,
    target_format: str | None = None,
    input_img_mode: str | None = None,
    num_samples: int | None = None,
    repeats: int = 0,
    val_fraction: float = 0.0,
    transform: Transform | None = None,
    seed: int = 0,
    channels: int = 3,
) -> ImageDataset | StreamDataset:
    """Opens a data set.

    Args:
        name: What and where. A path: a folder of class folders, of tars or of IDX files; a .tar; a .csv, .tsv or
            .parquet of paths and labels; an .npz. '' or `folder` for what lies at `root`. Or, in any case,
            `torch/NAME` (torchvision), `hfds/ID` (Hugging Face datasets; an ID, a folder or a file), `hfids/ID` (the
            same, streamed), `wds/` or `wds/PLACE` (WebDataset shards, of any address that fsspec knows), `tfds/NAME`.
        root: Folder of the data; for tables, of the files that they name; for `hfds` and `tfds`, their cache.
        split: train, validation or test, or a usual name of them (val, valid, ...). A folder is searched for its
            split (`train`, `val.tar`, `test.csv` ...); a folder without any is the split itself. Any other name must
            be there. `wds`: also shards, such as `train-{0000..0009}.tar`, several with `::`, with `|COUNT` behind.
            `hfds`, `tfds`: also a slice, `train[:10%]`.
        is_training: Refuses samples without a label, and repeats.
        search_split: False: `name` or `root` is the split itself.
        class_map: Numbering of the classes; see `read_class_map`.
        download: Fetch a named set where it is absent.
        input_key: Where the image is: a column, an array, `;`-separated endings of files (`jpg;png`).
        target_key: Where the label is: a column, an array, the ending of a shard's member (`cls`), with `/` into
            nested ones (`json/label`). Several after commas: each is one class that is there or not.
        target_format: How labels are to be read: see `labels.Encoder`.
        input_img_mode: L or RGB, in place of `channels`.
        num_samples: Samples of a stream whose length nobody knows.
        repeats: Above 1, a training epoch sees every sample so often, augmented differently each time.
        val_fraction: Above 0, train and validation are both cut from the training images: this share of each class,
            the same images every time, is the validation split.
        transform: Pipeline of `create_transform`.
        seed: Of the transform's random numbers.
        channels: Channels of the images: 1 (grey), 3 (RGB), or as many as they have.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: Data that are not there, or a folder without class folders.
        ValueError: An unknown name, split, column or label, or a class that `class_map` lacks.
        ModuleNotFoundError: The source needs a package that is not installed; the message names it.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f'val_fraction must be in [0, 1), got {val_fraction}')
    if input_img_mode is not None:
        if input_img_mode not in IMG_MODES:
            raise ValueError(f'input_img_mode must be L or RGB, got {input_img_mode!r}')
        channels = IMG_MODES[input_img_mode]
    if repeats < 0:
        raise ValueError(f'repeats must be at least 0, got {repeats}')
    kind = canonical(split)
    held_out = val_fraction > 0 and kind in ('train', 'validation')
    source = Source(
        name, root, 'train' if held_out else split, search_split, read_class_map(class_map), download,
        input_key, target_key, target_format, num_samples,
    )  # fmt: skip
    reader = open_source(source)
    if isinstance(reader, StreamReader):
        if val_fraction:
            raise ValueError(f'{name} is a stream, of which val_fraction can hold nothing out')
        return StreamDataset(reader, transform, seed, channels)
    if num_samples is not None and num_samples != len(reader):
        raise ValueError(f'num_samples is {num_samples}, but {name or root} has {len(reader)} samples')
    indices = np.arange(len(reader))
    if held_out:
        inside = np.zeros(len(reader), bool)
        inside[hold_out(reader, val_fraction)] = True
        indices = np.flatnonzero(inside == (kind == 'validation'))
        if not len(indices):
            raise ValueError(f'val_fraction={val_fraction} of {len(reader)} images leaves no {kind} images')
    if is_training:
        check_labelled(reader, indices)
        indices = np.tile(indices, max(repeats, 1))
    return ImageDataset(reader, indices, transform, seed, channels)


def check_labelled(reader: Reader, indices: np.ndarray) -> None:
    """Refuses to train on samples without a label."""
    if reader.task == 'class':
        without = indices[np.asarray(reader.targets)[indices] < 0]
        if len(without):
            raise ValueError(
                f'{reader.origin}: {len(without)} of {len(indices)} training images have no label, such as '
                f'{reader.name(int(without[0]))}'
            )


def open_source(source: Source) -> Reader | StreamReader:
    """The reader that a data set's name asks for."""
    prefix, _, rest = source.name.partition('/')
    prefix = prefix.lower()
    if prefix in PREFIXES and source.name.lower() not in FOLDER_NAMES:
        return open_prefixed(prefix, rest, source)
    if source.name.lower() not in FOLDER_NAMES:
        path = Path(source.name)
    elif source.root is None or str(source.root) == '':
        raise FileNotFoundError('no data: give the path of a folder or file')
    else:
        path = Path(source.root)
    return open_path(path, source)


def is_named(name: str) -> bool:
    """Whether a data set is one of torchvision's, whose classes have their numbers."""
    return name.lower().startswith('torch/') and name.lower() not in FOLDER_NAMES


def open_prefixed(prefix: str, name: str, source: Source) -> Reader | StreamReader:
    """A source that says what it is."""
    where, keys = f'{prefix}/{name}', (source.input_key, source.target_key)
    if prefix == 'torch':
        from foveal.data.readers.named import open_named

        if source.numbering is not None:
            raise ValueError(f'{source.name} has its own numbering of classes; class_map is for folders')
        return open_named(name, source.root or 'data', source.split, source.download)
    if prefix == 'wds':
        place = join(str(source.root or ''), name) if name else str(source.root or '')
        if not place:
            raise FileNotFoundError('wds/ needs the folder or address of the shards: wds/PLACE, or root')
        return open_wds(place, source)
    if not name:
        raise ValueError(f'{prefix}/ needs the name of a data set behind it')
    if prefix == 'tfds':
        from foveal.data.readers.tfds import TfdsStream

        return TfdsStream(name, source.root, source.split, source.download, source.encoder(where), *keys)
    from foveal.data.readers.hf import open_hf

    streaming = prefix == 'hfids'
    return open_hf(name, source.root, source.split, source.encoder(where), *keys, streaming, source.num_samples)


def open_wds(place: str, source: Source) -> Reader | StreamReader:
    """The shards of a folder or address."""
    from foveal.data.readers.shard_spec import find_shards
    from foveal.data.readers.shards import open_shards

    if not is_remote(place) and '.tar' in Path(place).name:
        # the shards themselves
        spec = find_shards('', place)
    else:
        spec = find_shards(place, source.split)
    if spec.count is None and source.num_samples is not None:
        spec = replace(spec, count=source.num_samples)
    columns = tuple((source.target_key or '').split(',')) if ',' in (source.target_key or '') else ()
    encoder = source.encoder(place, spec.classes, columns)
    if encoder.target_format is None and 'target_format' in spec.info:
        encoder = replace(encoder, target_format=spec.info['target_format'])
    return open_shards(spec, f'{place}:{spec.shards[0]}', encoder, source.input_key, source.target_key)


def open_path(path: Path, source: Source) -> Reader | StreamReader:
    """A folder or file: searched for the split, then opened as what it is."""
    if not path.exists():
        raise FileNotFoundError(f'data folder {str(path)!r} does not exist{near_path(path)}')
    if path.is_file() or not source.search_split:
        return open_whole(path, source)
    if (path / INFO).is_file():
        return open_wds(str(path), source)
    there = splits_in(path)
    found = choose(source.split, there)
    if found is not None:
        return open_whole(there[found], source)
    if files := find_idx_files(path, canonical(source.split)):
        return open_idx(files, source.encoder(files[0]))
    if others := sorted(file.name for name, file in there.items() if is_split(name)):
        raise FileNotFoundError(
            f'{path} has no {canonical(source.split)} split, only {", ".join(others)}; '
            'give val_fraction to hold some out of train'
        )
    if not is_split(source.split):
        raise FileNotFoundError(f'{path} has no folder {source.split!r}{near(source.split, there)}')
    return open_whole(path, source)


def splits_in(folder: Path) -> dict[str, Path]:
    """What in a folder may be a split of it: its folders, and the files that are a source each; folders first."""
    inside = sorted(folder.iterdir(), reverse=True)
    found = {path.stem: path for path in inside if path.suffix.lower() in FILES and path.is_file()}
    return found | {path.name: path for path in inside if path.is_dir()}


def near_path(path: Path) -> str:
    """The end of a message about a path that is not there: its nearest neighbours."""
    parent = path.parent
    if not parent.is_dir() or str(path) in ('', '.'):
        return ''
    said = near(path.name, [other.name for other in parent.iterdir()])
    return said if 'did you mean' in said else ''


def open_whole(path: Path, source: Source) -> Reader | StreamReader:
    """A folder or file that is the split itself."""
    encoder, extensions = source.encoder(path), image_extensions(source.input_key)
    ending = path.suffix.lower()
    if path.is_dir():
        if any(path.glob('*.tar')) and not any(child.is_dir() for child in path.iterdir()):
            return open_tars(path, source.split, encoder, extensions)
        return open_folder(path, source.numbering, extensions)
    if ending == '.tar':
        return open_tars(path, source.split, encoder, extensions)
    if ending in TABLES:
        split = source.split if source.search_split else None
        # where `root` only led to the table, paths are relative to the table
        root = Path(source.root) if source.root and source.name.lower() not in FOLDER_NAMES else None
        return open_table(path, root, split, encoder, source.input_key, source.target_key)
    if ending == '.npz':
        return open_npz(path, source.split, encoder, source.input_key, source.target_key)
    if path.name.removesuffix('.gz').endswith('-idx3-ubyte'):
        labels = path.with_name(path.name.replace('images-idx3', 'labels-idx1'))
        if not labels.is_file():
            raise FileNotFoundError(f'{path} has no labels beside it ({labels.name})')
        return open_idx((path, labels), encoder)
    raise ValueError(f'{path} is no source of images: {", ".join(FILES)}, an IDX file, or a folder')


def image_extensions(input_key: str | None) -> tuple[str, ...]:
    """Endings of image files, from `jpg;png`."""
    if input_key is None:
        return IMAGE_EXTENSIONS
    return tuple('.' + ending.strip().lower().lstrip('.') for ending in input_key.split(';') if ending.strip())


def hold_out(reader: Reader, fraction: float) -> list[int]:
    """A share of each class, at least one image of those that have two, chosen by a hash of the samples' names.

    By the hash, so that a choice survives most changes of the folder and needs no file to remember it.
    """
    members = defaultdict(list)
    for index in range(len(reader)):
        group = int(reader.targets[index]) if reader.task == 'class' else 0
        members[group].append((hashlib.blake2b(reader.name(index).encode(errors='surrogateescape')).digest(), index))
    chosen: list[int] = []
    for group_members in members.values():
        count = max(round(fraction * len(group_members)), 1) if len(group_members) > 1 else 0
        chosen += [index for _, index in sorted(group_members)[:count]]
    return chosen
