"""One process or several: torchrun starts them, this finds them."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


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
    """Joins the processes that torchrun started, over nccl on CUDA and gloo elsewhere; alone without torchrun.

    Args:
        device: auto, or a device of torch; under torchrun each process takes the CUDA device of its local rank.
        threads: CPU threads of this process; 0 leaves torch's choice.

    Returns:
        This process.

    Raises:
        ValueError: No such device here.
    """
    if threads:
        torch.set_num_threads(threads)
    name = ('cuda' if torch.cuda.is_available() else 'cpu') if device == 'auto' else device
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {device!r} cannot be used here: {str(error).splitlines()[0]}') from error
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return Process(0, 1, chosen)
    if chosen.type == 'cuda':
        chosen = torch.device('cuda', int(os.environ['LOCAL_RANK']))
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        dist.init_process_group('nccl' if chosen.type == 'cuda' else 'gloo')
    return Process(dist.get_rank(), dist.get_world_size(), chosen)


def finish() -> None:
    """Leaves the group of processes, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def wait() -> None:
    """Returns when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def average_buffers(model: nn.Module) -> None:
    """Batch-norm statistics, which each process gathers from its own images, become their mean over all processes."""
    if dist.is_initialized():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= dist.get_world_size()
