"""What a source layout is: how it is recognised, and how its names become ours."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Weights as their authors name them.

    Attributes:
        name: of the source.
        mark: pattern that the name of some weight matches, in this layout alone.
        rules: (pattern, replacement) pairs, applied to every name in this order.
        drop: pattern of the names that the model has no use for.
        change: what more than renaming is needed, after it: takes the renamed weights and the model.
    """

    name: str
    mark: str
    rules: tuple[tuple[str, str], ...] = ()
    drop: str = r'(?!)'
    change: Callable[[Weights, Any], Weights] | None = None

    def recognises(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether the weights are in this layout, by their names."""
        return any(re.search(self.mark, name) for name in weights)

    def translate(self, weights: Mapping[str, Tensor], model: Any) -> Weights:
        """The weights under the model's names, and where only axes of length one differ in the model's shapes."""
        result = dict(renamed(weights, self.rules, self.drop))
        if self.change is not None:
            result = self.change(result, model)
        own = model.state_dict()
        for name, tensor in result.items():
            if name in own and tensor.shape != own[name].shape and tensor.numel() == own[name].numel():
                result[name] = tensor.reshape(own[name].shape)
        return result


def renamed(
    weights: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...], drop: str
) -> Iterator[tuple[str, Tensor]]:
    """(new name, tensor) of every weight that is not dropped."""
    for name, tensor in weights.items():
        if re.search(drop, name):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        yield name, tensor
