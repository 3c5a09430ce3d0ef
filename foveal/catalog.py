"""The published architectures and their weights, read from the JSON files under `foveal/zoo/`.

One file a family; its name is the module that builds the family. A file says
  class       the class of its architectures, unless one names another
  defaults    what its weights have in common, as fields of `PretrainedCfg`
  origins     named groups of licence, address and paper, which a weight takes by `"origin": name`
  archs       name -> parameters, multiply-adds (where measured), feature levels as [channels, reduction(, how often)],
              and as `cfg` what all weights of the architecture have in common
  weights     `architecture.tag` -> what differs (null: not set); the first tag of an architecture is its default.
              `norm` names mean and std; the hub id 'owner/' stands for 'owner/<architecture>.<tag>'; `imagenet` holds
              the fields of `Result`
  deprecated  old name -> new name
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from foveal.pretrained import PretrainedCfg

ZOO = Path(__file__).parent / 'zoo'
NORMALIZATIONS = {
    'imagenet': {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
    'inception': {'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]},
    'clip': {'mean': [0.48145466, 0.4578275, 0.40821073], 'std': [0.26862954, 0.26130258, 0.27577711]},
    'none': {'mean': [0.0, 0.0, 0.0], 'std': [1.0, 1.0, 1.0]},
}
# Public tables of accuracies. A tag has a row of one where the table is of the same file, or where the authors released
# no other weights of this name: EfficientNet by recipe (Google), HRNet and BEiT (Microsoft), VGG and DenseNet
# (torchvision).
TABLES = {
    'torchvision': 'metadata of the weights in torchvision 0.29',
    'mmpretrain': 'metafile.yml of the models that mmpretrain 1.2.0 converted',
}


@dataclass(frozen=True, slots=True)
class Result:
    """How often weights are right about the 50,000 validation images of ImageNet.

    Attributes:
        top1: percent of the images whose first guess is right.
        top5: percent of those whose class is among the first five guesses.
        size: height and width of the input that was measured, in pixels.
        source: the one of `TABLES` that says so.
    """

    top1: float
    top5: float
    size: int
    source: str


@dataclass(slots=True)
class Architecture:
    """One architecture: what is known of it without building it.

    `weights` maps a tag to the fields of its cfg; `results` has those tags whose accuracy a public table gives.
    """

    name: str
    module: str
    class_name: str
    params: int | None = None
    gmacs: float | None = None
    features: tuple[tuple[int, int], ...] = ()  # (channels, reduction) of every level
    weights: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)

    def cfg(self, tag: str) -> PretrainedCfg:
        """The record of one tag; KeyError where there is none."""
        values = {key: value for key, value in self.weights[tag].items() if value is not None}
        if values.get('hf_hub_id', '').endswith('/'):
            values['hf_hub_id'] += f'{self.name}.{tag}' if tag else self.name
        return PretrainedCfg.from_dict({**values, 'architecture': self.name, 'tag': tag or None})

    def has_weights(self, tag: str) -> bool:
        """Whether weights are published under the tag: the question of `PretrainedCfg.has_weights`, unparsed."""
        values = self.weights[tag]
        return any(values.get(key) for key in ('hf_hub_id', 'url', 'file', 'state_dict'))


@dataclass(slots=True)
class Catalog:
    """Everything that is published: architectures by name, and old names -> new ones by module."""

    archs: dict[str, Architecture] = field(default_factory=dict)
    deprecated: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def modules(self) -> set[str]:
        return set(self.deprecated)


@cache
def catalog() -> Catalog:
    """The catalog of the installed package, read once a process (ten milliseconds for the 98 published families)."""
    found = Catalog()
    for path in sorted(ZOO.glob('*.json')):
        _read(found, path.stem, json.loads(path.read_bytes()))
    return found


def _read(found: Catalog, module: str, family: dict[str, Any]) -> None:
    """Add the architectures, weights and old names of one family's file."""
    shared = {}
    for name, facts in family['archs'].items():
        shared[name] = {**family['defaults'], **facts.get('cfg', {})}
        features = tuple((row[0], row[1]) for row in facts['features'] for _ in range(row[2] if len(row) > 2 else 1))
        found.archs[name] = Architecture(
            name, module, facts.get('class', family['class']), facts['params'], facts.get('gmacs'), features
        )
    for full, own in family['weights'].items():
        name, _, tag = full.partition('.')
        values = {**shared[name], **own}
        if norm := values.pop('norm', None):
            values |= NORMALIZATIONS[norm]
        if origin := values.pop('origin', None):
            values |= family['origins'][origin]
        if measured := values.pop('imagenet', None):
            found.archs[name].results[tag] = Result(*measured)
        found.archs[name].weights[tag] = values
    found.deprecated[module] = family['deprecated']
