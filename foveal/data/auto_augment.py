"""Policies of random operations, and the strings that name them: `rand-m9-mstd0.5-inc1`.

A policy string is a name and then keys with their values.

| name | policy | keys |
|---|---|---|
| v0, v0r, original, originalr | AutoAugment (arXiv:1805.09501): one of 25 pairs of operations | mstd |
| 3a | three-augment (arXiv:2204.07118): solarize, grey or blur | mstd |
| rand | RandAugment (arXiv:1909.13719): n operations, each with probability p | m n p mstd mmax inc t |
| augmix | AugMix (arXiv:1912.02781): a mixture of w chains of d operations with the image | m w d a b mstd |
| trivial, ta_wide | TrivialAugment (arXiv:2103.10158): one operation of any strength | |

- `v0` is the policy of the published EfficientNets; `r` takes the posterize of the authors' research code
- `m` magnitude: the level, 0 to 10 and above (default 10; augmix 3)
- `mstd` its standard deviation (0); above 100 the level is uniform between 0 and m (augmix's default)
- `mmax` the highest level that the deviation may reach (10)
- `n` operations (2); `p` probability of each (0.5)
- `inc1` takes the operations whose effect grows with the level
- `t` a set of operations: weights, 3a, 3aw
- `w` chains (3); `d` their length, -1 for 1 to 3 (-1); `a` concentration of the mixture (1); `b` changes nothing, as
  chains are always summed exactly
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from foveal.data.ops import (
    OPERATIONS,
    Operation,
    Settings,
    brightness,
    color,
    contrast,
    geometric,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)
from foveal.data.policies import AUGMIX, RAND, RAND_INCREASING, RAND_SETS, SUB_POLICIES
from foveal.errors import near

UNIFORM_ABOVE = 100


class Policy(Protocol):
    """Changes an image (height, width, channels) at random."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


class Level(NamedTuple):
    """How strong an operation is: `mean`, spread by `std` (infinite: uniform below it), within 0 and `most`."""

    mean: float
    std: float = 0.0
    most: float | None = None

    def draw(self, rng: np.random.Generator) -> float:
        """The level of one use."""
        level = self.mean
        if self.std == float('inf'):
            level *= rng.random()
        elif self.std:
            level = rng.normal(level, self.std)
        return max(0.0, min(level, 10.0 if self.most is None else self.most))


class Step(NamedTuple):
    """An operation that is applied with a probability."""

    name: str
    probability: float
    level: Level

    def __call__(self, image: np.ndarray, rng: np.random.Generator, settings: Settings) -> np.ndarray:
        if self.probability < 1 and rng.random() >= self.probability:
            return image
        return OPERATIONS[self.name](image, self.level.draw(rng), rng, settings)


@dataclass(frozen=True)
class AutoAugment:
    """One of several sequences of steps."""

    sub_policies: tuple[tuple[Step, ...], ...]
    settings: Settings

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for step in self.sub_policies[int(rng.random() * len(self.sub_policies))]:
            image = step(image, rng, self.settings)
        return image


@dataclass(frozen=True)
class RandAugment:
    """`count` of the steps: with replacement, or where they have weights, without."""

    steps: tuple[Step, ...]
    settings: Settings
    count: int = 2
    weights: tuple[float, ...] | None = None

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.weights is None:
            chosen = (rng.random(self.count) * len(self.steps)).astype(int)
        else:
            share = np.array(self.weights) / sum(self.weights)
            chosen = rng.choice(len(self.steps), self.count, replace=False, p=share)
        for i in chosen:
            image = self.steps[i](image, rng, self.settings)
        return image


@dataclass(frozen=True)
class AugMix:
    """The image mixed with `width` chains of `depth` steps of itself; a depth of -1 is 1 to 3.

    Shares of the chains are from Dirichlet(alpha), the share of all of them from Beta(alpha, alpha).
    """

    steps: tuple[Step, ...]
    settings: Settings
    width: int = 3
    depth: int = -1
    alpha: float = 1.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        shares = rng.dirichlet([self.alpha] * self.width)
        augmented = rng.beta(self.alpha, self.alpha)
        mixed = image * np.float32(1 - augmented)
        for share in shares:
            chain = image
            for i in rng.integers(len(self.steps), size=self.depth if self.depth > 0 else rng.integers(1, 4)):
                chain = self.steps[i](chain, rng, self.settings)
            mixed += chain * np.float32(augmented * share)
        return np.rint(mixed).astype(image.dtype)


@dataclass(frozen=True)
class TrivialAugment:
    """One operation, at one of 31 strengths from nothing to everything."""

    settings: Settings

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        operation = TRIVIAL_WIDE[int(rng.random() * len(TRIVIAL_WIDE))]
        return operation(image, int(rng.random() * 31) / 3, rng, self.settings)


def wide_enhance(apply: Callable[..., np.ndarray]) -> Operation:
    """A factor from 0.01 to 1.99."""
    return Operation(apply, lambda level, sign, _: 1 + sign * 0.99 * level / 10, signed=True)


