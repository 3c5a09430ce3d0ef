"""What a model is to tell of an image: one class, any number of labels, or numbers.

A goal says all that differs between these: the losses, how outputs are scored and read, and which score counts.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from foveal.data import ImageDataset
from foveal.data.stream import StreamDataset
from foveal.engine.config import TrainConfig
from foveal.engine.evaluate import Meter, Scores
from foveal.engine.multi_label import MultiLabelMeter, MultiLabelScores
from foveal.engine.regression import NumberScores, NumbersMeter
from foveal.engine.selection import check_metric
from foveal.engine.target_stats import count_classes, spread
from foveal.errors import check_options, near
from foveal.loss import (
    CLASS_WEIGHT_METHODS,
    LOSS_TYPES,
    MULTI_LABEL_LOSS_TYPES,
    MULTI_LABEL_ONLY,
    REGRESSION_LOSS_TYPES,
    create_classification_loss,
    create_regression_loss,
    load_class_stats,
    resolve_class_weights,
)
from foveal.loss.regression import Standardized

AnyScores = Scores | MultiLabelScores | NumberScores
# of `create_classification_loss`, what other fields of the configuration decide
DECIDED = {
    *('loss_type', 'smoothing', 'soft_targets', 'multi_label', 'jsd_splits'),
    *('class_weight', 'pos_weight', 'class_counts', 'num_samples'),
}


class Scoring(Protocol):
    """What adds up the batches of an evaluation."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Takes a batch's outputs and targets."""

    def compute(self) -> AnyScores:
        """The scores, of all processes together."""


