"""The largest batch that memory holds, found before a run by making steps and throwing them away."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from foveal.engine import distributed
from foveal.engine.checkpoint import Checkpoint
from foveal.engine.config import TrainConfig
from foveal.engine.goals import Goal
from foveal.engine.halving import is_out_of_memory
from foveal.engine.precision import autocast, weights_dtype
from foveal.engine.tasks import Task

LEAST = 2  # images: of a single one, batch norms of the last maps have no statistics
MOST = 1024  # images a step and process: beyond it published recipes scale over devices
SHARE = 0.8  # of the memory: loaders, the evaluation and fragments have the rest
CGROUPS = ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes')
# copies of the weights that come with the first update: Adam's two means, and the running mean of the weights
COPIES = 2


def keep_batch_size(config: TrainConfig, saved: Checkpoint | None) -> TrainConfig:
    """A run that goes on keeps the batch that was found for it."""
    if config.batch_size != 'auto' or saved is None or 'run' not in saved.header:
        return config
    return replace(config, batch_size=saved.header['run']['config']['batch_size'])


def largest_batch(
    config: TrainConfig, task: Task, goal: Goal, size: tuple[int, ...], images: int, process: distributed.Process
) -> int:
    """The largest batch whose gradients can be made, the same for all processes.

    On CUDA by trial. On the CPU, where too much memory ends a process instead of raising, by what steps of a few images
    allocate, carried on to the share of the machine's memory that the process has. A task is left as it was.

    Args:
        config: Says what a step is.
        task: On its device.
        goal: Says what targets look like.
        size: (channels, height, width) of an image.
        images: Training images: a process gets no more than its part.
        process: This process.

    Returns:
        Images, at most MOST; from 8 on a multiple of 8.

    Raises:
        ValueError: Not even two images fit, or batch norms that talk to other processes.
    """
    if config.sync_bn and process.world_size > 1:
        raise ValueError('batch_size auto tries in each process by itself, which sync_bn cannot; give a number')
    most = max(LEAST, min(MOST, images // process.world_size))
    with as_it_was(task):
        step = Step(config, task, goal, size, process.device)
        fits = step.fits if process.device.type == 'cuda' else Extrapolation(step, most).fits
        found = search(fits, most)
    if dist.is_initialized():
        smallest = torch.tensor(found, device=process.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        found = int(smallest)
    if not found:
        raise ValueError(f'batch_size auto: memory does not hold {LEAST} images of {"x".join(map(str, size))}')
    return found


def search(fits: Callable[[int], bool], most: int) -> int:
    """The largest size from LEAST to `most` that fits, to an eighth; 0 where none does. Larger sizes must need more."""
    low, high = 0, LEAST
    while low < most and fits(high):
        low, high = high, min(2 * high, most)
    while low and high - low > max(1, low // 8):
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low if low < 8 else low // 8 * 8


@contextmanager
def as_it_was(task: Task) -> Iterator[None]:
    """Trains the task within the block; behind it statistics, mode and random numbers are those before."""
    kept, training = [buffer.clone() for buffer in task.buffers()], task.training
    with torch.random.fork_rng():
        task.train()
        try:
            yield
        finally:
            task.zero_grad()
            task.train(training)
            for buffer, old in zip(task.buffers(), kept, strict=True):
                buffer.copy_(old)


class Step:
    """Gradients of a batch of noise, as a run makes them.

    Args:
        config, task, goal, size: As of `largest_batch`.
        device: Where it runs.
    """

    def __init__(
        self, config: TrainConfig, task: Task, goal: Goal, size: tuple[int, ...], device: torch.device
    ) -> None:
        self.config, self.task, self.goal, self.size, self.device = config, task, goal, size, device
        weights = sum(p.numel() for p in task.parameters() if p.requires_grad)
        # in float32, whatever the weights are
        self.reserve = 4 * weights * (COPIES + bool(config.ema))

    def __call__(self, count: int) -> None:
        """Makes the gradients of `count` images, with all their views."""
        config, classes = self.config, len(self.goal.classes)
        count *= max(1, config.aug_splits)
        images = torch.randn(count, *self.size, device=self.device).to(weights_dtype(config.precision))
        rows = self.goal.kind != 'class' or bool(config.mixup or config.cutmix or config.cutmix_minmax)
        targets: Tensor = torch.zeros(count, classes) if rows else torch.zeros(count, dtype=torch.int64)
        with autocast(self.device, config.precision):
            loss = self.task(images, targets.to(self.device))
        loss.backward()

    def fits(self, count: int) -> bool:
        """Whether a CUDA device holds a step beside what is to come."""
        held = []
        try:
            held.append(torch.empty(self.reserve, dtype=torch.uint8, device=self.device))
            self(count)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            held.clear()
            self.task.zero_grad()
            torch.cuda.empty_cache()
        return True


class Extrapolation:
    """What steps will allocate, from what small ones do.

    Args:
        step: To be made.
        most: Images beyond which nobody will ask.
    """

    def __init__(self, step: Step, most: int) -> None:
        self.limit = SHARE * memory_limit() - step.reserve - sum(p.nbytes for p in step.task.parameters())
        count, peak = LEAST, allocated(step, LEAST)
        # once the images and no longer the gradients make the peak, it grows by the same with each of them
        while True:
            twice = allocated(step, 2 * count)
            self.each, self.count, self.peak = (twice - peak) / count, 2 * count, twice
            if twice > 1.5 * peak or 2 * count >= most:
                break
            count, peak = 2 * count, twice

    def fits(self, count: int) -> bool:
        """Whether memory holds a step."""
        return self.peak + self.each * (count - self.count) <= self.limit


def allocated(step: Step, count: int) -> int:
    """The most bytes that a step holds at a time on the CPU, by the allocator's own account."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(count)
    step.task.zero_grad()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    # what was given out and taken back, in the order of time
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def memory_limit() -> int:
    """Bytes that this process may use: of the machine or its control group, shared by the processes on it."""
    limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
    for path in map(Path, CGROUPS):
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits) // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
