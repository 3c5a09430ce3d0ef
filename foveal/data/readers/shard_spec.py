"""Which shards a split of a WebDataset is made of."""

import json
import re
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from foveal.data.readers.places import exists, is_remote, join, list_place, read_place
from foveal.data.splits import canonical, choose, is_split, usual_names

INFO = '_info.json'
RANGE = re.compile(r'(\d+)\.\.(\d+)')


@dataclass(frozen=True)
class ShardSpec:
    """The shards of a split.

    Attributes:
        shards: Their places.
        count: Samples in all, where it is said.
        classes: Names of the classes, where they are said.
        info: What else the split's entry in `_info.json` says.
    """

    shards: list[str]
    count: int | None = None
    classes: list[str] | None = None
    info: dict[str, Any] = field(default_factory=dict)


def find_shards(root: str, split: str) -> ShardSpec:
    """Finds the shards of a split.

    Args:
        root: Folder or address.
        split: A split's name, looked up in `_info.json` under `root`, or else among the names of the shards; or the
            shards themselves, `train-{0000..0012}.tar`, several with `::` between, each with `|COUNT` behind.

    Raises:
        FileNotFoundError: No shards.
        ValueError: A pattern or `_info.json` that cannot be read, or names shards outside of `root`.
    """
    if '.tar' in split or '::' in split or '{' in split:
        return of_patterns(root, split)
    if exists(join(root, INFO)):
        return of_info(root, split)
    return of_listing(root, split)


def of_patterns(root: str, split: str) -> ShardSpec:
    """Shards that are named outright."""
    shards: list[str] = []
    counts: list[int | None] = []
    for part in split.split('::'):
        pattern, bar, count = part.partition('|')
        if bar and not count.strip().isdigit():
            raise ValueError(f'the samples of shards {pattern!r} must be a whole number, got {count!r}')
        if pattern.startswith('pipe:'):
            raise ValueError(f'shards {pattern!r} would run a command; give a path or an address')
        shards += [join(root, name) for name in expand_braces(pattern.strip())]
        counts.append(int(count) if bar else None)
    missing = next((shard for shard in shards if not is_remote(shard) and not exists(shard)), None)
    if missing:
        raise FileNotFoundError(f'shard {missing} does not exist')
    total = None if None in counts else sum(count or 0 for count in counts)
    info = read_info(root) if exists(join(root, INFO)) else {}
    return ShardSpec(shards, total, names_in(info))


def of_info(root: str, split: str) -> ShardSpec:
    """Shards that `_info.json` lists: {splits: {train: {filenames, num_samples, ...}}, classes}."""
    info = read_info(root)
    splits = info.get('splits')
    if not isinstance(splits, dict) or not all(isinstance(entry, dict) for entry in splits.values()):
        raise ValueError(f'{join(root, INFO)} has no object "splits" of objects')
    found = choose(split, splits)
    if found is None:
        raise FileNotFoundError(f'{root} has no {split} split, only {", ".join(splits)}')
    entry = splits[found]
    names = entry.get('filenames')
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{join(root, INFO)}: the split {found} has no list "filenames"')
    files = [file for name in names for file in expand_braces(name)]
    for file in files:
        if is_remote(file) or file.startswith(('/', 'pipe:')) or '..' in file.split('/'):
            raise ValueError(f'{join(root, INFO)}: the shard {file!r} lies outside of {root}')
    count = entry.get('num_samples')
    return ShardSpec(
        [join(root, file) for file in files],
        count if isinstance(count, int) else None,
        names_in(entry) or names_in(info),
        {**{key: info[key] for key in ('input_key', 'target_key', 'target_format') if key in info}, **entry},
    )


def read_info(root: str) -> dict[str, Any]:
    """The content of `_info.json`."""
    place = join(root, INFO)
    try:
        info = json.loads(read_place(place))
    except ValueError as error:
        raise ValueError(f'{place} cannot be read: {error}') from error
    if not isinstance(info, dict):
        raise ValueError(f'{place} must hold an object')
    return info


def names_in(info: dict[str, Any]) -> list[str] | None:
    """The names of the classes in (a split's entry of) `_info.json`."""
    for key in ('classes', 'class_names', 'label_names'):
        names = info.get(key)
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    return None


def of_listing(root: str, split: str) -> ShardSpec:
    """Shards that a folder holds: in a folder of the split, or with its name before theirs, or all there are."""
    try:
        there = list_place(root)
    except OSError as error:
        raise FileNotFoundError(f'data folder {root!r} cannot be listed: {error}') from error
    folders = [name for name in there if '.' not in name]
    if (folder := choose(split, folders)) and (inside := tars_in(list_place(join(root, folder)))):
        return ShardSpec([join(join(root, folder), name) for name in inside])
    shards = tars_in(there)
    words = {name: re.split(r'[^A-Za-z]+', name.removesuffix('.tar')) for name in shards}
    for usual in usual_names(split):
        if mine := [name for name in shards if usual.lower() in map(str.lower, words[name])]:
            return ShardSpec([join(root, name) for name in mine])
    others = sorted({canonical(word) for name in shards for word in words[name] if word and is_split(word)})
    if others or not is_split(split):
        raise FileNotFoundError(f'{root} has no shards of the split {split!r}, only of {", ".join(others) or "none"}')
    if not shards:
        raise FileNotFoundError(f'{root} holds no shards (*.tar)')
    return ShardSpec([join(root, name) for name in shards])


def tars_in(names: list[str]) -> list[str]:
    """The tars among names."""
    return [name for name in names if name.endswith('.tar')]


def expand_braces(pattern: str) -> list[str]:
    """All names that a pattern stands for: `{000..012}` counts, as wide as it is written, and `{a,b}` lists.

    Raises:
        ValueError: Braces that do not match, or a count downwards.
    """
    parts = re.split(r'\{([^{}]*)\}', pattern)
    if any('{' in part or '}' in part for part in parts):
        raise ValueError(f'the braces of {pattern!r} do not match; nested ones are not understood')
    choices = [expand_one(part) if i % 2 else [part] for i, part in enumerate(parts)]
    return [''.join(choice) for choice in product(*choices)]


def expand_one(text: str) -> list[str]:
    """What stands between braces."""
    found = RANGE.fullmatch(text)
    if not found:
        return text.split(',')
    first, last = found.groups()
    if int(first) > int(last):
        raise ValueError(f'the shards {{{text}}} count downwards')
    width = len(first) if first.startswith('0') or len(first) == len(last) else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
