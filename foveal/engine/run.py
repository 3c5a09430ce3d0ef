"""The state of a training run, and how it is saved and resumed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveal.data import Preprocess
from foveal.engine import checkpoint
from foveal.engine.config import TrainConfig, to_plain
from foveal.scheduler import Scheduler

# what may change when a run goes on: where things are and how they are computed, not what
FREE = {
    *('data', 'data_root', 'download', 'class_map', 'workers', 'output', 'resume', 'save_updates'),
    *('pretrained', 'checkpoint', 'epochs', 'batch_size', 'grad_accum', 'grad_checkpointing'),
    *('device', 'precision', 'channels_last', 'deterministic', 'threads'),
}


@dataclass
class Run:
    """All that a run is: what it was asked, what it trains and how far it has come.

    Random numbers have no state to keep: each update's are decided by (seed, epoch, step, rank), each sample's by
    (seed, epoch, index).

    Attributes:
        config: What was asked.
        model: The model that is trained.
        optimizer, scheduler: What trains it.
        classes: Names of the classes.
        preprocess: What the model's input needs.
        model_options: Options that the model was built with, its number of classes aside.
        global_batch: Images an update, over all processes.
        epoch: Epochs done.
        step: Updates done in the current epoch.
        losses: Mean loss of each of those updates, on this process.
        history: One row an epoch done.
        best: Highest top-1 so far.
    """

    config: TrainConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    classes: list[str]
    preprocess: Preprocess
    model_options: dict[str, Any]
    global_batch: int
    epoch: int = 0
    step: int = 0
    losses: list[torch.Tensor] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None

    def identity(self) -> dict[str, Any]:
        """What a checkpoint tells about its model."""
        return {
            'model': self.config.model,
            'model_options': self.model_options,
            'classes': self.classes,
            'preprocess': self.preprocess.to_dict(),
            'epoch': self.epoch,
            'metrics': self.history[-1] if self.history else {},
        }

    def save(self, path: Path) -> None:
        """Writes all of the run, whole or not at all."""
        tensors, rest = checkpoint.pack_optimizer(self.optimizer)
        if self.losses:
            tensors[checkpoint.LOSSES] = torch.stack(self.losses)
        state = {
            'config': to_plain(self.config),
            'optimizer': rest,
            'global_batch': self.global_batch,
            'step': self.step,
            'history': self.history,
            'best': self.best,
        }
        checkpoint.save(path, self.model, {**self.identity(), 'run': state}, tensors)

    def save_weights(self, path: Path) -> None:
        """Writes the model alone."""
        checkpoint.save(path, self.model, self.identity(), {})

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Takes over a saved run's state.

        Raises:
            ValueError: Weights without a run's state, or a run of another model, data or recipe.
        """
        self.check_same(saved)
        state = saved.header['run']
        self.model.load_state_dict(saved.weights)
        checkpoint.unpack_optimizer(self.optimizer, saved.extra, state['optimizer'])
        self.epoch, self.step = saved.header['epoch'], state['step']
        losses = saved.extra.get(checkpoint.LOSSES)
        self.losses = [] if losses is None else list(losses.to(next(self.model.parameters()).device))
        self.history, self.best = state['history'], state['best']

    def check_same(self, saved: checkpoint.Checkpoint) -> None:
        header = saved.header
        if 'run' not in header:
            raise ValueError(f'{saved.path} holds weights only; resume from the last.safetensors of its run')
        if header['classes'] != self.classes:
            raise ValueError(
                f'{saved.path} has the {len(header["classes"])} classes {shorten(header["classes"])}, '
                f'the data have {len(self.classes)}: {shorten(self.classes)}'
            )
        old, new = header['run']['config'], to_plain(self.config)
        differing = [key for key in new if key not in FREE and old.get(key) != new[key]]
        if differing:
            changes = '; '.join(f'{key}: {old.get(key)!r} there, {new[key]!r} here' for key in differing)
            raise ValueError(f'{saved.path} was trained with other options ({changes}); resume with its own')
        if header['run']['global_batch'] != self.global_batch:
            raise ValueError(
                f'{saved.path} made updates of {header["run"]["global_batch"]} images, here {self.global_batch}; '
                'choose batch_size and grad_accum so that batch_size x grad_accum x processes is the same'
            )


def shorten(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ', '.join(names[:5]) + (' ...' if len(names) > 5 else '')
