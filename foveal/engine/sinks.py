"""Files that grow row by row, are there when they are whole, and can be gone on with after a stop.

Until all is done, rows are in OUTPUT.part: a file of lines, or of Parquet a folder of files. Beside it,
OUTPUT.part.json says what was asked. A kill at any moment costs the rows that were not yet on the disk, and at most
a piece of the last one, which is cut off.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.engine.predict import Prediction
from foveal.engine.records import Record
from foveal.files import replacing, write_text

PART_ROWS = 16384  # of Parquet, and the most that a kill costs


class Sink:
    """A file of predictions.

    Args:
        path: The file that there will be.
        kind: csv, json, jsonl or parquet.
        record: What is written of a prediction.
        asked: Options that rows depend on, as JSON holds them.

    Attributes:
        done: Rows that an earlier run wrote.
        last: The image of the last of them.
    """

    def __init__(self, path: str, kind: str, record: Record, asked: Mapping[str, Any]):
        self.path, self.kind, self.record, self.asked = Path(path), kind, record, dict(asked)
        self.part, self.note = Path(f'{path}.part'), Path(f'{path}.part.json')
        self.done, self.last = 0, ''

    def begin(self, resume: bool) -> bool:
        """Makes ready to write; False where nothing is left to do.

        Raises:
            FileExistsError: There are rows of an unfinished run, and nobody said what to do with them.
            ValueError: An unfinished run that was asked for something else.
        """
        if self.note.exists() and not resume and self.recover()[0]:
            raise FileExistsError(
                f'{self.part} holds the rows of a run that was stopped; give --resume to go on with it, or remove it '
                f'and {self.note.name}'
            )
        if resume and not self.note.exists() and self.path.exists():
            return False
        if resume and self.note.exists():
            self.check_same(json.loads(self.note.read_text(encoding='utf-8')))
            self.done, self.last = self.recover()
        else:
            write_text(self.note, json.dumps(self.asked, indent=1) + '\n')
            self.clear()
        return True

    def check_same(self, old: Mapping[str, Any]) -> None:
        """Refuses to go on with rows of another kind."""
        changes = [
            f'{key}: {old.get(key)!r} there, {value!r} here'
            for key, value in json.loads(json.dumps(self.asked)).items()
            if old.get(key) != value
        ]
        if changes:
            raise ValueError(f'{self.part} was begun with other options ({"; ".join(changes)}); go on with its own')

    def finish(self) -> None:
        """Puts the whole file in its place and tidies up."""
        self.close()
        self.note.unlink()

    def recover(self) -> tuple[int, str]:
        """Rows that are whole, and the image of the last one; what is not whole is cut off."""
        raise NotImplementedError

    def clear(self) -> None:
        """Begins an empty part."""
        raise NotImplementedError

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Adds rows."""
        raise NotImplementedError

    def close(self) -> None:
        """Turns the part into the file."""
        raise NotImplementedError


class LineSink(Sink):
    """CSV, JSON lines, or (made of such lines at the end) one JSON list."""

    def clear(self) -> None:
        text = csv_line(self.record.header) if self.kind == 'csv' else ''
        self.part.write_text(text, encoding='utf-8', errors='surrogateescape')

    def recover(self) -> tuple[int, str]:
        is_csv = self.kind == 'csv'
        if not self.part.exists():
            self.clear()
        count, end, last = -1 if is_csv else 0, 0, ''
        with self.part.open('rb') as file:
            for row in whole_rows(file, is_csv):
                count, end, last = count + 1, end + len(row), row.decode(errors='surrogateescape')
        os.truncate(self.part, end)
        if count < 0:
            self.clear()
        if count < 1:
            return 0, ''
        return count, next(csv.reader(io.StringIO(last)))[0] if is_csv else json.loads(last)['file']

    def write(self, predictions: Sequence[Prediction]) -> None:
        if self.kind == 'csv':
            lines = [csv_line(self.record.cells(prediction)) for prediction in predictions]
        else:
            lines = [json_line(self.record.document(prediction)) for prediction in predictions]
        with self.part.open('a', encoding='utf-8', errors='surrogateescape', newline='') as file:
            file.write(''.join(lines))

    def close(self) -> None:
        if self.kind != 'json':
            with self.part.open('rb+') as file:
                os.fsync(file.fileno())
            os.replace(self.part, self.path)
            return
        with (
            replacing(self.path) as temporary,
            self.part.open(encoding='utf-8', errors='surrogateescape') as lines,
            temporary.open('w', encoding='utf-8', errors='surrogateescape') as file,
        ):
            file.writelines(as_list(lines))
        self.part.unlink()


