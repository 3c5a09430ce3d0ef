"""Weights of classes from how often they occur."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from foveal.errors import near

# method -> what it weighs
CLASS_WEIGHT_METHOD_KINDS = {
    'neg_pos': 'pos_weight',
    'inv_freq': 'class_weight',
    'effective_num': 'class_weight',
}
CLASS_WEIGHT_METHODS = tuple(CLASS_WEIGHT_METHOD_KINDS)


def compute_class_weights(
    pos_counts: Tensor | Sequence[float],
    num_samples: int,
    method: str = 'neg_pos',
    power: float = 1.0,
    beta: float = 0.999,
    max_weight: float | None = None,
) -> tuple[str, Tensor]:
    """Weights that make up for rare classes.

    Args:
        pos_counts: Positive images of each class (classes,); a class without any counts as having one.
        num_samples: Images in all.
        method: neg_pos (negatives over positives), inv_freq (one over the frequency) or effective_num
            (arXiv:1901.05555).
        power: Exponent of neg_pos and inv_freq: 0 for no weights, 1 for full ones.
        beta: Of effective_num, in [0, 1).
        max_weight: Greatest weight.

    Returns:
        What is weighted, 'pos_weight' or 'class_weight' (whose mean is 1 before `max_weight` cuts it), and the weights,
        float32 (classes,).

    Raises:
        ValueError: Unknown method, or counts that cannot be.
    """
    if method not in CLASS_WEIGHT_METHOD_KINDS:
        raise ValueError(f'method {method!r} is unknown{near(method, CLASS_WEIGHT_METHODS)}')
    counts = torch.as_tensor(pos_counts, dtype=torch.float64)
    if counts.ndim != 1 or (counts < 0).any() or (counts > num_samples).any():
        raise ValueError(f'pos_counts must be one count in [0, num_samples={num_samples}] a class, got {pos_counts}')
    if not 0 <= beta < 1:
        raise ValueError(f'beta must be in [0, 1), got {beta}')
    counts = counts.clamp(min=1)
    if method == 'neg_pos':
        weights = ((num_samples - counts) / counts) ** power
    elif method == 'inv_freq':
        weights = (num_samples / counts) ** power
    else:
        weights = (1 - beta) / (1 - beta**counts)
    kind = CLASS_WEIGHT_METHOD_KINDS[method]
    if kind == 'class_weight':
        weights = weights / weights.mean()
    return kind, (weights if max_weight is None else weights.clamp(max=max_weight)).float()


def load_class_stats(path: str | Path) -> tuple[Tensor, int]:
    """How often each class occurs, from a JSON file with `pos_counts` and `num_samples`.

    Returns:
        Positive images of each class, float32 (classes,), and images in all.

    Raises:
        FileNotFoundError, ValueError: No such file, or not of that form.
    """
    stats = read_json(Path(path))
    if not isinstance(stats, dict) or not {'pos_counts', 'num_samples'} <= stats.keys():
        raise ValueError(f'{path} must hold an object with pos_counts and num_samples')
    return numbers(stats['pos_counts'], f'pos_counts of {path}'), int(stats['num_samples'])


def resolve_class_weights(
    value: str | float | Sequence[float] | Tensor | None,
    kind: str = 'class_weight',
    class_stats: tuple[Tensor, int] | None = None,
    power: float = 1.0,
    beta: float = 0.999,
    max_weight: float | None = None,
) -> Tensor | float | None:
    """The weights that a user's option means.

    Args:
        value: None; a number for all classes; numbers, also as text with commas; a method of `compute_class_weights`;
            or a JSON file that holds a list, or an object with the list under `kind`.
        kind: 'class_weight' or 'pos_weight'.
        class_stats: Counts and number of images, for a method.
        power, beta, max_weight: As in `compute_class_weights`.

    Returns:
        None, a number, or float32 (classes,).

    Raises:
        FileNotFoundError, ValueError: What cannot be read as weights, or a method of the other kind.
    """
    if value is None or isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        return numbers(value, kind)
    if value in CLASS_WEIGHT_METHOD_KINDS:
        if CLASS_WEIGHT_METHOD_KINDS[value] != kind:
            raise ValueError(f'{value} gives a {CLASS_WEIGHT_METHOD_KINDS[value]}, not a {kind}')
        if class_stats is None:
            raise ValueError(f'{kind}={value} is computed from counts of the classes; give class_stats')
        return compute_class_weights(*class_stats, value, power, beta, max_weight)[1]
    if value.endswith('.json'):
        content = read_json(Path(value))
        if isinstance(content, dict) and kind not in content:
            raise ValueError(f'{value} has no {kind}, only {", ".join(map(str, content))}')
        return numbers(content[kind] if isinstance(content, dict) else content, f'{kind} of {value}')
    try:
        parsed = [float(part) for part in value.split(',')]
    except ValueError as error:
        raise ValueError(
            f'{kind} must be a number, numbers with commas, a .json file or one of '
            f'{", ".join(CLASS_WEIGHT_METHODS)}, got {value!r}{near(value, CLASS_WEIGHT_METHODS)}'
        ) from error
    return parsed[0] if len(parsed) == 1 else torch.tensor(parsed)


def numbers(values: object, name: str) -> Tensor:
    """A list of numbers as float32 (classes,)."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'{name} must be a list of numbers: {error}') from error
    if tensor.ndim != 1:
        raise ValueError(f'{name} must be a list of numbers, got shape {tuple(tensor.shape)}')
    return tensor


def read_json(path: Path) -> object:
    """The content of a JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist')
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is not JSON: {error}') from error
