"""Which models are meant: one, a list, wildcards, a file of names."""

import glob
from fnmatch import fnmatchcase
from pathlib import Path

from foveal.registry import get_pretrained_cfg, list_models

WILD = '*?['


def expand(source: str, pretrained: bool, exclude: str = '') -> tuple[list[str], bool]:
    """The models that are asked for.

    Args:
        source: A path or name; several with commas between; wildcards on paths, or else on names of models; `all` for
            every model; or a .txt file with one of these a line (# begins a comment).
        pretrained: Names are those of published weights that have a classifier.
        exclude: Wildcards on what to leave out, with commas between.

    Returns:
        The models, each once, and whether more than one might have been meant.

    Raises:
        ValueError: Nothing is meant.
    """
    parts = lines_of(source)
    several = len(parts) > 1 or source.endswith('.txt') or is_wild(parts[0])
    found: dict[str, None] = {}
    for part in parts:
        found |= dict.fromkeys(matches(part, pretrained) if is_wild(part) else [part])
    patterns = [pattern.strip() for pattern in exclude.split(',') if pattern.strip()]
    names = [name for name in found if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        raise ValueError(f'{source!r} means no model{" that exclude leaves" if found else ""}')
    return names, several


def lines_of(source: str) -> list[str]:
    """The parts of a list, or of a text file."""
    if source.endswith('.txt') and Path(source).is_file():
        lines = [line.partition('#')[0].strip() for line in Path(source).read_text(encoding='utf-8').splitlines()]
        parts = [line for line in lines if line]
    else:
        parts = [source] if Path(source).exists() else [part.strip() for part in source.split(',') if part.strip()]
    if not parts:
        raise ValueError(f'{source!r} names no model')
    return parts


def is_wild(part: str) -> bool:
    """Whether a part may mean several models."""
    return part == 'all' or (any(letter in part for letter in WILD) and not Path(part).exists())


def matches(pattern: str, pretrained: bool) -> list[str]:
    """Paths, or else names of models, that a wildcard means."""
    if pattern != 'all' and (paths := sorted(glob.glob(pattern, recursive=True))):
        return [path for path in paths if path.endswith('.safetensors') or Path(path).is_dir()]
    names = list_models('' if pattern == 'all' else pattern, pretrained=pretrained)
    return [name for name in names if not pretrained or classifies(name)]


def classifies(name: str) -> bool:
    """Whether published weights have a classifier."""
    record = get_pretrained_cfg(name)
    return record is not None and bool(record.num_classes)
