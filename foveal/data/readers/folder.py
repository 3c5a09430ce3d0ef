"""Images in folders named for their classes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from foveal.data.images import IMAGE_EXTENSIONS
from foveal.data.labels import Encoder, natural_key
from foveal.data.readers.files import FileReader


def open_folder(
    root: str | Path, class_map: Mapping[str, int] | None = None, extensions: Sequence[str] = IMAGE_EXTENSIONS
) -> FileReader:
    """Opens the images under a folder, each of the class that the folder holding it is named for.

    Classes are numbered in natural order (`class2` before `class10`) unless `class_map` numbers them.

    Args:
        root: The folder.
        class_map: name -> index. Images of a class that it lacks are an error.
        extensions: Endings of the files that are images, in lower case.

    Raises:
        FileNotFoundError: No such folder, no class folder, or no image under it.
        ValueError: A class folder that `class_map` does not name.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'data folder {root} does not exist')
    files = find_images(root, tuple(extensions))
    labels = Encoder(str(root), class_map).single([file.split('/')[-2] for file in files])
    return FileReader(root, files, labels.targets, labels.classes)


def find_images(root: Path, extensions: tuple[str, ...]) -> list[str]:
    """Relative paths of all images below a class folder, in natural order."""
    files, loose = [], 0
    for folder, _, names in os.walk(root, followlinks=True):
        images = [name for name in names if name.lower().endswith(extensions)]
        inside = os.path.relpath(folder, root)
        if inside == '.':
            loose = len(images)
        else:
            files += [f'{inside}/{name}' for name in images]
    if not files:
        what = f'{loose} images but no class folders' if loose else f'no images ({" ".join(extensions)})'
        raise FileNotFoundError(f'{root} holds {what}; it needs one folder of images for each class')
    return sorted(files, key=natural_key)
