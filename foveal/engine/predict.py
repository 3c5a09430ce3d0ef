"""What a model sees on pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from foveal.data import ImageDataset, Loader
from foveal.data.loader import Batch
from foveal.data.stream import StreamDataset
from foveal.engine.goals import Goal, ManyLabels, Numbers, OneLabel
from foveal.engine.halving import Halving
from foveal.engine.judge import Judge
from foveal.engine.judging import PredictConfig
from foveal.engine.precision import autocast
from foveal.labels import Label
from foveal.models.backbone import Backbone


@dataclass(frozen=True)
class Guess:
    """One class for an image.

    Attributes:
        label: What the class is called, or the number.
        index: Which output it is.
        score: Its probability or its logit; of a number its value.
    """

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """What a model made of one image.

    Attributes:
        file: The image.
        guesses: The likeliest first; of numbers all, in their order.
        scores: float32 (classes,), where all are asked for.
        embedding: float32 (channels,), where it is asked for.
        error: Why the image could not be read; then there is nothing else.
    """

    file: str
    guesses: list[Guess]
    scores: np.ndarray | None = None
    embedding: np.ndarray | None = None
    error: str | None = None


class WithEmbedding(nn.Module):
    """Logits and what the classifier saw, side by side: (batch, classes + channels).

    Args:
        model: A model of foveal.
    """

    def __init__(self, model: Backbone):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        features = self.model.forward_features(images)
        seen = self.model.forward_head(features, pre_logits=True)
        logits = self.model.forward_head(features) if self.model.num_classes else seen[:, :0]
        return torch.cat([logits, seen], 1)


def names_of(labels: Sequence[Label] | None, count: int, label_type: str) -> list[str]:
    """What each of `count` classes is called.

    Raises:
        ValueError: An unknown type.
    """
    kinds = {
        'name': lambda label: label.name,
        'description': lambda label: label.description,
        'detailed': lambda label: f'{label.name}: {label.description}',
    }
    if label_type not in (*kinds, 'index'):
        raise ValueError(f'label_type must be one of {", ".join((*kinds, "index"))}, got {label_type!r}')
    if labels is None or label_type == 'index':
        return [str(i) for i in range(count)]
    return [kinds[label_type](label) for label in labels]


# options that choose among classes or draw their probabilities, and what they are where nobody asks
OF_CLASSES = {'threshold': 0.0, 'multi_label': False, 'all_scores': False, 'sheet': None, 'scores': 'probability'}


def goal_of(config: PredictConfig, judge: Judge) -> Goal:
    """What a model's outputs mean.

    Raises:
        ValueError: An option that is for classes, and the model gives numbers.
    """
    names = [str(i) for i in range(judge.outputs)]
    if isinstance(judge.goal, Numbers):
        for option, default in OF_CLASSES.items():
            if getattr(config, option) != default:
                given = ', '.join(judge.goal.classes)
                raise ValueError(f'{option} is for classes; {config.source} gives numbers: {given}')
        return judge.goal
    several = config.multi_label or isinstance(judge.goal, ManyLabels)
    return ManyLabels(names) if several else OneLabel(names)


@dataclass(frozen=True)
class Namer:
    """From a batch's outputs to predictions, as configured.

    Attributes:
        config: What is asked for.
        names: What the classes are called.
        goal: What the outputs mean.
    """

    config: PredictConfig
    names: list[str]
    goal: Goal

    def __call__(self, outputs: Tensor, files: Sequence[str]) -> list[Prediction]:
        """Predictions of outputs (batch, classes or classes + channels), one for each file."""
        config, count = self.config, len(self.names)
        logits, embeddings = outputs[:, :count].float(), outputs[:, count:].float().cpu().numpy()
        chances = self.goal.read(logits)
        if isinstance(self.goal, Numbers):
            return [
                Prediction(
                    file,
                    [Guess(name, i, value) for i, (name, value) in enumerate(zip(self.names, values, strict=True))],
                    None,
                    embeddings[number] if config.embeddings else None,
                )
                for number, (file, values) in enumerate(zip(files, chances.tolist(), strict=True))
            ]
        scores = chances if config.scores == 'probability' else logits
        top = scores.topk(min(config.topk, count))
        rows = zip(top.indices.tolist(), top.values.tolist(), chances.gather(1, top.indices).tolist(), strict=True)
        every = scores.cpu().numpy()
        return [
            Prediction(
                file,
                [
                    Guess(self.names[i], i, score)
                    for i, score, chance in zip(*row, strict=True)
                    if chance >= config.threshold
                ],
                every[number] if config.all_scores else None,
                embeddings[number] if config.embeddings else None,
            )
            for number, (file, row) in enumerate(zip(files, rows, strict=True))
        ]


def remaining(dataset: ImageDataset | StreamDataset, done: int) -> tuple[ImageDataset | StreamDataset, int]:
    """What is left of a data set after `done` samples, and how many of its first ones to pass over all the same."""
    if isinstance(dataset, StreamDataset):
        return dataset, done
    return replace(dataset, indices=np.asarray(dataset.indices)[done:]), 0


def predict(
    judge: Judge, forward: Halving, loader: Loader, namer: Namer, skip: int = 0
) -> Iterator[tuple[list[Prediction], Batch | None, Tensor | None]]:
    """Predicts batch after batch; nothing is kept of those before.

    Args:
        judge: The model.
        forward: The model as it is to be run, or `WithEmbedding` of it.
        loader: In order, of this process alone.
        namer: Makes predictions of outputs.
        skip: Samples at the start of a stream that were done before.

    Yields:
        Predictions in the order of the images, those that could not be read among them; the batch and its outputs,
        which have rows for the others only.

    Raises:
        UnreadableImageError: An image that cannot be read, or too many.
    """
    judge.model.eval()
    device, precision, dataset = loader.device, namer.config.precision, loader.dataset
    told: set[int] = set()
    loader.set_epoch(0, skip // loader.sampler.batch_size)
    skip %= loader.sampler.batch_size
    for batch in loader:
        with torch.inference_mode(), autocast(device, precision):
            outputs = forward(batch.images)
        indices = batch.addresses[:, 1].tolist()
        found = dict(zip(indices, namer(outputs, [dataset.name(index) for index in indices]), strict=True))
        # the loader may be a batch ahead
        bad = {index for index in loader.bad.found if index not in told and index < indices[-1]}
        rows = [found[index] if index in found else failed(loader, index) for index in sorted(found.keys() | bad)]
        told |= bad
        yield rows[skip:], batch, outputs
        skip = 0
    rest = [failed(loader, index) for index in sorted(loader.bad.found.keys() - told)]
    if rest[skip:]:
        yield rest[skip:], None, None


def failed(loader: Loader, index: int) -> Prediction:
    """The row of an image that could not be read."""
    sample = loader.bad.found[index]
    return Prediction(loader.dataset.name(index), [], error=sample.reason)
