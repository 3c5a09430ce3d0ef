"""What a run does about numbers that are not finite, and about a batch that memory does not hold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foveal.data import Loader
from foveal.data.loader import Batch
from foveal.engine import distributed
from foveal.engine.distributed import local
from foveal.engine.halving import is_out_of_memory
from foveal.engine.precision import autocast
from foveal.engine.run import Run, shorten

# updates between two looks where a look waits for the device
LOOK_EVERY = 10
ADVICE = 'try a lower lr, a longer warm-up or clip_grad'


@dataclass(frozen=True)
class Suspect:
    """A batch as the model saw it."""

    batch: Batch
    images: Tensor
    targets: Tensor
    loss: Tensor


class Guard:
    """Watches the loss and the gradients of every update.

    On the CPU a look costs no waiting, so an update that is not finite is never made. So it is where such updates are
    skipped, at the price of one wait an update (as with float16's scaler): optimizers have no way to decide on the
    device. Otherwise the device notes what it finds, and `look` asks every few updates. Gradients that overflow under
    a loss scale are the scaler's affair.

    Args:
        run: What is watched.
        loader: Knows the names of the samples.
        process: This process.

    Attributes:
        at_once: Whether each update is decided before it is made.
        skipped: Whether the latest update was not made.
    """

    def __init__(self, run: Run, loader: Loader, process: distributed.Process):
        self.run, self.loader, self.process = run, loader, process
        self.at_once = process.device.type == 'cpu' or run.config.nonfinite == 'skip'
        self.skipped = False
        self.flags: list[Tensor] = []
        self.suspect: Suspect | None = None
        self.buffers: list[Tensor] = []

    def begin(self) -> None:
        """To be called before an update: keeps the statistics that its forward passes change."""
        self.skipped, self.suspect = False, None
        if self.run.config.nonfinite == 'skip':
            self.buffers = [buffer.clone() for buffer in self.run.model.buffers()]

    def note(self, suspect: Suspect) -> None:
        """To be called after each batch of an update: remembers the first whose loss is not finite, or the last."""
        if self.at_once and (self.suspect is None or self.suspect.loss.isfinite()):
            self.suspect = suspect

    def refuses(self, loss: Tensor) -> bool:
        """Whether an update must not be made; to be called when its gradients are there, before they are clipped.

        Args:
            loss: Of the update, on this process.

        Raises:
            FloatingPointError: The loss or a gradient is not finite, and the run stops at that.
        """
        flag = ~loss.isfinite()
        if not self.run.scaler.is_enabled():
            flag = flag | ~all_finite([local(p.grad) for p in self.run.task.parameters() if p.grad is not None])
        if not self.at_once:
            self.flags.append(flag)
            return False
        if not distributed.total(flag.float()).item():
            return False
        found, config = self.explain(), self.run.config
        if config.nonfinite == 'stop':
            raise FloatingPointError(f'{found}; the update was not made; {ADVICE}, or nonfinite: skip')
        if self.run.skipped >= config.nonfinite_limit:
            raise FloatingPointError(f'{found}; {self.run.skipped} updates were skipped before it; {ADVICE}')
        for buffer, kept in zip(self.run.model.buffers(), self.buffers, strict=True):
            buffer.copy_(kept)
        self.run.optimizer.zero_grad()
        self.skipped = True
        self.run.skipped += 1
        if self.process.is_main or not loss.isfinite():
            print(f'{found}; update skipped ({self.run.skipped} of at most {config.nonfinite_limit})', flush=True)
        return True

    def look(self, step: int, now: bool) -> int | None:
        """Asks the device what it has noted.

        Args:
            step: Updates done in the epoch.
            now: Ask even if the time has not come.

        Returns:
            The number in the epoch of the first update that was not finite, from 0; None where all were.
        """
        if not self.flags or not (now or len(self.flags) >= LOOK_EVERY):
            return None
        flags = distributed.total(torch.stack(self.flags).float()).tolist()
        self.flags = []
        return next((step - len(flags) + i for i, flag in enumerate(flags) if flag), None)

    def explain(self) -> str:
        """Names the update, the batch, its samples and the first module that is not finite."""
        run, suspect = self.run, self.suspect
        assert suspect is not None
        said = f'epoch {run.epoch + 1}, update {run.step + 1}: '
        names = partial(sample_names, self.loader, suspect.batch.addresses)
        elsewhere = distributed.total((~suspect.loss.isfinite()).float()).item() > 0
        if suspect.loss.isfinite():
            if elsewhere:
                return f'{said}the loss of another process is not finite'
            grads = [(name, local(p.grad)) for name, p in run.task.named_parameters() if p.grad is not None]
            wrong = [name for name, grad in grads if not all_finite([grad])] or ['what another process holds']
            return f'{said}the gradient of {shorten(wrong)} is not finite (last batch: {names()})'
        said += f'the loss became {suspect.loss.item()}'
        if (rows := bad_rows(suspect.images)).any():
            return f'{said}; images that are not finite: {names(rows)}'

        if run.shards:  # others do not compute with this process now
            return f'{said}; batch of {names()}'

        def forward() -> None:
            # the task's own method: hooks do not fire in what is compiled
            with autocast(self.process.device, run.config.precision):
                run.task.forward(suspect.images, suspect.targets)

        name, output = first_nonfinite(run.model, forward)
        if output is None:
            return f'{said}, though the output of the model is finite; batch of {names()}'
        whose = names(bad_rows(output)) if len(output) == len(suspect.images) else names()
        kind = type(run.model.get_submodule(name)).__name__
        return f'{said}; first not finite: the output of {name} ({kind}), for {whose}'


@torch.no_grad()
def all_finite(tensors: list[Tensor]) -> Tensor:
    """Whether all of some tensors are finite, and their norms in float32: a boolean on their device, nothing waits."""
    # resnet50 on two cores: 4 ms; by `isfinite` 30, by the greatest size of an element 37. A gradient whose norm
    # overflows, above 1.8e19, is past saving too.
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32)
    return torch.stack(norms).isfinite().all()


def bad_rows(values: Tensor) -> Tensor:
    """Which of the rows of a tensor (batch, ...) hold something that is not finite: boolean (batch,)."""
    return ~values.flatten(1).isfinite().all(1)


def sample_names(loader: Loader, addresses: Tensor, rows: Tensor | None = None) -> str:
    """The names of a batch's samples, for a message.

    Args:
        loader: Where they come from.
        addresses: int64 (batch, 3).
        rows: Boolean (batch,), those that are meant; all where absent.
    """
    chosen = addresses if rows is None else addresses[rows.cpu()]
    return shorten([loader.dataset.name(index) for index in chosen[:, 1].tolist()])


@torch.no_grad()
def first_nonfinite(model: nn.Module, forward: Callable[[], Any]) -> tuple[str, Tensor | None]:
    """Runs a model and finds the first module that gives something that is not finite.

    Args:
        model: Whose modules are looked at.
        forward: Runs it.

    Returns:
        The module's name, and its output; '' and None where all is finite.
    """
    found: list[tuple[str, Tensor]] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        for value in output if isinstance(output, (tuple, list)) else (output,):
            if not found and isinstance(value, Tensor) and not value.isfinite().all():
                found.append((name, value))

    hooks = [module.register_forward_hook(partial(look, name)) for name, module in model.named_modules()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ('', None)


def in_parts(run: Run, images: Tensor, targets: Tensor, learn: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """Learns from a batch, in parts where memory does not hold all of it; their gradients add up to the batch's.

    The size that did fit is kept for the rest of the run. Batch norms see the parts. Views of an image stay together.

    Args:
        run: Whose memory it is.
        images, targets: A batch.
        learn: Adds the gradients of images and targets, times a factor, and returns the loss, times that factor.

    Returns:
        The loss of the batch.

    Raises:
        RuntimeError: Memory does not hold a single image; or it gave out where a part of the gradients cannot be made
            again: those of other batches are added, or are on their way to other processes.
    """
    alone = not dist.is_initialized() and all(parameter.grad is None for parameter in run.task.parameters())
    views = max(1, run.config.aug_splits)
    while True:
        size = min(run.fitting or len(images), len(images))
        try:
            losses = [
                learn(some, their, len(some) / len(images))
                for some, their in zip(parts(images, size, views), parts(targets, size, views), strict=True)
            ]
            return torch.stack(losses).sum()
        except RuntimeError as error:
            if not is_out_of_memory(error) or size <= views or not alone:
                raise
        # outside the handler: the error holds the tensors of the failed pass
        run.optimizer.zero_grad()
        run.fitting = -(-size // 2)
        if images.device.type == 'cuda':
            torch.cuda.empty_cache()
        print(f'out of memory at {size} images; going on with {run.fitting} at a time', flush=True)


def parts(rows: Tensor, size: int, views: int) -> list[Tensor]:
    """A batch's rows in parts of about so many; each has all views, which lie one behind the other, of its images."""
    if views == 1:
        return list(rows.split(size))
    return [part.flatten(0, 1) for part in rows.unflatten(0, (views, -1)).split(max(1, size // views), 1)]
