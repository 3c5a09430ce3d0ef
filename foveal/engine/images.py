"""The images that predictions are asked for."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from foveal.data import ImageDataset, create_dataset
from foveal.data.images import IMAGE_EXTENSIONS
from foveal.data.readers import FileReader
from foveal.data.source import FILES, FOLDER_NAMES, PREFIXES
from foveal.data.stream import StreamDataset
from foveal.engine.judge import STREAMS
from foveal.engine.judging import PredictConfig


def open_images(config: PredictConfig, numbering: dict[str, int]) -> ImageDataset | StreamDataset:
    """Files, folders and wildcards together, or one data set.

    Args:
        config: What is asked for.
        numbering: name -> output of the model, for streams that do not say what their classes are.

    Raises:
        FileNotFoundError: Something that is not there, or a folder without images.
        ValueError: A data set beside other images.
    """
    sets = [path for path in config.images if is_data_set(path)]
    if sets and len(config.images) > 1:
        raise ValueError(f'images holds the data set {sets[0]} and more; give a data set alone')
    if sets:
        name = sets[0]
        return create_dataset(
            name,
            config.data_root,
            config.split,
            download=config.download,
            class_map=numbering or None if name.lower().startswith(STREAMS) else None,
            input_key=config.input_key,
            num_samples=config.num_samples,
        )
    reader = FileReader('', find_images(config.images), np.empty(0, np.int64), [])
    reader.targets = np.full(len(reader), -1)
    return ImageDataset(reader, np.arange(len(reader)))


def is_data_set(path: str) -> bool:
    """Whether a path is a source with an order and names of its own."""
    prefix, slash, _ = path.partition('/')
    if Path(path).is_file():
        return path.lower().endswith(FILES)
    if Path(path).is_dir():
        return any(name.lower().endswith('.tar') for name in os.listdir(path))
    return bool(slash) and prefix.lower() in PREFIXES and path.lower() not in FOLDER_NAMES


def find_images(paths: Sequence[str]) -> Iterator[str]:
    """Files as given, and the images under folders: folder by folder, in natural order.

    Raises:
        FileNotFoundError: A path that is not there, a wildcard that fits nothing, or a folder without images.
    """
    for path in paths:
        if Path(path).is_file():
            yield path
        elif Path(path).is_dir():
            yield from below(path)
        elif glob.has_magic(path):
            found = sorted(glob.glob(path, recursive=True), key=padded)
            if not found:
                raise FileNotFoundError(f'{path} fits no file')
            yield from (each for each in found if Path(each).is_file())
        else:
            raise FileNotFoundError(f'image {path} does not exist')


def below(root: str) -> Iterator[str]:
    """The images under a folder."""
    count = 0
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort(key=padded)
        names[:] = [name for name in names if name.lower().endswith(IMAGE_EXTENSIONS)]
        names.sort(key=padded)
        count += len(names)
        yield from (os.path.join(folder, name) for name in names)
    if not count:
        raise FileNotFoundError(f'{root} holds no images ({" ".join(IMAGE_EXTENSIONS)})')


def padded(name: str) -> str:
    """Sorts numbers inside names by value: a short key, since a folder may hold a million names."""
    return re.sub(r'\d+', lambda digits: digits[0].zfill(12), name.lower())
