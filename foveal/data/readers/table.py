"""Tables of paths and labels: CSV, TSV and Parquet."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.data.labels import Encoder
from foveal.data.readers.files import FileReader
from foveal.data.splits import canonical, choose
from foveal.errors import near

INPUT_NAMES = ('path', 'file', 'filename', 'file_name', 'filepath', 'file_path', 'image', 'image_path', 'img')
TARGET_NAMES = ('label', 'labels', 'class', 'class_name', 'target', 'targets', 'category', 'y')
SPLIT_NAME = 'split'


def open_table(
    path: Path,
    root: Path | None,
    split: str | None,
    encoder: Encoder,
    input_key: str | None,
    target_key: str | None,
) -> FileReader:
    """Opens the images that a table names.

    A first row of names is needed. Labels are names, indices, numbers, lists (`cat;dog`), or several columns of 0 and
    1; see `labels.Encoder`.

    Args:
        path: The table.
        root: Folder that its paths are relative to; its own where absent.
        split: The rows of this split, where there is a column called `split`; None for all rows.
        encoder: Makes targets of the labels; its columns are set here.
        input_key: Column of the paths; else one of the usual names.
        target_key: Column of the labels, or several with commas between; else one of the usual names.

    Raises:
        FileNotFoundError: No rows of the split.
        ValueError: A column that is not there, or a table that cannot be read.
    """
    table = read_parquet(path) if path.suffix.lower() == '.parquet' else read_csv(path)
    images = find_column(path, table, input_key, INPUT_NAMES, 'input_key')
    keys = [key.strip() for key in target_key.split(',')] if target_key else [None]
    targets = [find_column(path, table, key, TARGET_NAMES, 'target_key') for key in keys]
    origin = str(path)
    rows: Any = range(len(table[images]))
    if split is not None and SPLIT_NAME in table:
        there = {str(value) for value in table[SPLIT_NAME]}
        found = choose(split, there)
        if found is None:
            raise FileNotFoundError(f'{path} has no rows of the split {canonical(split)}, only of {sorted(there)}')
        rows = [i for i, value in enumerate(table[SPLIT_NAME]) if str(value) == found]
        origin += f':{found}'
    files = [table[images][i] for i in rows]
    for i, file in zip(rows, files, strict=True):
        if not isinstance(file, str) or not file:
            what = (
                'holds images, not paths: open it as hfds/' + str(path)
                if isinstance(file, (dict, bytes))
                else 'is empty'
            )
            raise ValueError(f'{path}: column {images!r} of row {i + 1} {what}')
    if not files:
        raise FileNotFoundError(f'{path} has no rows')
    if len(targets) > 1:
        values: list[Any] = list(zip(*([table[key][i] for i in rows] for key in targets), strict=True))
        encoder = Encoder(encoder.where, encoder.numbering, None, encoder.target_format, targets)
    else:
        # one rule for CSV, which only has text, and Parquet: whole numbers are names, in the order of their values
        values = [str(value) if isinstance(value, int) else value for value in (table[targets[0]][i] for i in rows)]
    labels = encoder.encode(values, lambda i: files[i])
    if labels.task == 'numbers' and len(targets) == len(labels.classes):
        labels = replace(labels, classes=targets)
    reader = FileReader(path.parent if root is None else root, files, labels.targets, labels.classes, labels.task)
    reader.origin = origin
    return reader


def find_column(path: Path, table: dict[str, Any], key: str | None, usual: tuple[str, ...], option: str) -> str:
    """The column that is asked for, or the one with a usual name."""
    if key is not None:
        if key not in table:
            raise ValueError(f'{path} has no column {option}={key!r}{near(key, table)}')
        return key
    lower = {name.lower(): name for name in reversed(table)}
    found = next((lower[name] for name in usual if name in lower), None)
    if found is None:
        raise ValueError(f'{path} has the columns {", ".join(map(repr, table))}; which is it? give {option}')
    return found


def read_csv(path: Path) -> dict[str, list[str | None]]:
    """Column -> values of a file of comma, semicolon or tab separated values; empty cells are None.

    Raises:
        ValueError: Not UTF-8, no first row of names, names that come twice, or a row with too few or many cells.
    """
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            head = file.readline()
            file.seek(0)
            separator = '\t' if path.suffix.lower() == '.tsv' else max(',;\t', key=head.count)
            rows = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(rows, [])]
            if not any(names) or len(set(names)) < len(names):
                raise ValueError(f'{path} must begin with a row of different names for its columns, not {names}')
            columns: list[list[str | None]] = [[] for _ in names]
            for row in rows:
                if len(row) != len(names) and row:
                    raise ValueError(f'{path}, line {rows.line_num}: {len(row)} cells, but {len(names)} columns')
                for column, cell in zip(columns, row, strict=False):
                    column.append(cell.strip() or None)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    return dict(zip(names, columns, strict=True))


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """Column -> values of a Parquet file.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: The file cannot be read.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'{path} needs pyarrow: pip install "foveal[data]"', name='pyarrow') from None
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    return {name: table.column(name).to_pylist() for name in table.column_names}
