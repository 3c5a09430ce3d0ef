"""Checkpoints of sharded runs: a folder with one safetensors file a process, and what is no tensor as JSON.

torch's `distributed.checkpoint` writes and reads them, so that any number of processes can go on from them. Its own
format keeps the list of tensors as a pickle; the one of safetensors files needs none, and a folder from a stranger is
data.
"""

import json
import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import zeros as distributed_zeros

from foveal.engine.checkpoint import EMA, FORMAT, SHARDS, STATE, TASK, Checkpoint, copied, room
from foveal.files import replacing_folder
from foveal.optim.engine import Optimizer

HEADER = 'header.json'
Size = tuple[torch.Size, torch.dtype]


@dataclass(frozen=True)
class ShardSnapshot:
    """What the processes will write together.

    Attributes:
        tensors: On the CPU, by name; each process has its own shards.
        header: All else, for JSON.
        group: The processes, for what goes on beside the training.
    """

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    group: dist.ProcessGroup

    def write(self, path: Path) -> None:
        """Writes the checkpoint, whole or not at all; all processes at a time.

        Raises:
            OSError: A process could not write; an old checkpoint is untouched.
        """
        is_main = dist.get_rank(self.group) == 0
        with ExitStack() as stack:
            said: list[Any] = [None, None]
            if is_main:
                try:
                    said[0] = str(stack.enter_context(replacing_folder(path, belongs=lambda _: True)))
                except OSError as error:
                    said[1] = str(error)
            dist.broadcast_object_list(said, group=self.group, group_src=0)
            folder, wrong = said
            try:
                if wrong:
                    raise OSError(wrong)
                writer = dcp.HuggingFaceStorageWriter(folder, save_distributed=True)
                # what all processes have alike is written once
                planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
                dcp.save(self.tensors, storage_writer=writer, planner=planner, process_group=self.group)
                if is_main:
                    shapes = {name: list(tensor.shape) for name, tensor in self.tensors.items()}
                    Path(folder, HEADER).write_text(json.dumps({**self.header, 'shapes': shapes}), encoding='utf-8')
                    check(Path(folder))
            except (OSError, SafetensorError, ValueError, CheckpointException) as error:
                raise OSError(f'cannot write {path}{room(path.parent)}: {error}') from error


def snapshot_shards(
    weights: Mapping[str, Tensor], header: Mapping[str, Any], extra: Mapping[str, Tensor], group: dist.ProcessGroup
) -> ShardSnapshot:
    """Copies what a checkpoint needs; arguments as of `checkpoint.snapshot`, and who writes it."""
    tensors = {name: copied(tensor) for name, tensor in {**weights, **extra}.items()}
    return ShardSnapshot(tensors, {'format': FORMAT, 'tied': {}, **header}, group)


def opened(path: Path) -> Checkpoint:
    """A checkpoint in shards without its tensors, which `restored` gets for a run.

    Raises:
        ValueError: A damaged one, or of another kind.
    """
    return Checkpoint(path, check(path), {}, {})


def read(path: Path) -> Checkpoint:
    """A checkpoint in shards with its tensors put together, on the CPU; otherwise as `opened`."""
    saved = opened(path)
    return loaded(saved, {name: zeros_of(size) for name, size in sizes(path).items()}, None)


def restored(saved: Checkpoint, run: Any) -> Checkpoint:
    """A checkpoint, in shards or not, with its tensors as a run holds its own: shared out or whole.

    Args:
        saved: Of `opened`, or of `checkpoint.load`.
        run: Whose model is there and whose optimizer has taken no step.

    Raises:
        ValueError: A damaged file.
    """
    in_shards = saved.path.suffix == SHARDS
    if run.shards is None:
        return read(saved.path) if in_shards else saved
    like = likenesses(run, saved)
    if in_shards:
        target = {name: empty_like(like.get(name), size) for name, size in sizes(saved.path).items()}
        return loaded(saved, target, run.shards.writers)
    both = {**saved.weights, **saved.extra}
    return split(saved, {name: spread(tensor, like.get(name)) for name, tensor in both.items()})


