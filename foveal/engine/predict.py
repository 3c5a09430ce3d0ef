"""What a model sees on pictures."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveal.data import create_loader, read_image
from foveal.data.dataset import ImageDataset
from foveal.data.images import IMAGE_EXTENSIONS
from foveal.data.readers.folder import natural_key
from foveal.engine.checkpoint import Loaded


@dataclass(frozen=True)
class Prediction:
    """The guesses for one image: labels and probabilities, the likeliest first."""

    file: str
    guesses: list[tuple[str, float]]


class FileReader:
    """Images without labels, by their paths."""

    def __init__(self, files: list[str]):
        self.files, self.classes, self.targets = files, [''], [0] * len(files)

    def read(self, index: int, channels: int) -> torch.Tensor:
        return read_image(self.files[index], channels)

    def name(self, index: int) -> str:
        return self.files[index]


def find_images(paths: Sequence[str]) -> list[str]:
    """Files as given, and the images under folders in natural order.

    Raises:
        FileNotFoundError: A path that is not there, or a folder without images.
    """
    files: list[str] = []
    for path in paths:
        if Path(path).is_file():
            files.append(path)
            continue
        if not Path(path).is_dir():
            raise FileNotFoundError(f'image {path} does not exist')
        inside = [str(Path(folder, name)) for folder, _, names in os.walk(path, followlinks=True) for name in names]
        images = sorted((file for file in inside if file.lower().endswith(IMAGE_EXTENSIONS)), key=natural_key)
        if not images:
            raise FileNotFoundError(f'{path} holds no images ({" ".join(IMAGE_EXTENSIONS)})')
        files += images
    return files


@torch.inference_mode()
def predict(
    loaded: Loaded,
    files: list[str],
    topk: int,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = 'cpu',
    precision: str = 'fp32',
) -> list[Prediction]:
    """Classifies images.

    Args:
        loaded: Model, preprocessing and names of the classes.
        files: Paths of the images.
        topk: Guesses an image; at most as many as there are classes are given.
        batch_size: Images a step.
        workers: Processes that read images.
        device: Where the model runs.
        precision: fp32 or bf16.

    Returns:
        One prediction a file, in order.

    Raises:
        ValueError: topk below 1.
        UnreadableImageError: A file that cannot be decoded.
    """
    if topk < 1:
        raise ValueError(f'topk must be at least 1, got {topk}')
    device = torch.device(device)
    model = loaded.model.to(device).eval()
    dataset = ImageDataset(FileReader(files), range(len(files)))
    loader = create_loader(dataset, **loaded.preprocess, batch_size=batch_size, num_workers=workers, device=device)
    found: list[list[tuple[str, float]]] = []
    for images, _ in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == 'bf16'):
            logits = model(images)
        values, indices = logits.float().softmax(1).topk(min(topk, logits.shape[1]))
        for row, chances in zip(indices.tolist(), values.tolist(), strict=True):
            labels = [loaded.classes[i] if loaded.classes else str(i) for i in row]
            found.append(list(zip(labels, chances, strict=True)))
    return [Prediction(file, guesses) for file, guesses in zip(files, found, strict=True)]


def as_csv(predictions: Sequence[Prediction]) -> str:
    """One line an image: file, label1, probability1, label2, ..."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    count = len(predictions[0].guesses)
    writer.writerow(['file', *(f'{what}{i + 1}' for i in range(count) for what in ('label', 'probability'))])
    for prediction in predictions:
        cells = [cell for label, chance in prediction.guesses for cell in (label, f'{chance:.6f}')]
        writer.writerow([prediction.file, *cells])
    return text.getvalue()


def as_json(predictions: Sequence[Prediction]) -> str:
    """A list of {file, predictions: [{label, probability}]}."""
    rows: list[dict[str, Any]] = [
        {'file': p.file, 'predictions': [{'label': label, 'probability': round(c, 6)} for label, c in p.guesses]}
        for p in predictions
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + '\n'