# the wide search space of the paper's appendix; level 10 is the end of each range
TRIVIAL_WIDE = (
    Operation(lambda image: image),
    OPERATIONS['AutoContrast'],
    OPERATIONS['Equalize'],
    geometric(rotate, lambda _: 135),
    Operation(posterize, lambda level, *_: 8 - round(6 * level / 10)),
    Operation(solarize, lambda level, *_: round(255 * (1 - level / 10))),
    wide_enhance(color),
    wide_enhance(contrast),
    wide_enhance(brightness),
    wide_enhance(sharpness),
    geometric(shear_x, lambda _: 0.99),
    geometric(shear_y, lambda _: 0.99),
    geometric(translate_x, lambda _: 32),
    geometric(translate_y, lambda _: 32),
)


def number(least: float, most: float = float('inf'), whole: bool = False) -> Callable[[str], float]:
    """A reader of numbers in a range."""

    def read(text: str) -> float:
        value = int(text) if whole else float(text)
        if not least <= value <= most:
            raise ValueError
        return value

    read.__doc__ = f'a{" whole" if whole else ""} number from {least:g}' + (f' to {most:g}' if most < 1e9 else '')
    return read


def flag(text: str) -> bool:
    """0 or 1"""
    return bool(number(0, 1, whole=True)(text))


def set_name(text: str) -> str:
    """weights, 3a or 3aw"""
    if text not in RAND_SETS:
        raise ValueError
    return text


def depth(text: str) -> float:
    """a whole number from 1, or -1 for 1 to 3"""
    return -1 if text == '-1' else number(1, whole=True)(text)


STD = {'mstd': number(0)}
KEYS: dict[str, Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(SUB_POLICIES, STD),
    'rand': {
        'm': number(0),
        'n': number(0, whole=True),
        'p': number(0, 1),
        'mmax': number(0),
        'inc': flag,
        't': set_name,
    }
    | STD,
    'augmix': {'m': number(0), 'w': number(1, whole=True), 'd': depth, 'b': flag, 'a': number(1e-6)} | STD,
    'trivial': {},
    'ta_wide': {},
}


def parse_policy(text: str) -> tuple[str, dict[str, Any]]:
    """Takes a policy string apart: its name, and the values of its keys.

    Raises:
        ValueError: An unknown name or key, or a value out of range; the message says what is legal.
    """
    name, *sections = re.split(r'-(?=[a-z])', text)
    if name not in KEYS:
        known = ', '.join(KEYS)
        raise ValueError(f'auto_augment: policy {name!r} of {text!r} is none of {known}{near(name, KEYS)}')
    keys, values = KEYS[name], {}
    for section in sections:
        # the longest key that fits: mstd0.5 is no m
        key = max((key for key in keys if section.startswith(key)), key=len, default=None)
        if key is None:
            legal = f'it takes {", ".join(keys)}' if keys else 'it takes none'
            raise ValueError(f'auto_augment: {name} has no key {section!r} (in {text!r}); {legal}')
        try:
            values[key] = keys[key](section[len(key) :])
        except ValueError:
            what = keys[key].__doc__
            raise ValueError(f'auto_augment: {key} of {text!r} must be {what}, got {section[len(key) :]!r}') from None
    return name, values


def create_policy(text: str, settings: Settings = Settings()) -> Policy:  # noqa: B008 (immutable)
    """Builds the policy that a string names; the strings are at the head of this file.

    Args:
        text: The policy string.
        settings: What its operations share.

    Returns:
        A callable `(image, rng) -> image` for arrays (height, width, channels).

    Raises:
        ValueError: An unknown policy or key, or a value out of range.
    """
    name, values = parse_policy(text)
    std = values.get('mstd', float('inf') if name == 'augmix' else 0.0)
    std = float('inf') if std > UNIFORM_ABOVE else std
    if name in SUB_POLICIES:
        return AutoAugment(
            tuple(tuple(Step(op, p, Level(m, std)) for op, p, m in pair) for pair in SUB_POLICIES[name]), settings
        )
    if name == 'augmix':
        level = Level(values.get('m', 3), std)
        steps = tuple(Step(op, 1.0, level) for op in AUGMIX)
        return AugMix(steps, settings, values.get('w', 3), values.get('d', -1), values.get('a', 1.0))
    if name != 'rand':
        return TrivialAugment(settings)
    level = Level(values.get('m', 10), std, values.get('mmax'))
    weighted: dict[str, float] = RAND_SETS[values['t']] if 't' in values else {}
    names = tuple(weighted or (RAND_INCREASING if values.get('inc') else RAND))
    steps = tuple(Step(op, values.get('p', 0.5), level) for op in names)
    weights = tuple(weighted.values()) if len(set(weighted.values())) > 1 else None
    count = values.get('n', 2)
    if weights and count > len(names):
        raise ValueError(f'auto_augment: n of {text!r} is at most {len(names)}, the operations of its set')
    return RandAugment(steps, settings, count, weights)