class ParquetSink(Sink):
    """Parquet. Every row group is a file of its own until the end.

    Raises:
        ModuleNotFoundError: pyarrow is missing.
    """

    def __init__(self, path: str, kind: str, record: Record, asked: Mapping[str, Any]):
        super().__init__(path, kind, record, asked)
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError('Parquet needs pyarrow: pip install foveal[data]') from error
        self.arrow = pyarrow
        kinds = {'label': pyarrow.string(), 'index': pyarrow.int32(), record.score: pyarrow.float32()}
        fields = [('file', pyarrow.string())]
        fields += [(f'{part}{i + 1}', kinds[part]) for i in range(record.topk) for part in record.guess_parts]
        fields += [(name, pyarrow.float32()) for name in record.numbers]
        vectors = (('scores', record.classes), ('embedding', record.channels))
        fields += [(name, pyarrow.list_(pyarrow.float32())) for name, length in vectors if length]
        fields += [('error', pyarrow.string())] if record.errors else []
        self.schema = pyarrow.schema(fields)
        self.rows: list[dict[str, Any]] = []
        self.parts = 0

    def clear(self) -> None:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir()

    def recover(self) -> tuple[int, str]:
        from pyarrow import parquet

        self.part.mkdir(exist_ok=True)
        count, last = 0, ''
        while (path := self.part_path(self.parts)).exists():
            table = parquet.read_table(path, columns=['file'])
            count, last, self.parts = count + len(table), table['file'][-1].as_py(), self.parts + 1
        return count, last

    def part_path(self, number: int) -> Path:
        """The file of a row group."""
        return self.part / f'{number:06d}.parquet'

    def write(self, predictions: Sequence[Prediction]) -> None:
        self.rows += [self.record.row(prediction) for prediction in predictions]
        if len(self.rows) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are held."""
        from pyarrow import parquet

        if self.rows:
            for row in self.rows:
                row['file'] = row['file'].encode(errors='surrogateescape').decode(errors='replace')
            with replacing(self.part_path(self.parts)) as temporary:
                parquet.write_table(self.arrow.Table.from_pylist(self.rows, self.schema), temporary)
            self.rows, self.parts = [], self.parts + 1

    def close(self) -> None:
        from pyarrow import parquet

        self.flush()
        with replacing(self.path) as temporary, parquet.ParquetWriter(temporary, self.schema) as writer:
            for number in range(self.parts):
                writer.write_table(parquet.read_table(self.part_path(number), schema=self.schema))
        shutil.rmtree(self.part)


def csv_line(cells: Sequence[Any]) -> str:
    """A row of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerow(cells)
    return text.getvalue()


def json_line(value: Any) -> str:
    """A JSON value in one line."""
    return json.dumps(value, ensure_ascii=False) + '\n'


def as_list(lines: Iterator[str]) -> Iterator[str]:
    """JSON lines as one JSON list."""
    yield '['
    for number, line in enumerate(lines):
        yield (',\n ' if number else '\n ') + line.rstrip('\n')
    yield '\n]\n'


def whole_rows(file: io.BufferedReader, is_csv: bool) -> Iterator[bytes]:
    """The rows of a file up to the last that is whole; a row of CSV may go over several lines, in quotes."""
    row = b''
    for line in file:
        row += line
        if line.endswith(b'\n') and not (is_csv and row.count(b'"') % 2):
            yield row
            row = b''
