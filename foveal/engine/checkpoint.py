"""Runs and models on disk: one safetensors file each, tensors as tensors and all else as JSON in its header.

No pickle: a checkpoint from a stranger is data. The weights keep their plain names, so that any reader of
safetensors, and `create_model(checkpoint_path=...)` of a `best.safetensors`, finds them.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from foveal.data import Preprocess, resolve_data_config
from foveal.factory import create_model
from foveal.files import replacing
from foveal.layers.split_norm import of_first_part

FORMAT = 2
HEADER = 'foveal'
# separates the optimizer's tensors from weights; no module name holds a colon
STATE = 'optimizer:'
LOSSES = 'losses:'
EMA = 'ema:'
TASK = 'task:'
# ending of a folder with a file a process, which `engine.shards` writes and reads
SHARDS = '.shards'


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, apart from what computes on.

    Attributes:
        tensors: On the CPU, by name.
        text: All else, as JSON.
    """

    tensors: dict[str, torch.Tensor]
    text: str

    @property
    def size(self) -> int:
        """Bytes of the file, nearly."""
        return sum(tensor.nbytes for tensor in self.tensors.values()) + len(self.text)

    def write(self, path: Path) -> None:
        """Writes the checkpoint, whole or not at all.

        Raises:
            OSError: The file cannot be written; an old one is untouched. Says what is needed and what is free.
        """
        try:
            with replacing(path) as temporary:
                save_file(self.tensors, temporary, {HEADER: self.text})
        except (OSError, SafetensorError) as error:
            kept = f'; the {path.name} that is there is whole' if path.is_file() else ''
            raise OSError(
                f'cannot write {path} ({self.size / 1e6:.1f} MB{room(path.parent)}): {error}{kept}'
            ) from error


def room(folder: Path) -> str:
    """The space left where a folder is, for a message; nothing where that cannot be asked."""
    try:
        return f', {shutil.disk_usage(folder).free / 1e6:.1f} MB are free'
    except OSError:
        return ''


def snapshot(
    weights: Mapping[str, torch.Tensor], header: Mapping[str, Any], extra: Mapping[str, torch.Tensor]
) -> Snapshot:
    """Copies what a checkpoint needs, so that it can be written while training goes on.

    Args:
        weights: State dict of a model.
        header: Values that JSON can hold.
        extra: Further tensors; names must hold a colon.
    """
    seen: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in weights.items():
        # parameters that are shared are stored once
        first = seen.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if first != name and weights[first].shape == tensor.shape:
            tied[name] = first
        else:
            tensors[name] = copied(tensor)
    tensors |= {name: copied(tensor) for name, tensor in extra.items()}
    return Snapshot(tensors, json.dumps({'format': FORMAT, 'tied': tied, **header}))


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's values on the CPU, in plain order, in memory of their own; of a sharded one, the shard."""
    return tensor.detach().to('cpu', copy=True, memory_format=torch.contiguous_format)


def save(path: Path, model: nn.Module, header: Mapping[str, Any], extra: Mapping[str, torch.Tensor]) -> None:
    """Writes a checkpoint of a model now; arguments as of `snapshot`, errors as of `Snapshot.write`."""
    write(path, model.state_dict(), header, extra)