@dataclass(frozen=True)
class Goal(ABC):
    """What a model is to tell of an image.

    Attributes:
        classes: Names of what its outputs are about, in their order.
        kind: As `Reader.task`: class, labels or numbers.
        about: The same for a message.
        scores: Names of what its evaluations give.
        metric: Which of them says how good a model is; more is better.
        losses: By name, the default first.
        smoothing: Label smoothing where none is asked for.
        target_format: How labels of such images must be read; None: as they look.
    """

    classes: list[str]

    kind: ClassVar[str]
    about: ClassVar[str]
    scores: ClassVar[tuple[str, ...]]
    metric: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    smoothing: ClassVar[float] = 0.0
    target_format: ClassVar[str | None] = None

    def decided(self, config: TrainConfig) -> TrainConfig:
        """The configuration with what it leaves to the goal: loss, label smoothing and metric.

        Raises:
            ValueError: A loss that is unknown or of another goal; a metric that there is not.
        """
        loss = config.loss or self.losses[0]
        if loss not in self.losses:
            if loss in (*LOSS_TYPES, *REGRESSION_LOSS_TYPES):
                raise ValueError(f'loss {loss} is not for {self.about}, which {config.data} has; use one of '
                                 f'{", ".join(self.losses)}')  # fmt: skip
            raise ValueError(f'loss {loss!r} is unknown{near(loss, self.losses)}')
        metric = config.metric or f'val_{self.metric}'
        check_metric(metric, self.scores, config.evaluate_plain)
        smoothing = self.smoothing if config.smoothing is None else config.smoothing
        return replace(config, loss=loss, smoothing=smoothing, metric=metric)

    @abstractmethod
    def loss(self, config: TrainConfig, mixed: bool) -> nn.Module:
        """The loss of a batch, of a configuration that is decided; of one that is mixed, targets are smoothed already.

        Raises:
            ValueError, FileNotFoundError: An unknown option, or a combination that means nothing.
        """

    @abstractmethod
    def meter(self, device: torch.device) -> Scoring:
        """What scores outputs on a device."""

    @abstractmethod
    def read(self, outputs: Tensor) -> Tensor:
        """What outputs (batch, classes) mean: probabilities, or numbers in their unit."""

    @abstractmethod
    def mean(self, views: Sequence[Tensor]) -> Tensor:
        """Outputs that mean the average of what several views' outputs mean."""

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint tells besides the names; see `restored`."""
        return {'kind': self.kind}

    def resumed(self, header: Mapping[str, Any]) -> 'Goal':
        """The goal of a run that goes on: what a checkpoint tells counts, not what the data say by now."""
        del header
        return self


@dataclass(frozen=True)
class Labelled(Goal):
    """Classes.

    Attributes:
        stats: How often each class occurs in training, float32 (classes,), and images in all; None where unknown.
    """

    stats: tuple[Tensor, int] | None = None

    def loss(self, config: TrainConfig, mixed: bool) -> nn.Module:
        legal = set(inspect.signature(create_classification_loss).parameters) - DECIDED
        check_options('loss_options', config.loss_options, legal)
        counts, samples = (self.stats if config.loss == 'db' else None) or (None, None)
        if config.loss == 'db' and counts is None:
            raise ValueError(f'loss db goes by the counts of the classes, which {config.data} does not tell; '
                             'give class_stats')  # fmt: skip
        assert config.smoothing is not None
        return create_classification_loss(
            config.loss,
            multi_label=self.kind == 'labels',
            smoothing=config.smoothing,
            soft_targets=mixed,
            class_weight=self.weights(config, 'class_weight'),
            pos_weight=self.weights(config, 'pos_weight'),
            jsd_splits=config.aug_splits,
            class_counts=counts,
            num_samples=samples,
            **config.loss_options,
        )

    def weights(self, config: TrainConfig, field: str) -> Tensor | None:
        """The weights that a field of the configuration means, one a class."""
        legal = set(inspect.signature(resolve_class_weights).parameters) - {'value', 'kind', 'class_stats'}
        check_options('weight_options', config.weight_options, legal)
        value = getattr(config, field)
        if counts_needed(value) and self.stats is None:
            raise ValueError(f'{field} {value} goes by the counts of the classes, which {config.data} does not tell; '
                             'give class_stats')  # fmt: skip
        found = resolve_class_weights(value, field, self.stats, **config.weight_options)
        if found is None:
            return None
        weights = found if isinstance(found, Tensor) else torch.full((len(self.classes),), float(found))
        if len(weights) != len(self.classes):
            raise ValueError(f'{field} has {len(weights)} numbers, {config.data} has {len(self.classes)} classes')
        if not ((weights >= 0).all() and weights.isfinite().all() and weights.any()):
            raise ValueError(f'{field} must be numbers from 0 on, some above it, got {value!r}')
        return weights


@dataclass(frozen=True)
class OneLabel(Labelled):
    """One class an image."""

    kind = 'class'
    about = 'one label an image'
    scores = ('loss', 'top1', 'top5')
    metric = 'top1'
    losses = tuple(name for name in LOSS_TYPES if name not in MULTI_LABEL_ONLY)
    smoothing = 0.1

    def meter(self, device: torch.device) -> Meter:
        return Meter(len(self.classes), device)

    def read(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def mean(self, views: Sequence[Tensor]) -> Tensor:
        return torch.stack([view.log_softmax(1) for view in views]).logsumexp(0) - math.log(len(views))


@dataclass(frozen=True)
class ManyLabels(Labelled):
    """Any number of classes an image.

    Attributes:
        threshold: Probability from which on a class counts as named.
    """

    threshold: float = 0.5

    kind = 'labels'
    about = 'several labels an image'
    scores = ('loss', 'map', 'micro_f1', 'macro_f1', 'sample_f1')
    metric = 'map'
    losses = MULTI_LABEL_LOSS_TYPES

    def meter(self, device: torch.device) -> MultiLabelMeter:
        return MultiLabelMeter(len(self.classes), device, self.threshold)

    def read(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def mean(self, views: Sequence[Tensor]) -> Tensor:
        return torch.stack([view.sigmoid() for view in views]).mean(0).logit(eps=1e-7)

    def to_dict(self) -> dict[str, Any]:
        return {'kind': self.kind, 'threshold': self.threshold}


@dataclass(frozen=True)
class Numbers(Goal):
    """Numbers. Outputs are in standard deviations of the training targets above their mean.

    Attributes:
        mean_of, std_of: Of each number in training.
    """

    mean_of: tuple[float, ...]
    std_of: tuple[float, ...]

    kind = 'numbers'
    about = 'numbers'
    scores = ('loss', 'mae', 'rmse', 'r2')
    metric = 'r2'
    losses = REGRESSION_LOSS_TYPES
    target_format = 'numbers'

    def loss(self, config: TrainConfig, mixed: bool) -> nn.Module:
        del mixed  # numbers are mixed as they are
        for field in ('smoothing', 'class_weight', 'pos_weight'):
            if getattr(config, field):
                raise ValueError(f'{field} is for classes; the targets of {config.data} are numbers')
        legal = set(inspect.signature(create_regression_loss).parameters) - {'loss_type'}
        check_options('loss_options', config.loss_options, legal)
        made = create_regression_loss(config.loss, **config.loss_options)
        return Standardized(made, self.mean_of, self.std_of)

    def meter(self, device: torch.device) -> NumbersMeter:
        return NumbersMeter(self.mean_of, self.std_of, device)

    def read(self, outputs: Tensor) -> Tensor:
        return outputs * outputs.new_tensor(self.std_of) + outputs.new_tensor(self.mean_of)

    def mean(self, views: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(views)).mean(0)

    def to_dict(self) -> dict[str, Any]:
        return {'kind': self.kind, 'mean': list(self.mean_of), 'std': list(self.std_of)}

    def resumed(self, header: Mapping[str, Any]) -> Goal:
        return restored(header)


ABOUT = {cls.kind: cls.about for cls in (OneLabel, ManyLabels, Numbers)}


def restored(header: Mapping[str, Any]) -> Goal:
    """The goal that a checkpoint's header tells of; one label an image where it tells nothing."""
    classes, told = header['classes'], header.get('task', {'kind': OneLabel.kind})
    if told['kind'] == Numbers.kind:
        return Numbers(classes, tuple(told['mean']), tuple(told['std']))
    return ManyLabels(classes, threshold=told['threshold']) if told['kind'] == ManyLabels.kind else OneLabel(classes)


