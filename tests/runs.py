"""Runs that are stopped and go on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.engine import checkpoint
from foveal.engine import train as training
from foveal.engine.config import TrainConfig
from foveal.engine.train import train


def broken_and_whole(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, stop: int = 3
) -> tuple[checkpoint.Checkpoint, checkpoint.Checkpoint]:
    """The last checkpoints of a run that was stopped after an update of its first epoch, and of one that was not.

    Their tensors are the same, bit for bit.
    """
    unbroken = replace(config, output=f'{config.output}-unbroken')
    train(unbroken)
    original, made = training.stop_agreed, []

    def stop_agreed(step: int, *rest: Any) -> bool:
        made.append(step)
        return len(made) == stop or original(step, *rest)

    monkeypatch.setattr(training, 'stop_agreed', stop_agreed)
    stopped = train(config)
    assert (stopped.epoch, stopped.step) == (0, stop)
    train(replace(config, resume='auto'))
    broken, whole = (checkpoint.load(Path(run.output) / 'last.safetensors') for run in (config, unbroken))
    for ours, theirs in ((broken.weights, whole.weights), (broken.extra, whole.extra)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    return broken, whole
