"""`foveal validate`: how good models are on labelled images."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.engine.judging import ValidateConfig, check_judging
from foveal.engine.metrics import METRICS, told

if TYPE_CHECKING:
    from foveal.engine.validate import Found

SHEET_IMAGES = 24  # of the largest losses that are drawn


def run(config: ValidateConfig) -> int:
    """Measures, prints and writes the scores.

    Returns:
        0; of several models, 1 where one of them could not be measured.

    Raises:
        ValueError, OSError: Something asked cannot be done, or the only model's classes are not the data's.
    """
    from foveal.engine import distributed
    from foveal.engine.sources import expand
    from foveal.engine.validate import Validator
    from foveal.files import check_writable

    if not config.data:
        raise ValueError('data is missing: give --data FOLDER or --data torch/NAME')
    check_judging(config)
    check_writable(config.output)
    if config.output and not config.output.endswith(('.json', '.csv')):
        raise ValueError(f'output must end in .json or .csv, got {config.output!r}')
    if config.report:
        Path(config.report).mkdir(parents=True, exist_ok=True)
    sources, several = expand(config.source, config.pretrained and not config.checkpoint, config.exclude)
    process = distributed.start(config.device, config.threads)
    validator = Validator(config, process)
    try:
        if several:
            return run_several(config, sources, validator)
        found = validator(sources[0])
    finally:
        distributed.finish()
    if process.is_main:
        write_one(config, found)
    return 0


def write_one(config: ValidateConfig, found: 'Found') -> None:
    """The files and the lines on the screen of a single model."""
    from foveal.engine.results import run_key, write_results

    result = {**found.result, 'run': run_key(found.result['config'])}
    if config.output:
        write_results(config.output, [result], several=False)
    if config.report:
        write_report(Path(config.report), found)
    if config.per_class:
        print_classes(result['per_class'])
    print(summary(result))
    if result.get('left_out'):
        print(f'{result["left_out"]} images without a label, or of other classes than the valid ones, were left out')
    if bad := result['bad_samples']:
        print(f'{len(bad)} images could not be read and were left out, such as: {bad[0]["reason"]}')


def summary(result: Mapping[str, Any]) -> str:
    """The figures in a line."""
    if 'top1' not in result:
        scores = ', '.join(told(name, result[name], 3) for name in METRICS if name in result)
        return f'{result["count"]} images: {scores}'
    line = (
        f'{result["count"]} images: top-1 {result["top1"]:.3f} %, top-5 {result["top5"]:.3f} %, loss '
        f'{result["loss"]:.4f}, calibration error {result["ece"]:.2f} %'
    )
    if 'real_top1' in result:
        line += f'; ReaL top-1 {result["real_top1"]:.3f} % of {result["real_count"]}'
    if 'temperature' in result['calibration']:
        calibration = result['calibration']
        line += f'; temperature {calibration["temperature"]:.3f}, loss {calibration["loss_at_temperature"]:.4f} with it'
    return line


def run_several(config: ValidateConfig, sources: Sequence[str], validator: Any) -> int:
    """Measures models one after the other; one that fails is a row with its error."""
    from foveal.data import UnreadableImageError
    from foveal.engine.config import to_plain
    from foveal.engine.results import done, merit, read_results, run_key, write_results

    key = run_key(to_plain(config))
    earlier = done(read_results(config.output), key) if config.output else {}
    results = [earlier[source] for source in sources if source in earlier]
    is_main = validator.process.is_main
    for number, source in enumerate(sources, 1):
        if source in earlier:
            continue
        try:
            found = validator(source)
            result = {**found.result, 'run': key}
            said = summary(result)
            if config.report and is_main:
                write_report(Path(config.report) / source.strip('/').replace('/', '_'), found)
        except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
            if isinstance(error, UnreadableImageError) and validator.process.world_size > 1:
                raise  # the other processes have not met it, and would wait for this one
            result = {'source': source, 'run': key, 'error': f'{type(error).__name__}: {error}'}
            said = f'error: {error}'
        results.append(result)
        if is_main:
            print(f'[{number}/{len(sources)}] {source}: {said}', flush=True)
            if config.output:
                write_results(config.output, results, several=True)
    if is_main:
        print_models(sorted(results, key=merit))
    return int(any(result.get('error') for result in results))


def print_models(results: Sequence[Mapping[str, Any]]) -> None:
    """A table of the models, the best first."""
    from rich.console import Console
    from rich.table import Table

    from foveal.engine.results import row_of

    shown = (
        'source',
        'top1',
        'top5',
        'map',
        'macro_f1',
        'r2',
        'mae',
        'loss',
        'real_top1',
        'ece',
        'images_per_second',
        'error',
    )
    rows = [row_of(result) for result in results]
    used = [name for name in shown if any(row[name] != '' for row in rows)]
    table = Table(box=None, pad_edge=False, header_style='bold')
    for name in used:
        table.add_column(name, justify='left' if name in ('source', 'error') else 'right', overflow='fold')
    for row in rows:
        table.add_row(*(figure(row[name]) for name in used))
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)


def figure(value: Any) -> str:
    """A cell: numbers to three places, also where a file held them as text."""
    try:
        return f'{float(value):.3f}'
    except ValueError:
        return str(value)


def write_report(folder: Path, found: 'Found') -> None:
    """The pictures and tables of a model."""
    import csv
    import io

    from foveal.engine import figures
    from foveal.engine.evaluate import Scores
    from foveal.files import replacing, write_text

    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    rows = found.result['per_class']
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / 'per_class.csv', text.getvalue())
    if not isinstance(found.scores, Scores):
        return
    assert found.calibrated is not None
    drawn = {'reliability.png': figures.reliability(found.calibrated)}
    if confusion := figures.confusion_of(found.scores, found.captions):
        drawn['confusion.png'] = confusion
    if sheet := figures.mistakes(found.mistakes[:SHEET_IMAGES], found.dataset, found.captions):
        drawn['top_losses.png'] = sheet
    for name, picture in drawn.items():
        with replacing(folder / name) as temporary:
            picture.savefig(temporary, dpi=110)


def print_classes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of the classes."""
    from rich.console import Console
    from rich.table import Table

    titles = {'count': 'images', 'recall': 'recall %', 'precision': 'precision %', 'f1': 'F1 %'}
    titles |= {'average_precision': 'average precision %', 'mae': 'MAE', 'rmse': 'RMSE', 'r2': 'R2'}
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('class')
    for key in list(rows[0])[1:]:
        table.add_column(titles[key], justify='right')
    for row in rows:
        table.add_row(*('' if value is None else str(value) for value in row.values()))
    Console().print(table)
