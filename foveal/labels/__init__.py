"""What the classes of published weights are called.

`imagenet.tsv.xz` beside this file has one line a class: WordNet id, letters of the sets it is in, name, definition.
The definitions and the names are WordNet 3.0's (WORDNET-LICENSE), but for the 1,000 classes of ILSVRC 2012, which have
the names that torchvision gives them. Which classes the larger sets have was measured on timm 1.0.31; the 200 of
ImageNet-A and of ImageNet-R are those that clip-benchmark 1.6.2 (MIT) and easyrobust 0.2.4 (Apache 2.0) list alike.
Every set is in the order of its ids, which is that of the outputs of published weights; `imagenet-22k-ms` has the 1,000
first.
"""

import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from foveal.errors import near

# table -> how many classes, and the letter that marks them
SUBSETS = {
    'imagenet-1k': (1000, 'k'),
    'imagenet-12k': (11821, 'c'),  # those with enough images
    'imagenet-21k': (21843, 'g'),  # Google's, as in BiT and ViT
    'imagenet-21k-miil': (11221, 'm'),  # of arXiv:2104.10972
    'imagenet-22k': (21841, 'f'),  # the release of autumn 2011
    'imagenet-22k-ms': (21842, 's'),  # Microsoft's
}
# parts of the 1,000 that images were collected for: no weights are published for these alone
PARTS = {
    'imagenet-a': (200, 'a'),  # arXiv:1907.07174
    'imagenet-r': (200, 'r'),  # arXiv:2006.16241
}
TABLES = SUBSETS | PARTS


@dataclass(frozen=True)
class Label:
    """One class.

    Attributes:
        name: what it is called in the data; for ImageNet its WordNet id.
        description: what a reader calls it.
        definition: what that means; '' where nobody said.
    """

    name: str
    description: str
    definition: str = ''


@cache
def table(subset: str) -> tuple[Label, ...]:
    """The classes of one of `TABLES`, by index.

    Raises:
        ValueError: there is no such table.
    """
    if subset not in TABLES:
        raise ValueError(f'no table of classes is called {subset!r}{near(subset, TABLES)}')
    rows = [line.split('\t') for line in everything()]
    first = SUBSETS['imagenet-1k'][1] if subset == 'imagenet-22k-ms' else ''
    mark = TABLES[subset][1]
    chosen = [row for row in rows if mark in row[1]]
    if first:
        chosen.sort(key=lambda row: first not in row[1])
    return tuple(Label(name, description, definition) for name, _, description, definition in chosen)


@cache
def everything() -> tuple[str, ...]:
    """The lines of the table of all classes."""
    data = (files(__name__) / 'imagenet.tsv.xz').read_bytes()
    return tuple(lzma.decompress(data).decode().splitlines())


def subset_of(record: Mapping[str, Any]) -> str | None:
    """The table that fits published weights, by their number of classes; None where there is none."""
    return next((name for name, (count, _) in SUBSETS.items() if record.get('num_classes') == count), None)


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
