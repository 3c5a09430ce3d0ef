"""From the labels that a source holds to targets: class indices, rows of several labels, or numbers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from foveal.data.class_map import class_names
from foveal.errors import near

Targets = np.ndarray | Sequence[np.ndarray]
"""One entry a sample: class indices, int64 (count,), -1 where there is none; or float32 rows (count, values), several
labels as 0 and 1 or measured numbers; or a sequence that makes such rows as they are asked for."""

TARGET_FORMATS = ('indices', 'multihot', 'numbers')
SEPARATORS = re.compile(r'[;|,\s]+')
UNKNOWN = -1  # the target of a sample without a label
MISSING = -2


@dataclass(frozen=True)
class Labels:
    """The targets of a source and what they mean: see `readers.base.Reader`."""

    targets: Targets
    classes: list[str]
    task: str = 'class'


class MultiLabel(Sequence[np.ndarray]):
    """Rows of 0 and 1, kept as the indices of the ones: a million samples of a thousand classes fit in memory.

    Args:
        lists: The classes of every sample.
        num_classes: Length of a row.
    """

    def __init__(self, lists: Sequence[Sequence[int]], num_classes: int):
        self.num_classes = num_classes
        self.offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(indices) for indices in lists], out=self.offsets[1:])
        self.indices = np.fromiter((i for indices in lists for i in indices), np.int32, self.offsets[-1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        row = np.zeros(self.num_classes, np.float32)
        row[self.indices[self.offsets[index] : self.offsets[index + 1]]] = 1
        return row


@dataclass(frozen=True)
class Encoder:
    """How the labels of one source become targets.

    Attributes:
        where: The source, for messages.
        numbering: name -> index of a class map.
        names: Names of the classes, where the source numbers them itself.
        target_format: None: as the labels look. 'indices': each sample lists its classes. 'multihot': each has a 0 or
            1 for every class. 'numbers': measured values.
        columns: Names of several fields that make one label together, each a class that is there or not.
    """

    where: str
    numbering: Mapping[str, int] | None = None
    names: Sequence[str] | None = None
    target_format: str | None = None
    columns: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.target_format not in (None, *TARGET_FORMATS):
            raise ValueError(
                f'target_format {self.target_format!r} is unknown{near(str(self.target_format), TARGET_FORMATS)}'
            )

    def encode(self, values: Sequence[Any] | np.ndarray, name: Callable[[int], str] = str) -> Labels:
        """Turns labels into targets.

        Args:
            values: One label a sample: a name, an index, a number, a list of any of these, or None.
            name: Names a sample, for messages.

        Raises:
            ValueError: A label that cannot be what it should be; the message names the first such sample.
        """
        table = isinstance(values, np.ndarray) and values.ndim == 2
        values = values.tolist() if isinstance(values, np.ndarray) else values
        example = next((value for value in values if value is not None), None)
        # rows of one length, or of fractions, list no indices
        table |= isinstance(example, (list, tuple)) and any(isinstance(value, float) for value in example)
        if self.target_format is None and example is not None:
            several = isinstance(example, (list, tuple))
            if not several and looks_measured(values):
                return self.numbers(values, name)
            if not several:
                return self.single(values, name)
        if self.target_format == 'numbers':
            return self.numbers(values, name)
        if self.columns or self.target_format == 'multihot' or (table and self.target_format is None):
            return self.flags(values, name)
        return self.lists(values, name) if example is not None else self.single(values, name)

    def single(self, values: Sequence[Any], name: Callable[[int], str] = str) -> Labels:
        """One class a sample."""
        classes, find = self.classes([value for value in values if value not in (None, UNKNOWN)])
        index = {value: UNKNOWN if value in (None, UNKNOWN) else find(value) for value in dict.fromkeys(values)}
        targets = np.fromiter((index[value] for value in values), np.int64, len(values))
        if (targets < UNKNOWN).any():
            first = int(np.argmax(targets < UNKNOWN))
            raise ValueError(self.refusal(values[first], name(first), classes))
        return Labels(targets, classes)

    def lists(self, values: Sequence[Any], name: Callable[[int], str] = str) -> Labels:
        """The classes of each sample, by name or index."""
        parts = [split_text(value) for value in values]
        classes, find = self.classes([label for labels in parts for label in labels])
        found = [[find(label) for label in labels] for labels in parts]
        for i, indices in enumerate(found):
            if any(index < 0 for index in indices):
                wrong = next(label for label, index in zip(parts[i], indices, strict=True) if index < 0)
                raise ValueError(self.refusal(wrong, name(i), classes))
        return Labels(MultiLabel(found, len(classes)), classes, 'labels')

    def flags(self, values: Sequence[Any], name: Callable[[int], str] = str) -> Labels:
        """A 0 or 1 for every class."""
        rows = self.rows(values, name)
        if not np.isin(rows, (0, 1)).all():
            first = int(np.argmax(~np.isin(rows, (0, 1)).all(1)))
            raise ValueError(
                f'{self.where}: the label of {name(first)} is {values[first]!r}, and several classes are each 0 or 1; '
                "for measured values give target_format='numbers'"
            )
        count = rows.shape[1]
        classes = (
            list(self.names or self.columns) or class_names(self.numbering or {}) or [str(i) for i in range(count)]
        )
        if len(classes) != count:
            raise ValueError(f'{self.where}: labels have {count} values, but there are {len(classes)} classes')
        return Labels(MultiLabel([np.flatnonzero(row).tolist() for row in rows], count), classes, 'labels')

    def numbers(self, values: Sequence[Any], name: Callable[[int], str] = str) -> Labels:
        """Measured values."""
        rows = self.rows(values, name)
        classes = list(self.columns or self.names or ()) or (
            [str(i) for i in range(rows.shape[1])] if rows.shape[1] > 1 else ['value']
        )
        if self.numbering is not None and list(self.numbering) != classes:
            raise ValueError(f'{self.where}: the labels are numbers ({", ".join(classes)}); class_map is for classes')
        return Labels(rows, classes, 'numbers')

    def rows(self, values: Sequence[Any], name: Callable[[int], str]) -> np.ndarray:
        """Labels as float32 (count, values)."""
        rows = [split_text(value) for value in values]
        for i, row in enumerate(rows):
            try:
                rows[i] = [float(value) for value in row]
            except (TypeError, ValueError):
                raise ValueError(f'{self.where}: the label of {name(i)} is {values[i]!r}, not a number') from None
            if len(row) != len(rows[0]) or not row:
                raise ValueError(
                    f'{self.where}: the label of {name(i)} has {len(row)} values, that of {name(0)} {len(rows[0])}'
                )
        return np.array(rows, np.float32).reshape(len(rows), -1)

    def classes(self, labels: Sequence[Any]) -> tuple[list[str], 'Finder']:
        """The names of the classes, and what gives a label's index; below -1 where it has none."""
        unique = list(dict.fromkeys(labels))
        by_index = all(isinstance(label, (int, np.integer)) for label in unique)
        if self.names is not None:
            own = list(self.names)
        elif not by_index:
            own = sorted({str(label) for label in unique}, key=natural_key)
        elif self.numbering is not None:
            own = class_names(self.numbering)
        else:
            own = [str(i) for i in range(max(map(int, unique), default=-1) + 1)]
        numbering = dict(self.numbering if self.numbering is not None else {name: i for i, name in enumerate(own)})
        # an index that a class map does not name stands for itself
        numbering = {name: i for i, name in enumerate(class_names(numbering))} | numbering
        digits = False
        if unknown := [name for name in own if name not in numbering]:
            if self.names is not None or not all(name.isdigit() for name in own):
                raise ValueError(self.unknown(unknown))
            # numbers in text, which the class map does not name: indices
            own, digits = class_names(numbering), True
        return class_names(numbering), Finder(own, numbering, digits)

    def streaming(self) -> tuple[list[str], str, Callable[[Any, str], Any]]:
        """For labels that come one by one: the classes, the task, and what makes a target of a label and its name.

        Raises:
            ValueError: Nothing says what the classes are.
        """
        if self.target_format == 'numbers':
            columns = list(self.columns) or ['value']
            return columns, 'numbers', partial(self.one, self.numbers)
        if self.columns:
            return list(self.columns), 'labels', partial(self.one, self.flags)
        if self.names is None and self.numbering is None:
            raise ValueError(
                f'{self.where} is a stream, which does not say what its classes are; give class_map, or '
                "target_format='numbers'"
            )
        classes, find = self.classes([])
        if self.target_format is not None:
            return classes, 'labels', partial(self.one, self.lists if self.target_format == 'indices' else self.flags)
        return classes, 'class', partial(self.index, find, classes)

    def one(self, make: Callable[..., Labels], label: Any, name: str) -> np.ndarray:
        """The row of one label."""
        row: np.ndarray = make([label], lambda _: name).targets[0]
        return row

    def index(self, find: 'Finder', classes: list[str], label: Any, name: str) -> int:
        """The index of one label."""
        index = UNKNOWN if label in (None, UNKNOWN) else find(label)
        if index == MISSING:
            raise ValueError(self.refusal(label, name, classes))
        return index

    def unknown(self, names: list[str]) -> str:
        """Why classes that the class map lacks are refused."""
        known = ', '.join(list(self.numbering or ())[:10])
        return f'{self.where} has classes {names[:5]} that are not among the classes: {known} ...'

    def refusal(self, label: Any, name: str, classes: list[str]) -> str:
        """Why a label is refused."""
        hint = '' if str(label).lstrip('-').isdigit() else near(str(label), classes)
        return (
            f'{self.where}: the label {label!r} of {name} is out of range: '
            f'there are {len(classes)} classes, 0 to {len(classes) - 1}{hint}'
        )