def write(
    path: Path, weights: Mapping[str, torch.Tensor], header: Mapping[str, Any], extra: Mapping[str, torch.Tensor]
) -> None:
    """Writes a checkpoint of a state dict now; otherwise as `save`."""
    snapshot(weights, header, extra).write(path)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content.

    Attributes:
        path: Its file.
        header: What was stored as JSON.
        weights: State dict of the model.
        extra: The other tensors.
    """

    path: Path
    header: dict[str, Any]
    weights: dict[str, torch.Tensor]
    extra: dict[str, torch.Tensor]


def load(path: str | Path, prefer: str = 'best') -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: The file, or a run's folder.
        prefer: Of a folder: best (else last), or last.

    Returns:
        The content, on the CPU.

    Raises:
        FileNotFoundError: No such file, or a folder without checkpoints.
        ValueError: Not a checkpoint of foveal, or a damaged one.
    """
    path = find(Path(path), prefer)
    if path.suffix == SHARDS:
        from foveal.engine.shards import read

        return read(path)
    try:
        with safe_open(path, 'pt') as file:
            text = (file.metadata() or {}).get(HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        header = json.loads(text) if text else None
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(f'{path} is damaged or no checkpoint: {error}') from error
    if header is None:
        raise ValueError(
            f'{path} holds weights, but not which model they are of; give the name of the model and --checkpoint {path}'
        )
    if header['format'] != FORMAT:
        raise ValueError(f'{path} has format {header["format"]}; this version of foveal reads format {FORMAT}')
    weights = {name: tensor for name, tensor in tensors.items() if ':' not in name}
    weights |= {name: weights[first] for name, first in header['tied'].items()}
    return Checkpoint(path, header, weights, {name: t for name, t in tensors.items() if ':' in name})


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a run's folder, or a file that tells of its model."""
    path = Path(path)
    if path.suffix != '.safetensors' or not path.is_file():
        return path.is_dir()
    try:
        with safe_open(path, 'pt') as file:
            return HEADER in (file.metadata() or {})
    except SafetensorError:
        return False


def find(path: Path, prefer: str = 'best') -> Path:
    """The checkpoint that a path means: itself, or one of a run's folder."""
    if path.is_file() or path.suffix == SHARDS:
        return path
    names = ('last',) if prefer == 'last' else ('best', 'last')
    for name in names:
        if found := written(path, name):
            return found
    if path.is_dir():
        raise FileNotFoundError(f'{path} holds no {" or ".join(f"{name}.safetensors" for name in names)}')
    raise FileNotFoundError(f'checkpoint {path} does not exist')


def written(folder: Path, name: str) -> Path | None:
    """The checkpoint of a name in a run's folder: one file, or shards; the newer where a run changed from one to the
    other and was killed at that."""
    both = [path for path in (folder / f'{name}.safetensors', folder / f'{name}{SHARDS}') if path.exists()]
    return max(both, key=lambda path: path.stat().st_mtime_ns, default=None)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by name and the rest for JSON."""
    state = optimizer.state_dict()
    tensors, values = {}, {}
    for index, entries in state['state'].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f'{STATE}{index}.{key}'] = value
            else:
                values[f'{index}.{key}'] = value
    rest = {key: value for key, value in state.items() if key != 'state'}
    return tensors, {**rest, 'values': values}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]
) -> None:
    """Puts the state of `pack_optimizer` into an optimizer over the same parameters.

    Raises:
        ValueError: Other parameters than the stored ones.
    """
    state: dict[int, dict[str, Any]] = {}
    stored = {name.removeprefix(STATE): value for name, value in tensors.items() if name.startswith(STATE)}
    for name, value in {**rest['values'], **stored}.items():
        index, _, key = name.partition('.')
        state.setdefault(int(index), {})[key] = value
    groups = [
        {key: tuple(value) if isinstance(value, list) and key != 'params' else value for key, value in group.items()}
        for group in rest['param_groups']
    ]
    for group, own in zip(groups, optimizer.param_groups, strict=False):
        # by which kernels a step is computed is no part of what was learnt
        group |= {key: own[key] for key in ('fused', 'foreach') if key in own}
    others = {key: value for key, value in rest.items() if key != 'values'}
    optimizer.load_state_dict({**others, 'state': state, 'param_groups': groups})
    # a state lies in memory as its parameter does, which fast kernels want and a file does not keep
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                entries[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


@dataclass(frozen=True)
class Loaded:
    """A model ready to judge images.

    Attributes:
        model: In evaluation mode.
        preprocess: What its input needs.
        classes: Names of its classes; None where nobody told.
        header: Of its checkpoint; None of a model by name.
    """

    model: Any
    preprocess: Preprocess
    classes: list[str] | None
    header: dict[str, Any] | None = None


def load_model(
    source: str,
    pretrained: bool = False,
    checkpoint: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """A model from a run's folder or checkpoint, or from its name.

    Args:
        source: A path, or the name of a model.
        pretrained: Load the published weights of a named model.
        checkpoint: Weights file for a named model.
        model_options: Options of a named model.
        overrides: Preprocessing that replaces the model's own; None values count as absent.

    Returns:
        The model and what belongs to it.

    Raises:
        FileNotFoundError, ValueError: A path that is not there, an unknown name, or a named model without weights.
    """
    if not Path(source).exists():
        if ('/' in source and ':' not in source) or source.endswith('.safetensors'):
            raise FileNotFoundError(f'checkpoint {source} does not exist')
        if not pretrained and not checkpoint:
            raise ValueError(
                f'{source!r} is no file or folder; a model by name needs --pretrained or --checkpoint FILE'
            )
        model = create_model(source, pretrained=pretrained, checkpoint_path=checkpoint, **(model_options or {}))
        return Loaded(model.eval(), resolve_data_config(overrides, model=model), None)
    saved = load(source)
    header = saved.header
    model = create_model(header['model'], num_classes=len(header['classes']), **header['model_options'])
    try:
        model.load_state_dict(of_first_part(saved.weights))
    except RuntimeError as error:
        raise ValueError(f'{saved.path} does not fit {header["model"]}: {error}') from error
    preprocess = resolve_data_config(overrides, pretrained_cfg=header['preprocess'])
    return Loaded(model.eval(), preprocess, header['classes'], header)
