"""The `config.json` that lies beside published weights: which model they are of, and how its inputs are prepared."""

import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from foveal.pretrained import PretrainedCfg
from foveal.weights import strict_json
from foveal.weights.read import WeightsError

# where weights lie is known already: beside the config. What it says itself may mean any file or address
SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source')
LABELS = ('label_names', 'label_descriptions')
LARGEST_NUMBER = 1 << 31  # no size of a model comes near
DEEPEST = 1000  # blocks; each takes a millisecond to build and memory, before any weight tells that it is not there
MOST_NESTED = 20  # of values in a config
DEPTHS = ('depth', 'layers', 'blocks', 'block_config', 'repeat')  # parts of the names of options that count blocks
KINDS = {field: hint for field, hint in typing.get_type_hints(PretrainedCfg).items() if field not in SOURCES}


@dataclass(frozen=True)
class ModelConfig:
    """What a `config.json` says.

    Attributes:
        architecture: name of the architecture.
        model_args: options over those of the architecture, by name.
        pretrained_cfg: preprocessing and labels; where the weights lie is for the caller to add.
    """

    architecture: str
    model_args: dict[str, Any]
    pretrained_cfg: PretrainedCfg


def read_config(path: str | Path) -> ModelConfig:
    """Read a `config.json`, of the form that timm writes too (version 0.9 and later).

    Fields of `pretrained_cfg` that are not known are passed over with a warning.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: not such a config, a value of a wrong type or beyond any model, or a config that names weights
            elsewhere than beside itself.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no config at {path}')
    try:
        return understood(strict_json.read(path))
    except RecursionError:
        raise WeightsError(f'cannot read {path}: it is nested too deeply') from None
    except (ValueError, OSError) as error:
        raise WeightsError(f'cannot read {path}: {error}') from error


def understood(values: Mapping[str, Any]) -> ModelConfig:
    """A config's values as a `ModelConfig`; ValueError for what cannot be one."""
    architecture, options = values.get('architecture'), values.get('model_args', {})
    # before timm 0.9 the record stood flat in the config
    record = values.get('pretrained_cfg', {key: values[key] for key in KINDS if key in values})
    if not isinstance(architecture, str):
        raise ValueError(f'architecture must be the name of a model, got {architecture!r}')
    for name, value in (('model_args', options), ('pretrained_cfg', record)):
        if not isinstance(value, dict):
            raise ValueError(f'{name} must be an object, got {type(value).__name__}')
    check_numbers('', values)
    if elsewhere := [key for key in ('file', 'state_dict', 'hf_hub_filename') if record.get(key) is not None]:
        raise ValueError(f'{elsewhere[0]} names weights, and only those beside a config are read')
    said = {key: values[key] for key in ('num_classes', *LABELS) if values.get(key) is not None}
    known = {key: value for key, value in {**record, **said}.items() if key in KINDS and value is not None}
    if unknown := sorted(set(record) - {field.name for field in fields(PretrainedCfg)}):
        warnings.warn(f'pretrained_cfg fields that are not known are passed over: {", ".join(unknown)}', stacklevel=3)
    for key, value in known.items():
        if not matches(value, KINDS[key]):
            raise ValueError(f'{key} cannot be {shortened(value)}')
        if isinstance(value, list) and key.endswith('_size') and min(value, default=0) < 1:
            raise ValueError(f'{key} cannot be {shortened(value)}')
    # null says that a field is not set, where a default would say otherwise
    unset = {key: None for key in ('num_classes',) if key in record and record[key] is None and key not in said}
    return ModelConfig(architecture, options, PretrainedCfg.from_dict({**known, **unset, 'architecture': architecture}))


def check_numbers(name: str, value: Any) -> None:
    """Refuse numbers that no model has, however deep they stand."""
    if name.count('.') > MOST_NESTED:
        raise ValueError('it is nested too deeply')
    largest = DEEPEST if name.startswith('model_args.') and any(part in name for part in DEPTHS) else LARGEST_NUMBER
    if isinstance(value, (int, float)) and not abs(value) < largest:
        raise ValueError(f'{name} cannot be {shortened(value)}')
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        check_numbers(f'{name}.{key}'.lstrip('.'), part)


def matches(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of the type that a field is annotated with; a list stands for a tuple."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is types.UnionType:
        return any(matches(value, part) for part in parts)
    if kind is tuple:
        each = parts[:1] * len(value) if isinstance(value, list) and parts[-1] is ... else parts
        return isinstance(value, list) and len(value) == len(each) and all(map(matches, value, each))
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, dict) and all(matches(part, parts[1]) for part in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def shortened(value: Any) -> str:
    """A value for a message."""
    said = f'{value:.3e}' if isinstance(value, float) else repr(value) if not isinstance(value, int) else hex(value)
    return said if len(said) < 100 else f'{said[:100]}...'
