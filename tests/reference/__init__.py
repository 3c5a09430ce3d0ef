"""Facts of the published checkpoints, which foveal's architectures have to meet. Each file holds one JSON value a line.

models      an architecture: parameters, widths, feature levels, default weights' record, parameters without weight
            decay, sha256 of the layer-decay groups (the JSON list of group numbers, in the manifest's order of
            parameters), and outputs under the weights and inputs of `tests/deterministic.py`
manifests   [architecture, [[name, shape, dtype, 'p' parameter or 'b' buffer], ...]]: its state dict, in order
pretrained  [architecture, module, tags, those with weights]: the record of every tag, the default one first
loaded      outputs of weights loaded for other sizes and channels, and of weights under their original authors' names:
            architecture, options, the first 16 logits and the standard deviation of all; `of` are options of the model
            that the weights come from too; `names` are the file's [name, shape] rows, where they are not those of the
            architecture; as measured on timm 1.0.31
augment     policies, distributions and crops, as measured on timm 1.0.31 by `tests/make_augment_reference.py`
optim       an optimizer (timm 1.0.31): class, defaults, and cases [how it is asked for, values of the parameters after
            20 steps], as tests/make_optim_reference.py measures them
training    50 updates made of timm's parts (1.0.31): mixup's shares, the losses, and a digest of the weights, as
            `tests/make_training_reference.py` measures them
list_models arguments of `list_models` and the names that they select
schedules   learning rates of a grid of schedules, and
groups      weight decay and learning rate of every parameter of a few architectures, as measured on timm 1.0.31;
            `tests/make_schedule_reference.py` writes both
"""

import json
import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any


def rows(name: str) -> Iterator[Any]:
    """The rows of one file."""
    with lzma.open(Path(__file__).parent / f'{name}.jsonl.xz', 'rt') as file:
        yield from map(json.loads, file)


@cache
def models() -> dict[str, dict[str, Any]]:
    """Architecture -> its facts."""
    return {row['name']: row for row in rows('models')}


@cache
def manifests() -> dict[str, list[list[Any]]]:
    """Architecture -> its state dict as [name, shape, dtype, kind] rows."""
    return dict(rows('manifests'))
