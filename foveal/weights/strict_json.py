"""JSON from strangers: plain values only, bounded in size and depth, every name once."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LARGEST = 16 << 20  # bytes; the labels of 22,000 classes take 2 MB, the header of the largest published model 0.3 MB


class StrictJSONError(ValueError):
    """Text that is not JSON, or more than plain JSON."""


def parse(data: bytes) -> dict[str, Any]:
    """The object that JSON text holds.

    Args:
        data: UTF-8 text.

    Raises:
        StrictJSONError: not UTF-8 or not JSON, not an object, too large or too deep, a name twice in one object, or a
            number that is none (NaN, infinities) or has more digits than Python reads.
    """
    if len(data) > LARGEST:
        raise StrictJSONError(f'{len(data)} bytes of JSON; at most {LARGEST} are read')
    try:
        value = json.loads(data.decode('utf-8'), object_pairs_hook=distinct, parse_constant=refuse)
    except RecursionError:
        raise StrictJSONError('JSON that is nested too deeply') from None
    except StrictJSONError:
        raise
    except ValueError as error:  # bad UTF-8, bad JSON, a number of thousands of digits
        raise StrictJSONError(f'not JSON: {error}') from None
    if not isinstance(value, dict):
        raise StrictJSONError(f'JSON of a {type(value).__name__}, where an object belongs')
    return value


def read(path: Path) -> dict[str, Any]:
    """`parse` of a file, of which no more is read than may be there.

    Raises:
        StrictJSONError: as in `parse`; the message does not name the file.
        OSError: the file cannot be read.
    """
    with path.open('rb') as file:
        return parse(file.read(LARGEST + 1))


def distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose names differ: readers disagree on which of two equal ones counts."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise StrictJSONError(f'{name!r} stands twice in one JSON object')
        result[name] = value
    return result


def refuse(constant: str) -> None:
    """NaN and the infinities are not JSON."""
    raise StrictJSONError(f'{constant} is not JSON')