@dataclass(frozen=True)
class Finder:
    """From a label to the index of its class.

    Attributes:
        names: What a label that is a number stands for.
        numbering: name -> index.
        digits: Labels in text are numbers.
    """

    names: list[str]
    numbering: dict[str, int]
    digits: bool = False

    def __call__(self, label: Any) -> int:
        """The index, or MISSING."""
        if self.digits or not isinstance(label, str):
            label = self.names[int(label)] if 0 <= int(label) < len(self.names) else None
        return self.numbering.get(label, MISSING)


def split_text(value: Any) -> list[Any]:
    """The parts of a label: of a list, or of a text with separators (; | , or space)."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part for part in SEPARATORS.split(value.strip()) if part]
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def looks_measured(values: Sequence[Any]) -> bool:
    """Whether single labels are fractions: `2.5` is no class, `2` may be one."""
    fraction = False
    for value in values:
        if isinstance(value, str):
            try:
                float(value)
            except ValueError:
                return False
            fraction |= not value.strip().lstrip('+-').isdigit()
        elif value is not None:
            fraction |= isinstance(value, (float, np.floating))
    return fraction


def natural_key(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts numbers inside names by value; the name itself breaks ties such as `1` and `01`."""
    parts = re.split(r'(\d+)', text.lower())
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts], text
