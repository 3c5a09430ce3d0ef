"""`foveal models`: list and search what is published, as a table, CSV or JSON."""

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from foveal.query import Record, search


@dataclass
class ModelsConfig:
    """List and search the models, by what is known without building them."""

    filter: str = ''
    """wildcard on the name, such as 'resnet*' or '*.a1_in1k'; empty for all"""
    module: str | None = None
    """only this family, such as convnext"""
    params: str | None = None
    """parameters: '<10e6', '>=5e6', or a range '5e6..20e6'"""
    gmacs: str | None = None
    """multiply-adds in 1e9, where measured, likewise"""
    input_size: str | None = None
    """height of the input, likewise"""
    num_classes: str | None = None
    """classes of the published head, likewise; 0 for encoders without one"""
    top1: str | None = None
    """percent of ImageNet's validation images that are named right, where a public table says, likewise"""
    reduction: str | None = None
    """has a feature level of this stride, likewise"""
    license: str | None = None
    """wildcard on the licence of the weights, such as 'apache*'"""
    pretrained: bool = False
    """only what has published weights"""
    tags: bool = False
    """a row for every set of weights, not one for every architecture (under its default weights)"""
    sort: str = 'name'
    """field to sort by; '-top1' for the largest first"""
    limit: int | None = None
    """show at most so many rows"""
    format: Literal['table', 'csv', 'json'] = 'table'
    """table for reading; csv and json carry every field"""


CONDITIONS = ('module', 'params', 'gmacs', 'input_size', 'num_classes', 'top1', 'reduction', 'license')


def run(config: ModelsConfig) -> int:
    """Print the models that the configuration asks for; returns the exit status, 1 where there are none.

    Raises:
        ValueError: a condition cannot be read, `sort` is not a field, or `limit` is not positive.
    """
    if config.limit is not None and config.limit < 1:
        raise ValueError(f'limit must be at least 1, got {config.limit}')
    records = find(config)
    shown = records[: config.limit]
    {'table': _table, 'csv': _csv, 'json': _json}[config.format](shown)
    if not records:
        print('no model meets these conditions', file=sys.stderr)
    elif len(shown) < len(records):
        print(f'{len(shown)} of {len(records)} shown', file=sys.stderr)
    return int(not records)


def find(config: ModelsConfig) -> list[Record]:
    """The records to show, in order."""
    conditions: dict[str, Any] = {name: value for name in CONDITIONS if (value := getattr(config, name)) is not None}
    if config.pretrained:
        conditions['pretrained'] = True
    records = search(config.filter, sort=config.sort, **conditions)
    return records if config.tags else _one_an_architecture(records)


def _one_an_architecture(records: list[Record]) -> list[Record]:
    """Of several tags of an architecture the one that its bare name stands for, or else the first."""
    from foveal.registry import resolve

    best: dict[str, Record] = {}
    for record in records:
        if record.arch not in best or resolve(record.arch)[1] == record.tag:
            best[record.arch] = record
    return [record for record in records if best[record.arch] is record]


def _table(records: list[Record]) -> None:
    from rich.console import Console
    from rich.table import Table

    # Where the output is no terminal rich assumes 80 columns and would cut names short.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('model', no_wrap=True)
    for title in ('params', 'input', 'classes', 'top-1'):
        table.add_column(title, justify='right', no_wrap=True)
    for title in ('strides', 'licence', 'paper', 'weights'):
        table.add_column(title, no_wrap=True)
    for r in records:
        weights = 'yes' if r.pretrained else ''
        strides = '/'.join(str(stride) for stride in dict.fromkeys(r.reduction))
        params = '' if r.params is None else f'{r.params / 1e6:.1f} M'
        top1 = '' if r.top1 is None else f'{r.top1:.1f}'
        facts = (r.name, params, str(r.input_size), str(r.num_classes), top1, strides)
        table.add_row(*facts, r.license or '', r.paper or '', weights)
    console.print(table)


def _csv(records: Iterable[Record]) -> None:
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(Record)], lineterminator='\n')
    writer.writeheader()
    for record in records:
        lists = {'channels': '/'.join(map(str, record.channels)), 'reduction': '/'.join(map(str, record.reduction))}
        writer.writerow(asdict(record) | lists)


def _json(records: Iterable[Record]) -> None:
    print('[' + ',\n '.join(json.dumps(asdict(record)) for record in records) + ']')
