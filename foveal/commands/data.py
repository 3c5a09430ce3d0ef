"""`foveal data check`, `pack` and `bench`: what is in a data set, in another form, and how fast."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveal.data.readers import Reader, StreamReader


@dataclass
class SourceConfig:
    """Which images."""

    data: str = ''
    """A folder, file or named set; as --data of `foveal train`."""
    root: str | None = None
    """Where a named set lies; where the files of a table lie."""
    splits: str = ''
    """Splits, with commas between; all of train, validation and test that are there, where absent."""
    class_map: str | None = None
    """File with the numbering of the classes."""
    input_key: str | None = None
    """Where the image is: a column, an array, endings of files."""
    target_key: str | None = None
    """Where the label is."""
    target_format: str | None = None
    """How labels are to be read: indices, multihot or numbers."""
    download: bool = False
    """Fetch a named set that is absent."""
    in_chans: int = 3
    """Channels of the images: 1 (grey), 3 (RGB), or as many as they have."""
    workers: int = 2
    """Processes."""


@dataclass
class CheckConfig(SourceConfig):
    """Read every image of a data set, and say what is in it and what is wrong with it.

    The exit status is 1 where images cannot be read, lie in several splits, or have several labels.
    """

    output: str | None = None
    """Folder to write check.json and a contact sheet, sheet.png, to."""


@dataclass
class PackConfig(SourceConfig):
    """Write a data set as WebDataset shards.

    A run that was stopped goes on where it was; every shard is read again at the end.
    """

    output: str = ''
    """Folder to write to."""
    shard_size: int = 1000
    """Samples a shard; each shard of a stream becomes one, however many it has."""
    size: int | None = None
    """Shrink images whose shorter side is longer than this to it; files stay as they are where absent."""
    quality: int = 92
    """JPEG quality of images that are shrunk."""
    seed: int | None = None
    """Shuffle the samples by this seed before they are written; in the order of the source where absent."""
    skip_bad: bool = False
    """Leave images out that cannot be read, and list them, instead of stopping at the first."""


@dataclass
class BenchConfig(SourceConfig):
    """Measure reading, decoding, cropping, augmenting, collating and copying apart, and say what limits."""

    img_size: int = 224
    """Side of the input."""
    batch_size: int = 64
    """Images a batch."""
    seconds: float = 2.0
    """Time for each measurement."""
    color_jitter: float = 0.0
    """As of `foveal train`."""
    device: str = 'auto'
    """Where batches are copied to."""


def open_splits(config: SourceConfig) -> 'dict[str, Reader | StreamReader]':
    """The splits of a data set that are asked for, or that are there.

    Raises:
        FileNotFoundError: No such data, or no such split.
        ValueError: The data cannot be opened.
    """
    from foveal.data.class_map import read_class_map
    from foveal.data.source import Source, is_named, open_source

    if not config.data:
        raise ValueError('data is missing: give a folder, file or named set')
    if config.workers < 0:
        raise ValueError(f'workers must be at least 0, got {config.workers}')
    readers: dict[str, Reader | StreamReader] = {}
    asked = [split.strip() for split in config.splits.split(',') if split.strip()]
    numbering, missing = read_class_map(config.class_map), None
    # test before validation, for which test images serve where there are no others
    for split in asked or ('train', 'test', 'validation'):
        source = Source(
            config.data, config.root, split, True, numbering, config.download,
            config.input_key, config.target_key, config.target_format,
        )  # fmt: skip
        try:
            reader = open_source(source)
        except FileNotFoundError as error:
            if asked:
                raise
            missing = missing or error
            continue
        if reader.origin not in {other.origin for other in readers.values()}:
            readers[split] = reader
        # the splits after the first number their classes as it does, so that labels can be compared
        if numbering is None and reader.task != 'numbers' and not is_named(config.data):
            numbering = {name: i for i, name in enumerate(reader.classes)}
    if not readers:
        assert missing is not None
        raise missing
    return readers


@contextmanager
def progress_bars(counts: dict[str, int | None]) -> Iterator[Any]:
    """Bars for named pieces of work; gives what is told a name and how much more is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        tasks = {name: bars.add_task(name, total=count) for name, count in counts.items()}
        yield lambda name, done: bars.advance(tasks[name], done)


def check(config: CheckConfig) -> int:
    """`foveal data check`; returns the exit status.

    Raises:
        ValueError, OSError: The data cannot be opened, or the results not written.
    """
    from foveal.data.check import check as examine_all
    from foveal.data.check_report import contact_sheet, problems, report
    from foveal.files import replacing, write_text

    if config.output is not None:
        Path(config.output).mkdir(parents=True, exist_ok=True)
    readers = open_splits(config)
    with progress_bars({split: count_of(reader) for split, reader in readers.items()}) as progress:
        splits = examine_all(readers, config.in_chans, config.workers, progress)
    found = {'data': config.data, 'root': config.root, **report(splits)}
    print_check(found)
    if config.output is not None:
        folder = Path(config.output)
        write_text(folder / 'check.json', json.dumps(found, indent=1, ensure_ascii=False) + '\n')
        with replacing(folder / 'sheet.png') as temporary:
            contact_sheet(splits, config.in_chans).save(temporary)
        print(f'written: {folder / "check.json"}, {folder / "sheet.png"}')
    return int(bool(problems(found)))


