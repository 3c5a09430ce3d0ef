"""The state of a training run, and how it is saved and resumed."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from foveal.data import Preprocess
from foveal.engine import checkpoint
from foveal.engine.config import TrainConfig, to_plain
from foveal.engine.ema import Ema
from foveal.engine.goals import Goal
from foveal.engine.sharding import Shards
from foveal.engine.shards import ShardSnapshot, restored, snapshot_shards
from foveal.engine.tasks import Task
from foveal.layers.split_norm import of_first_part
from foveal.scheduler import Scheduler

# what may change when a run goes on: where things are and how they are computed, not what
FREE = {
    *('data', 'data_root', 'download', 'class_map', 'workers', 'output', 'resume', 'save_updates'),
    *('input_key', 'target_key', 'val_num_samples'),
    *('bad_samples', 'bad_limit', 'nonfinite', 'nonfinite_limit'),
    *('pretrained', 'checkpoint', 'epochs', 'batch_size', 'grad_accum', 'grad_checkpointing', 'show_groups'),
    *('device', 'precision', 'compile', 'channels_last', 'deterministic', 'threads', 'shard'),
    *('keep', 'milestones', 'stop_epoch', 'log_updates', 'val_batch_size', 'val_interval'),
    *('track', 'track_project', 'track_name', 'track_options'),
}


@dataclass
class Run:
    """All that a run is: what it was asked, what it trains and how far it has come.

    Random numbers have no state to keep: each update's are decided by (seed, epoch, step, rank), each sample's by
    (seed, epoch, index).

    Attributes:
        config: What was asked.
        task: The model that is trained, and what it learns.
        ema: Running mean of its weights; None for none.
        scaler: Scales the loss, in float16.
        optimizer, scheduler: What trains it; a schedule of none is None.
        total_epochs: To its end, cycles and cooldown of the schedule included.
        goal: What is learnt of the images.
        preprocess: What the model's input needs.
        model_options: Options that the model was built with, its number of classes aside.
        global_batch: Images an update, over all processes.
        epoch: Epochs done.
        step: Updates done in the current epoch.
        marks: Where the loaders of all processes go on reading a stream after them, when that was last asked.
        losses: Mean loss of each of those updates, on this process; NaN of those that were skipped.
        history: One row an epoch done.
        best: Best value of the configuration's metric so far.
        skipped: Updates not made because their numbers were not finite.
        fitting: Images that memory holds at a time, where a batch did not fit.
        shards: How tensors are shared out over the processes; None where each has all.
    """

    config: TrainConfig
    task: Task
    ema: Ema | None
    scaler: torch.amp.GradScaler
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    total_epochs: int
    goal: Goal
    preprocess: Preprocess
    model_options: dict[str, Any]
    global_batch: int
    epoch: int = 0
    step: int = 0
    marks: list[list[int]] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    skipped: int = 0
    fitting: int | None = None
    shards: Shards | None = None

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.task.model

    @property
    def last_epoch(self) -> int:
        """Epochs to be done by now: all, or as many as are asked for of them."""
        return min(self.total_epochs, self.config.stop_epoch or self.total_epochs)

    @property
    def classes(self) -> list[str]:
        """Names of what the outputs are about."""
        return self.goal.classes

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the running mean where there is one."""
        return self.ema.judged(self.model) if self.ema else self.model

    def identity(self) -> dict[str, Any]:
        """What a checkpoint tells about its model."""
        return {
            'model': self.config.model,
            'model_options': self.model_options,
            'classes': self.classes,
            'task': {**self.goal.to_dict(), 'target_format': self.config.target_format or self.goal.target_format},
            'preprocess': self.preprocess.to_dict(),
            'epoch': self.epoch,
            'metrics': self.history[-1] if self.history else {},
        }

    def snapshot(self) -> checkpoint.Snapshot | ShardSnapshot:
        """A copy of all of the run, to be written."""
        tensors, rest = checkpoint.pack_optimizer(self.optimizer)
        if self.losses:
            tensors[checkpoint.LOSSES] = torch.stack(self.losses)
        tensors |= {checkpoint.TASK + name: tensor for name, tensor in self.beside().items()}
        if self.ema:
            averages = self.ema.model.state_dict()
            tensors |= {checkpoint.EMA + name: tensor for name, tensor in averages.items()}
        state = {
            'config': to_plain(self.config),
            'optimizer': rest,
            'scheduler': self.scheduler.state_dict() if self.scheduler else None,
            'scaler': self.scaler.state_dict(),
            'global_batch': self.global_batch,
            'step': self.step,
            'marks': self.marks,
            'history': self.history,
            'best': self.best,
            'skipped': self.skipped,
            'fitting': self.fitting,
        }
        weights, header = self.model.state_dict(), {**self.identity(), 'run': state}
        if self.shards:
            return snapshot_shards(weights, header, tensors, self.shards.writers)
        return checkpoint.snapshot(weights, header, tensors)

    def snapshot_weights(self) -> checkpoint.Snapshot:
        """A copy of the judged model alone."""
        weights = of_first_part(self.judged.state_dict())
        return checkpoint.snapshot(self.shards.whole(weights) if self.shards else weights, self.identity(), {})

    def beside(self) -> dict[str, torch.Tensor]:
        """What learns besides the model."""
        return {name: p for name, p in self.task.named_parameters() if not name.startswith('model.')}

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Takes over a saved run's state.

        Raises:
            ValueError: Weights without a run's state, or a run of another model, data or recipe.
        """
        self.check_same(saved)
        saved = restored(saved, self)
        self.goal = self.goal.resumed(saved.header)
        state = saved.header['run']
        self.model.load_state_dict(saved.weights)
        for name, parameter in self.beside().items():
            parameter.data.copy_(saved.extra[checkpoint.TASK + name])
        if self.ema:
            averages = {
                k.removeprefix(checkpoint.EMA): v for k, v in saved.extra.items() if k.startswith(checkpoint.EMA)
            }
            self.ema.model.load_state_dict(averages)
        checkpoint.unpack_optimizer(self.optimizer, saved.extra, state['optimizer'])
        if self.scheduler:
            self.scheduler.load_state_dict(state['scheduler'])
        self.scaler.load_state_dict(state['scaler'])
        self.epoch, self.step, self.marks = saved.header['epoch'], state['step'], state.get('marks', [])
        losses = saved.extra.get(checkpoint.LOSSES)
        self.losses = [] if losses is None else list(losses.to(next(self.model.parameters()).device))
        self.history, self.best = state['history'], state['best']
        self.skipped, self.fitting = state.get('skipped', 0), state.get('fitting')

    def check_same(self, saved: checkpoint.Checkpoint) -> None:
        header = saved.header
        if 'run' not in header:
            raise ValueError(f'{saved.path} holds weights only; resume from the last.safetensors of its run')
        if header['classes'] != self.classes:
            raise ValueError(
                f'{saved.path} has the {len(header["classes"])} classes {shorten(header["classes"])}, '
                f'the data have {len(self.classes)}: {shorten(self.classes)}'
            )
        # an option that there was not when the checkpoint was written is as it is by default
        old, new = to_plain(TrainConfig()) | header['run']['config'], to_plain(self.config)
        differing = [key for key in new if key not in FREE and old[key] != new[key]]
        if differing:
            changes = '; '.join(f'{key}: {old[key]!r} there, {new[key]!r} here' for key in differing)
            raise ValueError(f'{saved.path} was trained with other options ({changes}); resume with its own')
        if header['run']['global_batch'] != self.global_batch:
            raise ValueError(
                f'{saved.path} made updates of {header["run"]["global_batch"]} images, here {self.global_batch}; '
                'choose batch_size and grad_accum so that batch_size x grad_accum x processes is the same'
            )


def shorten(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ', '.join(names[:5]) + (' ...' if len(names) > 5 else '')
