"""What several files of tests train on, and the run that most of them begin with."""

from pathlib import Path

import pytest
import torch

from foveal.engine.config import TrainConfig
from tests.images import write_folder

# Autograd looks for devices at its first backward pass. After inductor was imported it finds some, starts threads for
# them, and processes that a test forks cannot compute gradients any more.
torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of coloured images."""
    return write_folder(tmp_path_factory.mktemp('data') / 'colours', per_class=16)


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> TrainConfig:
    """A run of two epochs of four updates, of a model without batch statistics, so that ways to cut batches compare."""
    return TrainConfig(
        data=str(folder), model='test_convnext', img_size=32, epochs=2, warmup_epochs=0.5, batch_size=12, lr=2e-3,
        workers=0, device='cpu', output=str(tmp_path / 'run'), threads=1,
    )  # fmt: skip
