"""Results of validation on disk: JSON whole, CSV one row a model; written anew after each model."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.files import write_text

COLUMNS = (
    'source', 'top1', 'top5', 'map', 'macro_f1', 'r2', 'mae', 'rmse', 'loss', 'real_top1', 'ece', 'count', 'params',
    'input_size', 'crop_pct', 'crop_mode', 'interpolation', 'precision', 'batch_size', 'images_per_second',
    'peak_memory_mb', 'seconds', 'weights_hash', 'data_hash', 'versions', 'run', 'error',
)  # fmt: skip
SHOWN = ('foveal', 'torch')  # of the versions
# what may differ between runs of the same measurement
FREE = ('source', 'output', 'report', 'exclude', 'per_class', 'workers', 'threads', 'batch_size', 'device', 'devices')


def run_key(config: Mapping[str, Any]) -> str:
    """Eight digits that are the same for the same measurement of any model."""
    asked = {key: value for key, value in config.items() if key not in FREE}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


def row_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result as a row of COLUMNS, absent ones empty; a row that was read stays as it is."""
    if 'preprocess' not in result and not result.get('error'):
        return {name: result.get(name, '') for name in COLUMNS}
    flat = {**result.get('preprocess', {}), **result, 'macro_f1': macro_f1(result)}
    if 'input_size' in flat:
        flat['input_size'] = 'x'.join(map(str, flat['input_size']))
    if 'versions' in flat:
        flat['versions'] = ' '.join(f'{name}={found}' for name, found in flat['versions'].items() if name in SHOWN)
    return {name: '' if flat.get(name) is None else flat[name] for name in COLUMNS}


def macro_f1(result: Mapping[str, Any]) -> float | None:
    """Of either kind of scores."""
    return result['macro_f1'] if 'macro_f1' in result else result.get('averages', {}).get('macro', {}).get('f1')


def merit(result: Mapping[str, Any]) -> tuple[bool, float, str]:
    """Sorts the best first and errors last."""
    known = [float(result[name]) for name in ('top1', 'map', 'r2') if result.get(name) not in (None, '')]
    return not known, -known[0] if known else 0.0, str(result['source'])


def write_results(path: str, results: Sequence[Mapping[str, Any]], several: bool) -> None:
    """Writes results, the best first: to .json the whole of each (one alone where there are not several), to .csv a row
    each."""
    ordered = sorted(results, key=merit)
    if path.endswith('.csv'):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(row_of(result) for result in ordered)
        write_text(path, text.getvalue())
        return
    content = ordered if several else ordered[0]
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + '\n')


def read_results(path: str) -> list[dict[str, Any]]:
    """Results that were written; an empty list where there is no file.

    Raises:
        ValueError: Another file.
    """
    if not Path(path).exists():
        return []
    text = Path(path).read_text(encoding='utf-8')
    try:
        rows: Any = list(csv.DictReader(io.StringIO(text))) if path.endswith('.csv') else json.loads(text)
    except ValueError as error:
        raise ValueError(f'{path} is no file of results: {error}') from error
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) and 'source' in row for row in rows):
        raise ValueError(f'{path} is no file of results of foveal validate')
    return rows


def done(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """The results of an earlier run of the same measurement, by source; errors are tried again."""
    return {row['source']: dict(row) for row in rows if row.get('run') == key and not row.get('error')}
