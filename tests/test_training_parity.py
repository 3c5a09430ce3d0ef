"""50 updates of the whole engine against the same made of timm's parts: same images, first weights and mixing.

Both are float32 on a CPU, with sums in different orders; what that leaves after 50 updates is below 1e-5 of a tensor's
largest value, and of the loss.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foveal import create_model
from foveal.data import Mixup
from foveal.data.mixup import Mixture
from foveal.data.sampler import BatchSampler
from foveal.engine import checkpoint
from foveal.engine import train as training
from foveal.engine.config import TrainConfig
from tests import reference
from tests.deterministic import fill
from tests.make_training_reference import BATCH, CLASSES, SIZE, UPDATES, digest, images, labels

TOLERANCE = 1e-5
ROWS = {row['case']['model']: row for row in reference.rows('training')}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, each where the sampler's order finds it at its turn."""
    plans = list(BatchSampler(UPDATES * BATCH, BATCH, is_training=True, seed=0))
    order = np.concatenate([plan.addresses[:, 1] for plan in plans])
    assert sorted(order) == list(range(UPDATES * BATCH))
    pixels, numbers = np.empty_like(images()), np.empty_like(labels())
    pixels[order], numbers[order] = images(), labels()
    file = tmp_path_factory.mktemp('data') / 'noise.npz'
    np.savez(file, train_images=pixels, train_labels=numbers, val_images=pixels[:16], val_labels=numbers[:16])
    return file


def distance(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> dict[str, float]:
    """Largest difference of each tensor, relative to its largest number."""
    assert ours.keys() == theirs.keys()
    pairs = {name: (np.array(ours[name]), np.array(theirs[name])) for name in ours}
    return {name: float(abs(a - b).max() / max(abs(b).max(), 1e-30)) for name, (a, b) in pairs.items()}


@pytest.mark.parametrize('name', ROWS)
def test_a_training_is_the_same(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, losses = ROWS[name], []
    case: dict[str, Any] = row['case']
    model = fill(create_model(name, num_classes=CLASSES, **case['model_options']))
    save_file(model.state_dict(), tmp_path / 'start.safetensors')
    shares, made = iter(row['shares']), training.update

    def draw(*_: Any) -> Mixture:
        return Mixture(np.array([next(shares)]), np.array([False]), np.zeros((1, 4), int))

    def update(*arguments: Any) -> torch.Tensor:
        losses.append(made(*arguments))
        return losses[-1]

    monkeypatch.setattr(Mixup, 'draw', draw)
    monkeypatch.setattr(training, 'update', update)
    config = TrainConfig(
        data=str(data), checkpoint=str(tmp_path / 'start.safetensors'), output=str(tmp_path / 'run'), img_size=SIZE,
        no_aug=True, crop_pct=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), batch_size=BATCH, epochs=1, workers=0,
        device='cpu', threads=1, seed=0, **case,
    )  # fmt: skip
    run = training.train(config)
    assert len(losses) == UPDATES
    assert torch.stack(losses).numpy() == pytest.approx(row['losses'], rel=TOLERANCE)
    assert run.ema is not None
    for ours, theirs in ((run.model, 'weights'), (run.ema.model, 'average')):
        wrong = distance(digest(ours.state_dict().items()), row[theirs])
        assert not {key: value for key, value in wrong.items() if value > TOLERANCE}
    assert checkpoint.load(Path(config.output), 'last').weights.keys() == row['weights'].keys()
