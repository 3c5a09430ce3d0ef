"""Writes tests/reference/training.jsonl.xz: 50 updates made of timm's parts, measured from outside.

    PYTHON_WITH_TIMM tests/make_training_reference.py

A row: the case, the shares that mixup drew, the loss of each update, and `digest` of the weights and of their average.
Measured on timm 1.0.31 under torch 2.15.
"""

import json
import lzma
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.deterministic import fill, noise

FILE = Path(__file__).parent / 'reference' / 'training.jsonl.xz'
UPDATES, BATCH, SIZE, CLASSES = 50, 8, 64, 10
SHOWN = 16  # elements of a tensor that are kept


@dataclass(frozen=True)
class Case:
    """A training whose every number is given: of its images, first weights, and options."""

    model: str
    model_options: dict[str, Any]
    opt: str
    lr: float
    weight_decay: float
    clip_grad: float
    ema: float = 0.9
    smoothing: float = 0.1
    mixup: float = 0.8
    warmup_epochs: float = 0.1  # of the one epoch
    warmup_lr: float = 1e-5
    sched_options: Mapping[str, Any] = field(default_factory=lambda: {'warmup_prefix': False})


# Batch statistics of 8 images multiply a difference from update to update: with timm against itself in another memory
# format, losses after 50 updates differ by 9e-2 at a rate of 0.02, 1e-3 at 0.002 and 2e-5 at 0.0002. The
# gradient of an attention's key bias is nothing but rounding, which AdamW blows up to steps of the whole rate.
CASES = (
    Case('resnet18', {}, 'sgd', lr=5e-5, weight_decay=1e-4, clip_grad=2.0),
    Case('vit_tiny_patch16_224', {'img_size': SIZE}, 'adamw', lr=1e-4, weight_decay=0.05, clip_grad=1.0),
)


def images() -> np.ndarray:
    """uint8 (count, height, width, 3), in the order in which they come."""
    shape = (UPDATES * BATCH, SIZE, SIZE, 3)
    return ((noise('training', shape) + 1) * 127.5).to(torch.uint8).numpy()


def labels() -> np.ndarray:
    """Class of each image."""
    return np.arange(UPDATES * BATCH) * 7 % CLASSES


def digest(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, list[float]]:
    """Of each tensor: its norm, its product with fixed noise, and elements spread over it."""
    rows = {}
    for name, tensor in tensors:
        flat = tensor.detach().double().flatten()
        places = torch.linspace(0, len(flat) - 1, min(SHOWN, len(flat))).long()
        probe = noise(name, (len(flat),)).double()
        rows[name] = [float(flat.norm()), float(flat @ probe), *flat[places].tolist()]
    return rows


def measure(case: Case) -> dict[str, Any]:
    """The row of a case."""
    from timm import create_model
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import ModelEmaV3, dispatch_clip_grad

    model = fill(create_model(case.model, num_classes=CLASSES, **case.model_options)).train()
    optimizer = create_optimizer_v2(model, case.opt, case.lr, case.weight_decay)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        num_epochs=1,
        warmup_epochs=case.warmup_epochs,
        warmup_lr=case.warmup_lr,
        step_on_epochs=False,
        updates_per_epoch=UPDATES,
        **case.sched_options,
    )
    average, criterion = ModelEmaV3(model, decay=case.ema), SoftTargetCrossEntropy()
    mix = Mixup(case.mixup, label_smoothing=case.smoothing, num_classes=CLASSES)
    shares = np.random.default_rng(0).beta(case.mixup, case.mixup, UPDATES).tolist()
    pixels = (torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    losses = []
    for step in range(UPDATES):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        with patch.object(np.random, 'beta', return_value=shares[step]):
            x, y = mix(pixels[batch].clone(), torch.from_numpy(labels()[batch]))
        loss = criterion(model(x), y)
        loss.backward()
        dispatch_clip_grad(model.parameters(), case.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step=step + 1)
        scheduler.step_update(step + 1)
        losses.append(loss.item())
    weights, averaged = (digest(m.state_dict().items()) for m in (model, average.module))
    return {'case': asdict(case), 'shares': shares, 'losses': losses, 'weights': weights, 'average': averaged}


if __name__ == '__main__':
    with lzma.open(FILE, 'wt') as file:
        for case in CASES:
            row = measure(case)
            print(case.model, row['losses'][0], row['losses'][-1])
            file.write(json.dumps(row) + '\n')
