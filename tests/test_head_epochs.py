"""Epochs in which only the classifier learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal
from foveal.engine import checkpoint
from foveal.engine import train as training
from foveal.engine.config import TrainConfig
from foveal.engine.train import train
from tests.images import write_folder

torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A run of four updates an epoch, the first epoch of which is the head's, of a model with batch norms."""
    return TrainConfig(
        data=str(write_folder(tmp_path / 'colours', per_class=16)), model='test_resnet', img_size=32, epochs=2,
        head_epochs=1, warmup_epochs=0.5, batch_size=12, lr=2e-3, workers=0, device='cpu', threads=1,
        output=str(tmp_path / 'run'), freeze=['layer1.*'],
    )  # fmt: skip


@pytest.mark.parametrize('opt', ['adamw', 'sgd', 'lamb'])
def test_the_head_learns_first_then_all_that_is_not_frozen(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opt: str
) -> None:
    # by smaller steps than that, norms' weights of 1 round to what they were
    config = replace(config, opt=opt, lr=0.1 if opt == 'sgd' else 2e-3)
    first = train(replace(config, stop_epoch=1))
    torch.manual_seed(config.seed)
    before = foveal.create_model('test_resnet', num_classes=3).state_dict()
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith('fc.')), name
    whole = train(replace(config, resume='auto', stop_epoch=0))
    still = {name for name, p in whole.model.named_parameters() if torch.equal(p, before[name])}
    assert still == {name for name, _ in whole.model.named_parameters() if name.startswith('layer1.')}

    # stopped in the middle of the head's epoch and of the other one, it is the same run
    original, made = training.stop_agreed, []

    def stop_agreed(step: int, *rest: Any) -> bool:
        made.append(step)
        return len(made) in (2, 8) or original(step, *rest)

    monkeypatch.setattr(training, 'stop_agreed', stop_agreed)
    broken = replace(config, output=str(tmp_path / 'broken'), stop_epoch=0)
    for _ in range(3):
        train(replace(broken, resume='auto'))
    ours, theirs = (checkpoint.load(Path(run.output) / 'last.safetensors') for run in (broken, config))
    for some, others in ((ours.weights, theirs.weights), (ours.extra, theirs.extra)):
        assert some.keys() == others.keys()
        assert all(torch.equal(some[name], others[name]) for name in some)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'head_epochs': 3}, r'head_epochs must be in \[0, epochs=2\], got 3'),
        ({'freeze': ['fc.*']}, 'freeze names all of it'),
        ({'shard': True}, 'leave one out'),
    ],
)
def test_what_cannot_be_is_refused(config: TrainConfig, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(replace(config, **options))
