"""What the classes of published weights are called.

Tables lie beside this file, one line a class in the order of its index: WordNet id, tab, name. `imagenet-1k` has the
ids of ILSVRC 2012 (as TensorFlow Datasets lists them) with the names that torchvision gives the same classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from foveal.errors import near

SUBSETS = {'imagenet-1k': 1000}  # table -> how many classes


@dataclass(frozen=True)
class Label:
    """One class.

    Attributes:
        name: what it is called in the data; for ImageNet its WordNet id.
        description: what a reader calls it.
    """

    name: str
    description: str


@cache
def table(subset: str) -> tuple[Label, ...]:
    """The classes of a subset, by index.

    Raises:
        ValueError: there is no such table.
    """
    if subset not in SUBSETS:
        raise ValueError(f'no table of classes is called {subset!r}{near(subset, SUBSETS)}')
    text = (files(__name__) / f'{subset}.tsv').read_text(encoding='utf-8')
    return tuple(Label(*line.split('\t')) for line in text.splitlines())


def subset_of(record: Mapping[str, Any]) -> str | None:
    """The table that fits published weights, by their number of classes; None where there is none."""
    return next((name for name, count in SUBSETS.items() if record.get('num_classes') == count), None)


def labels_of(model: Any) -> Sequence[Label] | None:
    """The classes of a model: those that its `pretrained_cfg` names, or else the table that fits its weights.

    Args:
        model: a model with `num_classes` and `pretrained_cfg`.

    Returns:
        One label a class; None where nobody has said, as for a model with other classes than its published weights.
    """
    record = model.pretrained_cfg
    if record.num_classes != model.num_classes:
        return None
    if record.label_names:
        said = record.label_descriptions or {}
        return tuple(Label(name, said.get(name, name)) for name in record.label_names)
    subset = subset_of(record) if record.architecture else None
    return table(subset) if subset else None
