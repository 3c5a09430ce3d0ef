"""The folder that a run leaves, without the run."""

from pathlib import Path

import torch

from foveal import create_model
from foveal.data import resolve_data_config
from foveal.engine import checkpoint
from tests.images import COLOURS


def write_run(folder: Path, model: str = 'test_convnext', img_size: int = 32) -> Path:
    """Writes the checkpoints of a model of COLOURS with new weights: best.safetensors, and last.safetensors with other
    weights as their running mean."""
    torch.manual_seed(0)
    first, mean = (create_model(model, num_classes=len(COLOURS)) for _ in range(2))
    header = {
        'model': model,
        'model_options': {},
        'classes': sorted(COLOURS),
        'preprocess': resolve_data_config({'img_size': img_size}, model=first).to_dict(),
        'epoch': 1,
        'metrics': {},
    }
    folder.mkdir(parents=True)
    checkpoint.save(folder / 'best.safetensors', first, header, {})
    averages = {checkpoint.EMA + name: tensor for name, tensor in mean.state_dict().items()}
    checkpoint.save(folder / 'last.safetensors', first, header, averages)
    return folder
