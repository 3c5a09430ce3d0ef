"""What a model learns: a task holds the model and gives the loss of a batch.

The task, not the model, is what is compiled and distributed, so that whatever else learns (a projection of features)
learns with it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import Preprocess


class Task(nn.Module):
    """Classification, with one label an image or several: the loss decides.

    Args:
        model: Maps images to logits (batch, classes).
        loss: Maps logits and targets to a number.
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, computed in float32."""
        return self.loss(self.model(images).float(), targets)


class Teacher(nn.Module):
    """A frozen model that looks at a student's batches as it is used to: with its own normalisation and size.

    Args:
        model: The teacher.
        preprocess: What its input needs.
        student: What the student's input needs.
        fixed_size: Resize batches to the teacher's own size; otherwise it sees the student's.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, preprocess: Preprocess, student: Preprocess, fixed_size: bool = False) -> None:
        super().__init__()
        if preprocess.input_size[0] != student.input_size[0]:
            raise ValueError(
                f'the teacher sees {preprocess.input_size[0]} channels, the student {student.input_size[0]}'
            )
        self.model = model.eval().requires_grad_(False)
        self.size = preprocess.input_size[1:] if fixed_size else None
        own_mean, own_std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        mean, std = torch.tensor(student.mean), torch.tensor(student.std)
        # (x std + mean - own mean) / own std
        self.register_buffer('scale', (std / own_std)[:, None, None])
        self.register_buffer('shift', ((mean - own_mean) / own_std)[:, None, None])

    def train(self, mode: bool = True) -> 'Teacher':
        """A teacher stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, features: bool = False) -> Tensor:
        """Logits (batch, classes), or what the classifier sees (batch, features), of a student's batch."""
        images = images * self.scale + self.shift
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode='bicubic', antialias=True)
        if features:
            return pooled(self.model, self.model.forward_features(images)).float()  # type: ignore[operator]
        return self.model(images).float()


class Distillation(Task):
    """Learning from labels and from a teacher.

    Args:
        model: The student.
        loss: As in `Task`.
        teacher: Who is learnt from. It is no part of the module: neither saved nor distributed with it.
        task_weight: Of the labels' loss; 1 where absent.
        distill_weight: Of the teacher's loss; where absent, what `task_weight` leaves of 1, or 1.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        teacher: Teacher,
        task_weight: float | None = None,
        distill_weight: float | None = None,
    ) -> None:
        super().__init__(model, loss)
        self._teacher = [teacher]
        if distill_weight is None:
            distill_weight = 1.0 if task_weight is None else 1.0 - task_weight
        self.task_weight = 1.0 if task_weight is None else task_weight
        self.distill_weight = distill_weight

    @property
    def teacher(self) -> Teacher:
        """Who is learnt from."""
        return self._teacher[0]

    def weigh(self, from_labels: Tensor, from_teacher: Tensor) -> Tensor:
        """The whole loss."""
        return self.task_weight * from_labels + self.distill_weight * from_teacher


class LogitDistillation(Distillation):
    """The teacher's probabilities at a temperature as further targets (Hinton et al., arXiv:1503.02531, section 2).

    Args:
        temperature: Above 0.
        **options: Of `Distillation`.
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module, teacher: Teacher, temperature: float = 1.0, **options: Any
    ) -> None:
        super().__init__(model, loss, teacher, **options)
        self.temperature = temperature

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        logits = self.model(images).float()
        learnt = divergence(logits, self.teacher(images), self.temperature)
        return self.weigh(self.loss(logits, targets), learnt)


class FeatureDistillation(Distillation):
    """The teacher's pooled features as targets of the student's (FitNets, arXiv:1412.6550, at the last layer).

    A linear layer, which learns too, maps the student's features where the widths differ.

    Args:
        **options: Of `Distillation`.
    """

    def __init__(self, model: Any, loss: nn.Module, teacher: Teacher, **options: Any) -> None:
        super().__init__(model, loss, teacher, **options)
        taught: Any = teacher.model.head_hidden_size
        own = model.head_hidden_size
        self.projection = nn.Identity() if own == taught else nn.Linear(own, taught)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        model: Any = self.model
        features = model.forward_features(images)
        logits = model.forward_head(features).float()
        learnt = F.mse_loss(self.projection(pooled(model, features)).float(), self.teacher(images, features=True))
        return self.weigh(self.loss(logits, targets), learnt)


class TokenDistillation(Distillation):
    """A second classifier, on a token of its own, learns from the teacher (DeiT, arXiv:2012.12877, equations 2 and 3).

    Args:
        kind: 'soft' (the teacher's probabilities) or 'hard' (its first guess).
        temperature: Of 'soft'.
        **options: Of `Distillation`.

    Raises:
        ValueError: A model without a second classifier, or an unknown kind.
    """

    def __init__(
        self,
        model: Any,
        loss: nn.Module,
        teacher: Teacher,
        kind: str = 'soft',
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(model, loss, teacher, **options)
        if kind not in ('soft', 'hard'):
            raise ValueError(f'kind must be soft or hard, got {kind!r}')
        if not hasattr(model, 'set_distilled_training'):
            raise ValueError(f'{type(model).__name__} has no classifier to distil into; take one of deit*_distilled_*')
        model.set_distilled_training()
        self.kind, self.temperature = kind, temperature

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        logits, distilled = (x.float() for x in self.model(images))
        taught = self.teacher(images)
        if self.kind == 'hard':
            learnt = F.cross_entropy(distilled, taught.argmax(-1))
        else:
            learnt = divergence(distilled, taught, self.temperature)
        return self.weigh(self.loss(logits, targets), learnt)


def pooled(model: Any, features: Tensor) -> Tensor:
    """What the classifier sees (batch, features), of `forward_features`."""
    return model.forward_head(features, pre_logits=True)


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's probabilities to the student's, at a temperature.

    Times its square, so that gradients keep their size (arXiv:1503.02531, section 2.1).

    Raises:
        ValueError: Another number of classes.
    """
    if logits.shape != taught.shape:
        raise ValueError(f'the teacher tells {taught.shape[-1]} classes apart, the student {logits.shape[-1]}')
    student, teacher = ((x / temperature).log_softmax(-1) for x in (logits, taught))
    return F.kl_div(student, teacher, reduction='batchmean', log_target=True) * temperature**2
