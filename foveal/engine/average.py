"""One model from several checkpoints of the same training, and a checkpoint cut down to its weights."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from foveal.engine import checkpoint
from foveal.files import replacing
from foveal.layers.split_norm import of_first_part
from foveal.weights import read_weights


class Weights(NamedTuple):
    """Weights by name, and what the checkpoint says of its model; None of a plain weights file."""

    tensors: dict[str, Tensor]
    header: dict[str, Any] | None


def read(path: str | Path) -> Weights:
    """The weights of a run's checkpoint, or of any weights file; of batch norms in parts, those of the first part.

    Raises:
        FileNotFoundError, ValueError: As `checkpoint.load` and `read_weights`.
    """
    if checkpoint.is_checkpoint(path):
        saved = checkpoint.load(path)
        header = {k: v for k, v in saved.header.items() if k not in ('run', 'tied', 'format')}
        return Weights(of_first_part(saved.weights), header)
    return Weights(of_first_part(read_weights(path)), None)


def write(path: str | Path, weights: Weights) -> None:
    """Writes weights as one safetensors file, whole or not at all, with what is known of their model."""
    if weights.header is not None:
        checkpoint.write(Path(path), weights.tensors, weights.header, {})
        return
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in weights.tensors.items()}, temporary)


def average(paths: Sequence[str | Path]) -> Weights:
    """The mean of several checkpoints' weights (arXiv:1803.05407), summed in float64.

    Counters and other whole numbers are taken from the last one.

    Args:
        paths: Checkpoints of one model.

    Returns:
        Weights in the first one's precision.

    Raises:
        ValueError: No checkpoints, or of different models.
    """
    if not paths:
        raise ValueError('there is nothing to average: name at least one checkpoint')
    first = read(paths[0])
    sums = {name: tensor.double() for name, tensor in first.tensors.items() if tensor.is_floating_point()}
    last = first
    for path in paths[1:]:
        last = read(path)
        check_same(first, last, paths[0], path)
        for name, total in sums.items():
            total += last.tensors[name]
    tensors = {
        name: (sums[name] / len(paths)).to(tensor.dtype) if name in sums else last.tensors[name]
        for name, tensor in first.tensors.items()
    }
    return Weights(tensors, first.header)


def check_same(first: Weights, other: Weights, first_path: str | Path, path: str | Path) -> None:
    """Refuses to mix models.

    Raises:
        ValueError: Other names, shapes, model or classes.
    """
    for key in ('model', 'classes'):
        own, its = ((weights.header or {}).get(key) for weights in (first, other))
        if own != its:
            raise ValueError(f'{path} has another {key} than {first_path}')
    shapes = [{name: tensor.shape for name, tensor in weights.tensors.items()} for weights in (first, other)]
    if shapes[0] != shapes[1]:
        name = next(n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        own, its = (tuple(shape[name]) if name in shape else 'absent' for shape in shapes)
        raise ValueError(f'{path} has other weights than {first_path}: {name} is {its} there, {own} here')


def greedy_soup(paths: Sequence[str | Path], score: Callable[[Mapping[str, Tensor]], float]) -> list[str | Path]:
    """The checkpoints whose mean is best: each joins where it does no harm (arXiv:2203.05482, recipe 1).

    Args:
        paths: Checkpoints of one model.
        score: How good weights are, higher being better.

    Returns:
        The chosen ones, best first.
    """
    scores = {path: score(read(path).tensors) for path in paths}
    ranked = sorted(paths, key=lambda path: -scores[path])
    chosen, best = ranked[:1], scores[ranked[0]]
    for path in ranked[1:]:
        reached = score(average([*chosen, path]).tensors)
        if reached >= best:
            chosen, best = [*chosen, path], reached
    return chosen


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: their names, types, shapes and bytes, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