def check_kind(own: Goal | None, kind: str, source: str, data: str) -> None:
    """Refuses to score numbers as classes and the reverse; a model of one label may be asked for several.

    Args:
        own: What a model was trained to tell; None where nobody knows, which means classes.
        kind: What the data's targets are, as `Reader.task`.
        source, data: What they are called, for the message.

    Raises:
        ValueError: The targets do not mean what the model tells.
    """
    if (own is not None and own.kind == Numbers.kind) != (kind == Numbers.kind):
        about = own.about if own else 'classes'
        raise ValueError(f'{source} tells {about}, the targets of {data} are {ABOUT[kind]}; see target_format')


def judged_by(own: Goal | None, kind: str, classes: list[str], threshold: float | None = None) -> Goal:
    """How a model is scored on data.

    Args:
        own: What it was trained to tell; None where nobody knows.
        kind: What the data's targets are, as `Reader.task`.
        classes: What is scored, by name.
        threshold: Of several labels; the model's own, or 0.5, where absent.
    """
    if isinstance(own, Numbers):
        return own
    if kind == OneLabel.kind:
        return OneLabel(classes)
    known = own.threshold if isinstance(own, ManyLabels) else 0.5
    return ManyLabels(classes, threshold=known if threshold is None else threshold)


def goal_of(config: TrainConfig, dataset: ImageDataset | StreamDataset) -> Goal:
    """What the targets of the training images ask for.

    Raises:
        ValueError: A single class, or numbers that cannot be learnt.
        FileNotFoundError: No such file of counts.
    """
    classes, kind = dataset.classes, dataset.reader.task
    if kind == Numbers.kind:
        return Numbers(classes, *spread(dataset))
    if kind == OneLabel.kind and len(classes) < 2:
        raise ValueError(f'{config.data} has one class only, {classes}; a classifier needs at least two')
    wanted = config.loss == 'db' or counts_needed(config.class_weight) or counts_needed(config.pos_weight)
    stats = None
    if config.class_stats:
        stats = load_class_stats(config.class_stats)
        if len(stats[0]) != len(classes):
            raise ValueError(f'{config.class_stats} has counts of {len(stats[0])} classes, {config.data} has '
                             f'{len(classes)}')  # fmt: skip
    elif wanted and isinstance(dataset, ImageDataset):
        stats = count_classes(dataset)
    return OneLabel(classes, stats) if kind == OneLabel.kind else ManyLabels(classes, stats, config.threshold)


def counts_needed(weights: object) -> bool:
    """Whether weights of classes are asked for by the name of a method."""
    return isinstance(weights, str) and weights in CLASS_WEIGHT_METHODS
