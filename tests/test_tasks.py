"""Learning from a teacher, against the papers' formulas written out."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foveal
from foveal.data import Preprocess
from foveal.data.preprocess import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from foveal.engine.tasks import FeatureDistillation, LogitDistillation, Task, Teacher, TokenDistillation
from tests.tiny import TINY

CLASSES = 5
STUDENT = Preprocess((3, 64, 64))
TEACHER = Preprocess((3, 96, 96), mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    name, options = TINY[family]
    return foveal.create_model(name, **{**options, 'num_classes': CLASSES})


@pytest.fixture
def teacher() -> Teacher:
    return Teacher(tiny('resnet'), TEACHER, STUDENT)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(4, 3, 64, 64), torch.arange(4)


def normal(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    mean, std = (torch.tensor(x)[:, None, None] for x in (preprocess.mean, preprocess.std))
    return (pixels - mean) / std


def test_teacher_sees_its_own_normalisation(teacher: Teacher, batch: tuple[Tensor, Tensor]) -> None:
    assert (STUDENT.mean, STUDENT.std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    teacher.train()
    with torch.no_grad():
        expected = teacher.model(normal(batch[0], TEACHER))
    # one multiplication and addition in place of two each
    torch.testing.assert_close(teacher(normal(batch[0], STUDENT)), expected, rtol=1e-4, atol=1e-5)
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_teacher_of_a_fixed_size() -> None:
    seen = []
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    Teacher(model, TEACHER, STUDENT, fixed_size=True)(torch.zeros(2, 3, 64, 64))
    assert seen == [(96, 96)]


def test_teacher_of_other_channels() -> None:
    grey = Preprocess((1, 64, 64), mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match='the teacher sees 1 channels, the student 3'):
        Teacher(nn.Identity(), grey, STUDENT)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.double().log_softmax(-1)[range(len(targets)), targets].mean()


def hinton(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = (teacher.double() / temperature).softmax(-1)
    q = (student.double() / temperature).softmax(-1)
    return temperature**2 * (p * (p / q).log()).sum(-1).mean()


@pytest.mark.parametrize(
    ('weights', 'expected'),
    [({}, (1, 1)), ({'task_weight': 0.3}, (0.3, 0.7)), ({'task_weight': 0.3, 'distill_weight': 2}, (0.3, 2))],
)
def test_logits(
    teacher: Teacher, batch: tuple[Tensor, Tensor], weights: dict[str, float], expected: tuple[float, float]
) -> None:
    model = tiny('convnext').eval()
    task = LogitDistillation(model, nn.CrossEntropyLoss(), teacher, temperature=4.0, **weights)
    with torch.no_grad():
        logits, taught = model(batch[0]), teacher(batch[0])
        loss = task(*batch)
    whole = expected[0] * cross_entropy(logits, batch[1]) + expected[1] * hinton(logits, taught, 4.0)
    # float32 against float64
    torch.testing.assert_close(loss.double(), whole, rtol=1e-5, atol=1e-6)
    assert {name.split('.')[0] for name in task.state_dict()} == {'model'}


def test_features_and_what_maps_them(teacher: Teacher, batch: tuple[Tensor, Tensor]) -> None:
    model = tiny('convnext')
    task = FeatureDistillation(model, nn.CrossEntropyLoss(), teacher, task_weight=0.5)
    assert isinstance(task.projection, nn.Linear)
    loss = task(*batch)
    loss.backward()
    with torch.no_grad():
        own = model.forward_head(model.forward_features(batch[0]), pre_logits=True)
        seen = batch[0] * teacher.scale + teacher.shift
        taught = teacher.model.forward_head(teacher.model.forward_features(seen), pre_logits=True)
        error = (task.projection(own) - taught).square().mean()
    whole = 0.5 * cross_entropy(model(batch[0]), batch[1]) + 0.5 * error.double()
    torch.testing.assert_close(loss.double(), whole, rtol=1e-5, atol=1e-6)
    assert all(p.grad is not None for p in task.parameters())


@pytest.mark.parametrize('kind', ['soft', 'hard'])
def test_tokens(teacher: Teacher, batch: tuple[Tensor, Tensor], kind: str) -> None:
    model = tiny('deit').train()
    task = TokenDistillation(model, nn.CrossEntropyLoss(), teacher, kind, temperature=2.0)
    with torch.no_grad():
        loss = task(*batch)
        (logits, distilled), taught = model(batch[0]), teacher(batch[0])
    second = hinton(distilled, taught, 2.0) if kind == 'soft' else cross_entropy(distilled, taught.argmax(-1))
    torch.testing.assert_close(loss.double(), cross_entropy(logits, batch[1]) + second, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert model.eval()(batch[0]).shape == (4, CLASSES)


def test_what_cannot_be(teacher: Teacher, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match='ConvNeXt has no classifier to distil into'):
        TokenDistillation(tiny('convnext'), nn.CrossEntropyLoss(), teacher)
    with pytest.raises(ValueError, match='kind must be soft or hard'):
        TokenDistillation(tiny('deit'), nn.CrossEntropyLoss(), teacher, 'warm')
    teacher.model.reset_classifier(7)  # type: ignore[operator]
    with pytest.raises(ValueError, match='the teacher tells 7 classes apart, the student 5'):
        LogitDistillation(tiny('convnext'), nn.CrossEntropyLoss(), teacher)(*batch)


def test_plain(batch: tuple[Tensor, Tensor]) -> None:
    model = tiny('resnet').eval()
    loss = Task(model, nn.CrossEntropyLoss())(*batch)
    torch.testing.assert_close(loss.double(), cross_entropy(model(batch[0]), batch[1]), rtol=1e-5, atol=1e-6)
