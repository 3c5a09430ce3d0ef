"""ImageNet's validation images with all labels that fit them: ReaL (arXiv:2006.07159)."""

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from foveal.data import ImageDataset
from foveal.engine.distributed import total

NUMBERED = re.compile(r'(\d{8})\.[A-Za-z]+$')


class RealLabels:
    """Counts the images whose guesses are among their labels.

    Args:
        path: real.json as published: for each image of ILSVRC2012_val, in order, the list of its classes; or file name
            -> list of classes. Images whose list is empty do not count.
        dataset: Names the images.
        device: Where batches are.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is not of this form.
    """

    def __init__(self, path: str, dataset: ImageDataset, device: torch.device):
        if not Path(path).is_file():
            raise FileNotFoundError(f'real_labels file {path} does not exist')
        try:
            content = json.loads(Path(path).read_text(encoding='utf-8'))
        except ValueError as error:
            raise ValueError(f'real_labels file {path} is not JSON: {error}') from error
        if isinstance(content, list):
            content = {f'{number:08d}': labels for number, labels in enumerate(content, 1)}
        if not isinstance(content, dict) or not all(is_label_list(labels) for labels in content.values()):
            raise ValueError(f'real_labels file {path} must hold a list of class indices for each image')
        self.path, self.labels, self.dataset = path, content, dataset
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # images, hits of one guess, of five

    def of(self, index: int) -> list[int]:
        """The labels of an image.

        Raises:
            ValueError: The file has none for it.
        """
        name = Path(self.dataset.name(index)).name
        number = NUMBERED.search(name)
        for key in (name, number[1] if number else None):
            if key in self.labels:
                return self.labels[key]
        raise ValueError(f'{self.path} has no labels of {name}; its images are called ILSVRC2012_val_NUMBER.JPEG')

    def update(self, logits: Tensor, addresses: Tensor) -> None:
        """Takes logits (batch, outputs) and addresses (batch, 3)."""
        guesses = logits.topk(min(5, logits.shape[1])).indices.tolist()
        for row, index in zip(guesses, addresses[:, 1].tolist(), strict=True):
            if labels := self.of(index):
                hits = [guess in labels for guess in row]
                self.sums += torch.tensor([1.0, hits[0], any(hits)], dtype=torch.float64, device=self.sums.device)

    def compute(self) -> dict[str, float]:
        """Count and percentages; under torchrun of all processes."""
        count, top1, top5 = total(self.sums).tolist()
        some = max(count, 1)
        return {'real_count': int(count), 'real_top1': 100 * top1 / some, 'real_top5': 100 * top5 / some}


def is_label_list(value: object) -> bool:
    """Whether a value is a list of class indices."""
    return isinstance(value, list) and all(isinstance(label, int) and not isinstance(label, bool) for label in value)
