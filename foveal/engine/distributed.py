"""One process or several: torchrun, srun or mpirun starts them, this finds them."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from foveal.engine import launchers
from foveal.engine.memory import keep_freed_memory


@dataclass(frozen=True)
class Process:
    """This process among those of a run.

    Attributes:
        rank: Number of this process; 0 writes the files.
        world_size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str = 'auto', threads: int = 0) -> Process:
    """Joins the processes that torchrun, srun or mpirun started, over nccl on CUDA and gloo elsewhere; or is alone.

    Args:
        device: auto, or a device of torch; of several processes each takes the CUDA device of its local rank.
        threads: CPU threads of this process; 0 leaves torch's choice.

    Returns:
        This process.

    Raises:
        ValueError: No such device here, or an environment that does not say enough.
    """
    os.environ.update(launchers.find(os.environ))
    if threads:
        torch.set_num_threads(threads)
    name = ('cuda' if torch.cuda.is_available() else 'cpu') if device == 'auto' else device
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {device!r} cannot be used here: {str(error).splitlines()[0]}') from error
    if chosen.type == 'cpu':
        keep_freed_memory()
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return Process(0, 1, chosen)
    if chosen.type == 'cuda':
        chosen = torch.device('cuda', int(os.environ['LOCAL_RANK']))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        join('nccl' if chosen.type == 'cuda' else 'gloo')
    return Process(dist.get_rank(), dist.get_world_size(), chosen)


def join(backend: str) -> None:
    """Joins the group of processes.

    torchrun keeps one store for all attempts at a run. Addresses of processes that are gone lie in it, and gloo would
    try to reach them, so every attempt gets a part of the store to itself.
    """
    store, rank, world_size = next(dist.rendezvous('env://'))
    attempt = dist.PrefixStore(f'attempt{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=world_size)


def finish() -> None:
    """Leaves the group of processes, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any]:
    """A value of every process, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Returns when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def local(t: Tensor) -> Tensor:
    """What a tensor, perhaps a sharded one, holds here."""
    return t.to_local() if hasattr(t, 'to_local') else t


@torch.no_grad()
def share_statistics(model: nn.Module, how: str) -> None:
    """Lets all processes have the same statistics in a model's norms, which each gathers from its own images.

    Args:
        model: Its norms are changed.
        how: reduce (they become their mean over all processes), broadcast (those of the first) or none.
    """
    if how == 'none' or not dist.is_initialized():
        return
    for module in model.modules():
        # of our own layers with running statistics, EvoNorm is no _NormBase
        if isinstance(module, _NormBase) or 'running_var' in module._buffers:
            for buffer in module.buffers(recurse=False):
                if how == 'broadcast':
                    dist.broadcast(buffer, 0)
                elif buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= dist.get_world_size()
