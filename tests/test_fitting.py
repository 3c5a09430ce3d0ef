"""The batch that memory holds, and the numbers that a run computes with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foveal.data import Preprocess
from foveal.engine import checkpoint, fitting
from foveal.engine.build import build_optimizer
from foveal.engine.config import TrainConfig
from foveal.engine.distributed import Process
from foveal.engine.fitting import Step, allocated, largest_batch, memory_limit, search
from foveal.engine.goals import OneLabel
from foveal.engine.learning import build_task
from foveal.engine.precision import set_products, weights_dtype
from foveal.engine.train import train
from tests.runs import broken_and_whole

CPU = torch.device('cpu')
ALONE = Process(0, 1, CPU)
SIZE = (3, 32, 32)
GOAL = OneLabel(['a', 'b', 'c'])
torch.set_num_threads(1)


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return replace(config, batch_size='auto', loss='ce', smoothing=0.1)


class Wide(nn.Module):
    """Holds 3 x 32 x 32 x 4 bytes an image and layer for the backward pass, and has hardly a weight."""

    def __init__(self, layers: int = 50) -> None:
        super().__init__()
        self.layers, self.fc = layers, nn.Linear(3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = self.norm(images)
        for _ in range(self.layers):
            images = images.sigmoid()  # whose derivative is made of what it gave
        return self.fc(images.mean((2, 3)))


def step(config: TrainConfig, layers: int = 50) -> Step:
    return Step(config, build_task(config, GOAL, Wide(layers), Preprocess(SIZE), CPU), GOAL, SIZE, CPU)


# the batch


@pytest.mark.parametrize('limit', [0, 1, 2, 5, 7, 8, 9, 31, 100, 511, 1024])
def test_search_finds_an_eighth_of_the_limit(limit: int) -> None:
    asked: list[int] = []

    def fits(count: int) -> bool:
        asked.append(count)
        return count <= limit

    found = search(fits, 1024)
    assert found <= limit
    if limit < 2:
        assert found == 0
        return
    assert found == limit or (limit > 8 and found >= limit * 7 / 8 - 8 and found % 8 == 0)
    assert len(asked) < 16
    assert search(fits, 6) == min(6, limit)


def test_bytes_of_a_step_are_those_of_its_activations(config: TrainConfig) -> None:
    per_layer = 3 * 32 * 32 * 4
    for count in (4, 8):
        # the images, the norm's output and each layer's; what the backward pass holds for a moment comes on top
        held = allocated(step(config), count) / count / per_layer
        assert 52 <= held <= 57, held


def test_batch_is_what_the_limit_holds(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = step(config)
    for millions in (50, 200):
        monkeypatch.setattr(fitting, 'memory_limit', lambda m=millions: m * 10**6)
        found = largest_batch(config, made.task, GOAL, SIZE, 10**6, ALONE)
        assert found == largest_batch(config, made.task, GOAL, SIZE, 10**6, ALONE)
        share = allocated(made, found) / (fitting.SHARE * millions * 10**6)
        assert 0.8 < share <= 1.01, (found, share)
    # no more than there are images
    assert largest_batch(config, made.task, GOAL, SIZE, 30, ALONE) == 24
    monkeypatch.setattr(fitting, 'memory_limit', lambda: 1000)
    with pytest.raises(ValueError, match='memory does not hold 2 images of 3x32x32'):
        largest_batch(config, made.task, GOAL, SIZE, 30, ALONE)


def test_trial_leaves_no_trace(config: TrainConfig) -> None:
    task = step(config, layers=1).task.eval()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    largest_batch(config, task, GOAL, SIZE, 4, ALONE)
    assert torch.equal(torch.rand(1), expected)
    assert not task.training
    assert all(parameter.grad is None for parameter in task.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())


def test_full_device_is_found_by_trial(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = step(config, layers=1)
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: None)
    forward = Wide.forward

    def limited(model: Wide, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 40:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return forward(model, images)

    monkeypatch.setattr(Wide, 'forward', limited)
    assert search(made.fits, 1024) == 40
    monkeypatch.setattr(Wide, 'forward', lambda *_: pytest.fail('a bug is no lack of memory'))
    with pytest.raises(pytest.fail.Exception):
        made.fits(1)


def test_limit_is_the_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = memory_limit()
    (tmp_path / 'memory.max').write_text('123456\n')
    (tmp_path / 'none').write_text('max\n')
    monkeypatch.setattr(fitting, 'CGROUPS', tuple(str(tmp_path / name) for name in ('none', 'absent')))
    assert memory_limit() >= machine
    monkeypatch.setattr(fitting, 'CGROUPS', (str(tmp_path / 'none'), str(tmp_path / 'memory.max')))
    assert memory_limit() == 123456
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert memory_limit() == 61728


def test_found_batch_is_kept_when_a_run_goes_on(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, 'MOST', 16)
    run = train(replace(config, stop_epoch=1))
    assert (run.config.batch_size, run.global_batch) == (16, 16)
    monkeypatch.setattr(fitting, 'MOST', 8)
    resumed = train(replace(config, resume='auto'))
    assert (resumed.epoch, resumed.config.batch_size) == (2, 16)


# the numbers


@pytest.mark.parametrize('precision', ['pure-bf16', 'pure-fp16', 'medium'])
def test_runs_in_every_precision_learn(config: TrainConfig, precision: str) -> None:
    options: dict[str, Any] = {'precision': precision, 'batch_size': 12, 'opt': 'adamwlegacy', 'ema': 0.9, 'epochs': 4}
    run = train(replace(config, **options))
    assert run.history[-1]['val_top1'] > 60
    weights = checkpoint.load(config.output).weights
    assert {tensor.dtype for tensor in weights.values()} == {weights_dtype(precision)}
    assert run.ema is not None
    assert {tensor.dtype for tensor in run.ema.model.parameters()} == {torch.float32}
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in states if isinstance(value, torch.Tensor)} == {torch.float32}
    assert torch.get_float32_matmul_precision() == ('medium' if precision == 'medium' else 'highest')
    set_products('fp32')


def test_pure_run_that_goes_on_equals_an_unbroken_one(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(config, precision='pure-bf16', opt='lion', lr=2e-4, batch_size=12)
    _, whole = broken_and_whole(asked, monkeypatch)
    assert whole.weights['head.fc.weight'].dtype == torch.bfloat16


def test_small_steps_of_bfloat16_weights_add_up(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    moved = {}
    for opt in ('adamw', 'lion'):
        torch.manual_seed(0)
        model = nn.Linear(100, 100, bias=False).to(torch.bfloat16)
        nn.init.ones_(model.weight)
        # a thousandth of a weight, of which bfloat16 keeps 8 bits
        asked = replace(config, precision='pure-bf16', opt=opt, lr=1e-3, weight_decay=0.0)
        optimizer = build_optimizer(asked, model)
        for _ in range(10):
            model.weight.grad = torch.ones_like(model.weight)
            optimizer.step()
        moved[opt] = 1 - model.weight.float().mean().item()
    # ten thousand draws, of which each is off by 1/256 at most
    assert moved['lion'] == pytest.approx(0.01, abs=1e-3)
    assert moved['adamw'] == 0
    assert 'opt adamw is torch' in capsys.readouterr().out