def loaded(saved: Checkpoint, target: dict[str, Tensor], group: dist.ProcessGroup | None) -> Checkpoint:
    """Reads shards into tensors of whatever layout: by the processes of a group together, or by one alone."""
    try:
        reader = dcp.HuggingFaceStorageReader(str(saved.path))
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'torch.distributed is')  # so it is
            dcp.load(target, storage_reader=reader, process_group=group, no_dist=group is None)
    except (OSError, SafetensorError, CheckpointException) as error:
        raise ValueError(f'{saved.path} is damaged: {error}') from error
    return split(saved, target)


def split(saved: Checkpoint, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """A checkpoint with these tensors: weights, and what has a colon in its name."""
    weights = {name: tensor for name, tensor in tensors.items() if ':' not in name}
    return replace(saved, weights=weights, extra={name: t for name, t in tensors.items() if ':' in name})


def likenesses(run: Any, saved: Checkpoint) -> dict[str, Tensor]:
    """Tensors of a run that are laid out as those of these names in its checkpoint."""
    like = {**run.model.state_dict(), **{TASK + name: p for name, p in run.beside().items()}}
    if run.ema:
        like |= {EMA + name: tensor for name, tensor in run.ema.model.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in saved.extra.items()} or saved.header['shapes']
    parameters = [(p, group) for group in run.optimizer.param_groups for p in group['params']]
    for name in filter(lambda name: name.startswith(STATE), shapes):
        index, _, key = name.removeprefix(STATE).partition('.')
        parameter, group = parameters[int(index)]
        # a formula knows the layout of its own state; torch's optimizers have states of the parameter's shape, or one
        # number, which is not shared out
        fresh = run.optimizer.init(parameter.detach(), group) if isinstance(run.optimizer, Optimizer) else {}
        if key in fresh or tuple(shapes[name]) == parameter.shape:
            like[name] = fresh.get(key, parameter)
    return like


def empty_like(like: Tensor | None, size: Size) -> Tensor:
    """A tensor of a size that is laid out as another one; whole, on the CPU, where there is none."""
    if not isinstance(like, DTensor):
        return zeros_of(size)
    shape, dtype = size
    return distributed_zeros(*shape, dtype=dtype, device_mesh=like.device_mesh, placements=like.placements)


def zeros_of(size: Size) -> Tensor:
    """A whole tensor of a size, on the CPU. (Of zeros: what a file does not fill is not what memory held before.)"""
    return torch.zeros(size[0], dtype=size[1])


def spread(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor, which all processes have, laid out as another one."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device).contiguous(), like.device_mesh, like.placements, src_data_rank=None)


def read_header(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        ValueError: Nothing that can be read, or of another kind.
    """
    try:
        header = json.loads((path / HEADER).read_text(encoding='utf-8'))
        version, shapes = header['format'], header['shapes']
        names = all(isinstance(size, int) for shape in shapes.values() for size in shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is damaged or no checkpoint: {HEADER}: {error}') from error
    if version != FORMAT or not names:
        raise ValueError(f'{path} has format {version}; this version of foveal reads format {FORMAT}')
    return header


def sizes(path: Path) -> dict[str, Size]:
    """Shape and type of every tensor, by what the shards say.

    Raises:
        ValueError: A damaged file.
    """
    return {name: (found.size, found.properties.dtype) for name, found in stored(path).items()}


def stored(path: Path) -> dict[str, TensorStorageMetadata]:
    """What lies where in the shards."""
    try:
        return dict(dcp.HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata)  # type: ignore[arg-type]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is damaged: {error}') from error


def check(path: Path) -> dict[str, Any]:
    """The header of a checkpoint whose shards are all there.

    Raises:
        ValueError: One that is missing or damaged.
    """
    header, found = read_header(path), stored(path)
    for name, shape in header['shapes'].items():
        parts = found[name].chunks if name in found else []
        elements = sum(math.prod(part.sizes) for part in parts)
        if not parts or list(found[name].size) != shape or elements != math.prod(shape):
            raise ValueError(
                f'{path} is damaged: of {name} {tuple(shape)}, {elements:,} of {math.prod(shape):,} elements are there '
                '(do all processes write to the same file system?)'
            )
    return header
