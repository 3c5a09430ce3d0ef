"""Which of a model's outputs the classes of a data set are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from foveal.data.class_map import read_class_map
from foveal.engine.judge import Judge
from foveal.errors import near
from foveal.labels import PARTS, table

PRESENT = 'present'


@dataclass(frozen=True)
class Matching:
    """From a model's outputs and a data set's class indices to logits and targets that belong together.

    Attributes:
        classes: Names of the classes that are scored.
        columns: The outputs that are scored, int64; None for all in order.
        renumber: The scored class of each of the data's classes, int64, -1 where it is not scored; None where they
            are the same.
    """

    classes: list[str]
    columns: Tensor | None = None
    renumber: Tensor | None = None

    def logits(self, logits: Tensor) -> Tensor:
        """The scored columns (batch, scored) of logits (batch, outputs)."""
        return logits if self.columns is None else logits[:, self.columns.to(logits.device)]

    def targets(self, targets: Tensor) -> Tensor:
        """Scored classes of targets (batch,); of several labels, their columns (batch, scored)."""
        if self.renumber is None:
            return targets
        renumber = self.renumber.to(targets.device)
        if targets.dim() == 1:
            # a sample without a label keeps its -1
            return torch.where(targets < 0, targets, renumber[targets.clamp(min=0)])
        moved = targets.new_zeros(len(targets), len(self.classes))
        known = renumber >= 0
        moved[:, renumber[known]] = targets[:, known]
        return moved


def match(judge: Judge, outputs: int, classes: Sequence[str], source: str, data: str) -> list[int]:
    """The output of each of the data's classes.

    By name, where the model says what its outputs are; folders that are called by numbers, as those of ImageNet-V2,
    mean the outputs of these numbers. Where the model says nothing, by order.

    Raises:
        ValueError: A class that the model does not know, or as many as it cannot tell apart.
    """
    numbering = judge.numbering
    if numbering and all(name in numbering for name in classes):
        return [numbering[name] for name in classes]
    if all(name.isdigit() and int(name) < outputs for name in classes) and (numbering or len(classes) == outputs):
        return [int(name) for name in classes]
    if numbering:
        unknown = [name for name in classes if name not in numbering]
        what = 'class folders' if Path(data).is_dir() else 'classes'
        raise ValueError(
            f'{data} has {what} {unknown[:5]} that are not among the classes: {", ".join(list(numbering)[:5])} ... '
            f'of {source}{near(unknown[0], numbering)}'
        )
    if len(classes) != outputs:
        raise ValueError(f'{source} tells {outputs} classes apart, {data} has {len(classes)}')
    return list(range(outputs))


def matching_of(
    judge: Judge, outputs: int, classes: Sequence[str], source: str, data: str, valid: str = ''
) -> Matching:
    """What is scored.

    Args:
        judge: The model.
        outputs: Its outputs.
        classes: The data's classes.
        source, data: What they are called, for messages.
        valid: '' for all outputs; `present` for those that are classes of the data; a part of ImageNet, such as
            imagenet-a; or a file of names or indices of outputs, one a line. The others are left out of the scores, and
            images of other classes too.

    Raises:
        ValueError, FileNotFoundError: They do not belong together, or a file that does not name outputs.
    """
    output_of = match(judge, outputs, classes, source, data)
    names = [label.name for label in judge.labels] if judge.labels else unnamed(outputs, output_of, classes)
    if not valid:
        same = output_of == list(range(outputs))
        return Matching(names, None, None if same else torch.tensor(output_of))
    if valid == PRESENT:
        kept = sorted(set(output_of))
    elif valid in PARTS:
        kept = outputs_of_part(valid, judge.numbering, source)
    else:
        kept = read_valid(valid, names, judge.numbering)
    place = {output: i for i, output in enumerate(kept)}
    renumber = torch.tensor([place.get(output, -1) for output in output_of])
    return Matching([names[output] for output in kept], torch.tensor(kept), renumber)


def unnamed(outputs: int, output_of: Sequence[int], classes: Sequence[str]) -> list[str]:
    """Names of outputs that only the data name."""
    names = [str(i) for i in range(outputs)]
    for output, name in zip(output_of, classes, strict=True):
        names[output] = name
    return names


def outputs_of_part(name: str, numbering: dict[str, int], source: str) -> list[int]:
    """The outputs that are the classes of a part of ImageNet, in order.

    Raises:
        ValueError: The model does not say that it has one of them.
    """
    wanted = [label.name for label in table(name)]
    if unknown := [each for each in wanted if each not in numbering]:
        raise ValueError(
            f'valid_labels={name}: {len(unknown)} of its {len(wanted)} classes, such as {unknown[0]}, '
            f'are not among those of {source}'
        )
    return sorted(numbering[each] for each in wanted)


def read_valid(path: str, names: Sequence[str], numbering: dict[str, int]) -> list[int]:
    """The outputs that a file names, by name or by index, in order."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'valid_labels must be {PRESENT}, {" or ".join(PARTS)}, or a file of classes; {path} is no file'
        )
    lines = list(read_class_map(path) or {})
    number = {name: i for i, name in enumerate(names)} | numbering
    found = []
    for line in lines:
        index = number.get(line, int(line) if line.isdigit() else -1)
        if not 0 <= index < len(names):
            raise ValueError(f'{path}: {line!r} is no class of the model, nor an index below {len(names)}')
        found.append(index)
    if not found:
        raise ValueError(f'{path} names no class')
    return sorted(set(found))
