"""`foveal model`: the card of one set of weights, by what is known without building the model."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from foveal.catalog import TABLES, Architecture, catalog
from foveal.pretrained import PretrainedCfg
from foveal.registry import resolve


@dataclass
class CardConfig:
    """Show what is known of a model: sizes, accuracy, preprocessing, licence, paper, features, sources of weights."""

    name: str = ''
    """`architecture` or `architecture.tag`"""
    format: Literal['table', 'json'] = 'table'
    """table for reading; json carries every field"""


def run(config: CardConfig) -> int:
    """Print the card of a model; returns the exit status.

    Raises:
        UnknownModelError: no such model or tag; the message names near ones.
    """
    name, tag = resolve(config.name)
    arch = catalog().archs[name]
    record = arch.cfg(tag)
    if config.format == 'json':
        about: dict[str, Any] = {
            'name': f'{name}.{tag}' if tag else name,
            'module': arch.module,
            'class': arch.class_name,
        }
        levels = [{'channels': channels, 'reduction': stride} for channels, stride in arch.features]
        about |= {'params': arch.params, 'features': levels, 'tags': list(arch.weights)}
        about |= {'imagenet': asdict(arch.results[tag])} if tag in arch.results else {}
        print(json.dumps({**about, **record}))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style='bold', no_wrap=True)
    table.add_column(overflow='fold')
    for title, text in lines(arch, tag, record):
        table.add_row(title, text)
    # where the output is no terminal rich assumes 80 columns
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table, markup=False)
    return 0


def lines(arch: Architecture, tag: str, record: PretrainedCfg) -> Iterator[tuple[str, str]]:
    """(title, text) of every line of the card; what is not known has none."""
    yield 'model', f'{arch.name}.{tag}' if tag else arch.name
    yield 'family', f'{arch.module} ({arch.class_name})'
    if arch.params:
        yield 'parameters', f'{arch.params / 1e6:.1f} M'
    if arch.gmacs:
        yield 'multiply-adds', f'{arch.gmacs:.1f} G'
    yield 'input', f'{shape(record.input_size)}{", no other size" if record.fixed_input_size else ""}'
    if record.test_input_size:
        yield 'evaluated at', shape(record.test_input_size)
    yield 'classes', str(record.num_classes or 'none: an encoder')
    if result := arch.results.get(tag):
        scores = f'top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} % at {result.size} x {result.size}'
        yield 'ImageNet', f'{scores} ({TABLES[result.source]})'
    crop = f', crop {record.crop_pct} ({record.crop_mode})'
    yield 'preprocessing', f'{record.interpolation}{crop}, mean {numbers(record.mean)}, std {numbers(record.std)}'
    strides = dict.fromkeys(arch.features)
    yield 'features', ', '.join(f'{channels} channels at 1/{stride}' for channels, stride in strides)
    for title, value in (('licence', record.license), ('paper', record.paper_ids or record.paper_name)):
        if value:
            yield title, value if isinstance(value, str) else ', '.join(value)
    for title, value in (('description', record.description), ('origin', record.origin_url)):
        if value:
            yield title, value
    yield 'weights', ', '.join(sources(record)) or 'not published'
    yield 'tags', ', '.join(f'{each} (default)' if i == 0 else each for i, each in enumerate(arch.weights) if each)


def sources(record: PretrainedCfg) -> Iterator[str]:
    """Where weights lie."""
    if record.hf_hub_id:
        yield f'hf-hub:{record.hf_hub_id}' + (f'/{record.hf_hub_filename}' if record.hf_hub_filename else '')
    if record.url:
        yield record.url


def shape(size: tuple[int, int, int]) -> str:
    """(channels, height, width) for reading."""
    return f'{size[1]} x {size[2]}, {size[0]} channels'


def numbers(values: tuple[Any, ...]) -> str:
    """Numbers for reading; once, where all are one."""
    return ' '.join(f'{value:.4g}' for value in (values if len(set(values)) > 1 else values[:1]))