def count_of(reader: 'Reader | StreamReader') -> int | None:
    """Number of samples, where it is known."""
    from foveal.data.readers import StreamReader

    return reader.count if isinstance(reader, StreamReader) else len(reader)


SHOWN = 10  # findings of a kind that are printed


def print_check(found: dict[str, Any]) -> None:
    """Print the findings: a column a split, then what is wrong."""
    from rich.console import Console
    from rich.table import Table

    from foveal.data.check_report import problems

    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('')
    for name in found['splits']:
        table.add_column(name)
    columns = [dict(split_rows(split)) for split in found['splits'].values()]
    for row in dict.fromkeys(key for column in columns for key in column):
        table.add_row(row, *(column.get(row, '') for column in columns))
    console.print(table)
    duplicates = found['duplicates']
    print(f'duplicates: {duplicates["images"]} images have the pixels of another one')
    for said in problems(found):
        console.print(f'[red]problem[/red] {said}', highlight=False)
    for name, split in found['splits'].items():
        for what in ('unreadable', 'misnamed'):
            for entry in split[what]['listed'][:SHOWN]:
                print(f'  {what}: {name}/{entry["name"]}: {entry.get("reason") or "is " + entry["format"]}')
    shown: list[Any] = []
    for what, word in (('leaks', 'in several splits'), ('conflicts', 'several labels'), ('duplicates', 'same pixels')):
        for group in [group for group in found[what]['listed'] if group not in shown][:SHOWN]:
            shown.append(group)
            places = (f'{e["split"]}/{e["name"]}' + (f' ({e["label"]})' if what == 'conflicts' else '') for e in group)
            print(f'  {word}: ' + ' = '.join(places))


def split_rows(split: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and text of the rows of a split's column."""
    yield 'images', str(split['count'])
    yield 'unreadable', str(split['unreadable']['count'])
    yield 'wrong ending', str(split['misnamed']['count'])
    yield 'formats', ', '.join(f'{count} {kind}' for kind, count in list(split['formats'].items())[:6])
    for side in ('width', 'height'):
        if split[side]:
            yield side, '{min} to {max}, median {median}'.format(**split[side])
    if split['bytes']:
        yield 'bytes', f'{split["total_bytes"] / 1e6:.1f} MB, median {split["bytes"]["median"] / 1e3:.1f} kB an image'
        yield 'mean', ' '.join(f'{value:.4f}' for value in split['mean'])
        yield 'std', ' '.join(f'{value:.4f}' for value in split['std'])
    if 'numbers' in split:
        for name, facts in split['numbers'].items():
            yield name, '{min:g} to {max:g}, mean {mean:g}'.format(**facts)
        return
    counts = sorted(split['balance'].items(), key=lambda item: item[1])
    if not counts:
        return
    yield 'classes', str(split['classes'])
    yield 'smallest', f'{counts[0][0]}: {counts[0][1]}'
    yield 'largest', f'{counts[-1][0]}: {counts[-1][1]}'
    if split['empty_classes']:
        yield 'empty', ', '.join(split['empty_classes'][:5])
    if split.get('unlabelled'):
        yield 'without label', str(split['unlabelled'])


def bench(config: BenchConfig) -> int:
    """`foveal data bench`."""
    from foveal.data.bench import bench as measure

    return measure(config, open_splits(config))


def pack(config: PackConfig) -> int:
    """`foveal data pack`; returns the exit status.

    Raises:
        ValueError, OSError: The data cannot be opened, an image not be read, or the folder not be written to.
    """
    from foveal.data.pack import PackOptions
    from foveal.data.pack import pack as pack_all

    if not config.output:
        raise ValueError('output is missing: give a folder to write to')
    options = PackOptions(config.shard_size, config.size, config.quality, config.seed, config.skip_bad, config.in_chans)
    readers = open_splits(config)
    with progress_bars({split: count_of(reader) for split, reader in readers.items()}) as progress:
        info = pack_all(readers, Path(config.output), options, config.workers, progress)
    for split, entry in info['splits'].items():
        left_out = f', {len(entry["left_out"])} left out' if entry['left_out'] else ''
        print(f'{split}: {entry["num_samples"]} samples in {len(entry["filenames"])} shards, verified{left_out}')
    print(f'use it as --data {config.output}')
    return 0
