"""Search over everything that is published, by what is known of a model without building it."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from foveal.catalog import Architecture, catalog
from foveal.errors import near
from foveal.registry import get_arch_name, list_models, natural_key, split_model_name_tag


@dataclass(frozen=True)
class Record:
    """One architecture under one tag. The fields are what `search` takes conditions on and sorts by."""

    name: str
    """`architecture.tag`"""
    arch: str
    tag: str
    module: str
    class_name: str
    params: int | None
    """parameters, with the classifier of the default weights"""
    gmacs: float | None
    """multiply-adds of one image at the published input size, in 1e9; None where it has not been measured"""
    input_size: int
    """height of the input (and width, where they are equal)"""
    test_size: int
    """height of the input that the weights are evaluated at"""
    fixed_input_size: bool
    num_classes: int
    """0 for an encoder without a classifier"""
    top1: float | None
    """percent of ImageNet's validation images whose first guess is right; None where no public table says"""
    top5: float | None
    """percent of those whose class is among the first five guesses"""
    measured_size: int | None
    """height of the input that these two were measured at"""
    measured_by: str | None
    """the table that they are from, one of `foveal.catalog.TABLES`"""
    channels: tuple[int, ...]
    """channels of every feature level"""
    reduction: tuple[int, ...]
    """stride of every feature level"""
    interpolation: str
    crop_pct: float
    license: str | None
    paper: str | None
    pretrained: bool
    """weights are published"""


FIELDS = tuple(field.name for field in fields(Record))
RELATIONS: dict[str, Callable[[float, float], bool]] = {
    '<': lambda a, b: a < b,
    '<=': lambda a, b: a <= b,
    '>': lambda a, b: a > b,
    '>=': lambda a, b: a >= b,
    '=': lambda a, b: a == b,
    '==': lambda a, b: a == b,
    '!=': lambda a, b: a != b,
}
NUMBER = r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?'
TEXT_FIELDS = {'name', 'arch', 'tag', 'module', 'class_name', 'measured_by', 'interpolation', 'license', 'paper'}
FLAG_FIELDS = {'fixed_input_size', 'pretrained'}


def search(filter: str | Iterable[str] = '', *, sort: str | Sequence[str] = 'name', **conditions: Any) -> list[Record]:
    """The published weights that meet all conditions: one record for every architecture and tag.

    >>> small = search('*net*', params='<10e6', input_size=224, license='apache-2.0', reduction=8, sort='params')

    Args:
        filter: wildcard(s) on the name, as in `list_models`.
        sort: the field to sort by, '-field' for the largest first, or several of these. What is not known comes last.
        conditions: one for each field of `Record` that matters. A number field takes a number, '<10e6', '>=224', '!=0'
            or an inclusive range '5e6..20e6'; a text field takes a wildcard, in any case ('cc-by-*'); a flag takes True
            or False. A list holds alternatives. The fields of feature levels (`channels`, `reduction`) are met by any
            one level. A field that is not known for a model meets no condition.

    Raises:
        ValueError: an unknown field (the message names the legal ones), or a condition that cannot be read.
    """
    tests = {name: _condition(_known(name), wanted) for name, wanted in conditions.items()}
    keys = [sort] if isinstance(sort, str) else list(sort)
    for key in keys:
        _known(key.removeprefix('-'))
    archs = catalog().archs
    records = (_record(archs[get_arch_name(name)], name) for name in list_models(filter, include_tags=True))
    found = [record for record in records if all(test(getattr(record, name)) for name, test in tests.items())]
    for key in reversed(keys):
        found = _sorted(found, key.removeprefix('-'), key.startswith('-'))
    return found


def _record(arch: Architecture, name: str) -> Record:
    tag = split_model_name_tag(name)[1]
    cfg, result = arch.weights[tag], arch.results.get(tag)
    papers = cfg.get('paper_ids') or cfg.get('paper_name')
    return Record(
        name=name,
        arch=arch.name,
        tag=tag,
        module=arch.module,
        class_name=arch.class_name,
        params=arch.params,
        gmacs=arch.gmacs,
        input_size=cfg['input_size'][1],
        test_size=cfg.get('test_input_size', cfg['input_size'])[1],
        fixed_input_size=cfg.get('fixed_input_size', False),
        num_classes=cfg['num_classes'],
        top1=result.top1 if result else None,
        top5=result.top5 if result else None,
        measured_size=result.size if result else None,
        measured_by=result.source if result else None,
        channels=tuple(channels for channels, _ in arch.features),
        reduction=tuple(reduction for _, reduction in arch.features),
        interpolation=cfg['interpolation'],
        crop_pct=cfg['crop_pct'],
        license=cfg.get('license'),
        paper=papers if papers is None or isinstance(papers, str) else ', '.join(papers),
        pretrained=arch.has_weights(tag),
    )


def _known(name: str) -> str:
    if name not in FIELDS:
        raise ValueError(f'unknown field {name!r} of a model{near(name, FIELDS, show=len(FIELDS))}')
    return name


def _condition(name: str, wanted: Any) -> Callable[[Any], bool]:
    """A test of one field's value."""
    if isinstance(wanted, (list, tuple, set)):
        tests = [_condition(name, each) for each in wanted]
        return lambda value: any(test(value) for test in tests)
    if name in FLAG_FIELDS:
        if not isinstance(wanted, bool):
            raise ValueError(f'{name} is either True or False, got {wanted!r}')
        return lambda value: value is wanted
    if name in TEXT_FIELDS:
        if not isinstance(wanted, str):
            raise ValueError(f'{name} takes a wildcard such as "apache*", got {wanted!r}')
        return lambda value: value is not None and fnmatchcase(value.lower(), wanted.lower())
    meets = _comparison(name, wanted)
    return lambda value: any(meets(v) for v in (value if isinstance(value, tuple) else (value,)) if v is not None)


def _comparison(name: str, wanted: Any) -> Callable[[float], bool]:
    """A test of one number."""
    text = str(wanted).replace(' ', '')
    if match := re.fullmatch(rf'({NUMBER})\.\.({NUMBER})', text):
        low, high = map(float, match.groups())
        if low > high:
            raise ValueError(f'{name}: the range {wanted!r} is empty, its first number is the larger')
        return lambda value: low <= value <= high
    match = re.fullmatch(rf'(<=|>=|<|>|==|=|!=)?({NUMBER})', text)
    if not match or isinstance(wanted, bool):
        raise ValueError(f'{name} takes a number, a comparison such as "<10e6", or a range "5e6..20e6"; got {wanted!r}')
    relation, bound = RELATIONS[match[1] or '='], float(match[2])
    return lambda value: relation(value, bound)


def _sorted(records: list[Record], key: str, descending: bool) -> list[Record]:
    """Sorted by one field, stable; unknown values last either way."""
    known = [record for record in records if getattr(record, key) is not None]
    unknown = [record for record in records if getattr(record, key) is None]

    def order(record: Record) -> Any:
        value = getattr(record, key)
        return natural_key(value) if isinstance(value, str) else value

    return sorted(known, key=order, reverse=descending) + unknown
