"""The numbering of classes that a user gives."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ClassMap = str | Path | Sequence[str] | Mapping[str, int]


def read_class_map(class_map: ClassMap | None) -> dict[str, int] | None:
    """name -> index, from any form of a class map.

    Args:
        class_map: Names in the order of their indices, or name -> index; or a file: text with one name a line, or
            JSON with a list of names, name -> index, or index -> name.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A name that comes twice, an index that is not a number from 0 on, or a pickle.
    """
    if class_map is None:
        return None
    content: Any = _read_file(Path(class_map)) if isinstance(class_map, (str, Path)) else class_map
    if isinstance(content, Mapping):
        return _numbered(content)
    names = [str(name) for name in content]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f'class_map names a class twice: {twice!r}')
    return {name: i for i, name in enumerate(names)}


def class_names(numbering: Mapping[str, int]) -> list[str]:
    """A name for every index up to the highest: the first that has it, or the index itself."""
    names = {index: name for name, index in reversed(list(numbering.items()))}
    return [names.get(index, str(index)) for index in range(max(names, default=-1) + 1)]


def _read_file(path: Path) -> Any:
    if path.suffix in ('.pkl', '.pickle'):
        raise ValueError(f'class_map {path} is a pickle, which can run any code; save it as JSON or text')
    if not path.is_file():
        raise FileNotFoundError(f'class_map file {path} does not exist')
    try:
        text = path.read_text(encoding='utf-8-sig')
        if path.suffix != '.json':
            return [line.strip() for line in text.split('\n') if line.strip()]
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f'class_map file {path} cannot be read: {error}') from error
    if not isinstance(content, (list, dict)):
        raise ValueError(f'class_map file {path} must hold a list of names or an object')
    return content


def _numbered(class_map: Mapping[Any, Any]) -> dict[str, int]:
    """name -> index, of an index -> name too."""
    if class_map and all(isinstance(value, str) and str(key).isdigit() for key, value in class_map.items()):
        class_map = {name: int(index) for index, name in class_map.items()}
    for name, index in class_map.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ValueError(f'class_map gives {name!r} the index {index!r}; an index is a whole number from 0 on')
    return {str(name): int(index) for name, index in class_map.items()}
