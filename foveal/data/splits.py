"""The names that people give to training, validation and test data."""

from collections.abc import Iterable

SPLITS = ('train', 'validation', 'test')
# what stands for a split, in the order of preference; test images serve where no others are there to validate on
USUAL = {
    'train': ('train', 'training'),
    'validation': ('val', 'valid', 'validation', 'eval', 'evaluation', 'test'),
    'test': ('test', 'testing'),
}
ALIASES = {alias: split for split in ('validation', 'train') for alias in USUAL[split] if alias != 'test'}
ALIASES['testing'] = 'test'


def usual_names(split: str) -> tuple[str, ...]:
    """The names under which a split may be found: its own first, then the usual ones of its kind."""
    return tuple(dict.fromkeys((split, *USUAL.get(canonical(split), ()))))


def canonical(split: str) -> str:
    """train, validation or test for any usual name of them; any other name as it is."""
    return ALIASES.get(split.lower(), split)


def choose(split: str, names: Iterable[str]) -> str | None:
    """The name among those there that stands for a split, or None."""
    there = {name.lower(): name for name in names}
    return next((there[name.lower()] for name in usual_names(split) if name.lower() in there), None)


def is_split(name: str) -> bool:
    """Whether a name is one that people give to splits."""
    return canonical(name) in SPLITS
