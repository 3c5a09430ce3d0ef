"""Samples that cannot be read: raised, or left out, counted and listed."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from foveal.data.images import UnreadableImageError
from foveal.files import write_text

POLICIES = ('raise', 'skip')


@dataclass(frozen=True)
class BadSample:
    """An image that could not be read: it travels to the main process as a value, so that it can be named there.

    Attributes:
        index: In the data set.
        name: Its file, or what its source calls it.
        reason: Why.
    """

    index: int
    name: str
    reason: str


class BadSamples:
    """What to do about samples that cannot be read, and which there were.

    Args:
        policy: raise (stop at the first) or skip (leave it out of its batch, which is smaller for it; no other image
            takes its place).
        limit: How many different samples may be skipped, on this process, before the run stops after all.

    Raises:
        ValueError: An unknown policy, or a limit below 0.
    """

    def __init__(self, policy: str = 'raise', limit: int = 100):
        if policy not in POLICIES:
            raise ValueError(f'bad_samples must be one of {", ".join(POLICIES)}, got {policy!r}')
        if limit < 0:
            raise ValueError(f'bad_limit must be at least 0, got {limit}')
        self.policy, self.limit = policy, limit
        self.found: dict[int, BadSample] = {}
        self.times: Counter[int] = Counter()

    def note(self, samples: Iterable[BadSample]) -> None:
        """Takes a batch's bad samples to record.

        Raises:
            UnreadableImageError: The policy, or the limit, ends the run.
        """
        for sample in samples:
            self.found.setdefault(sample.index, sample)
            self.times[sample.index] += 1
            if self.policy == 'raise':
                raise UnreadableImageError(sample.reason)
            if len(self.found) > self.limit:
                raise UnreadableImageError(
                    f'{len(self.found)} images cannot be read, more than bad_limit={self.limit}; the last: '
                    f'{sample.reason}'
                )

    def merged(self) -> list[dict[str, Any]]:
        """Every bad sample of all processes once, in the order of the data set, with how often it was met."""
        every = [self.rows()]
        if dist.is_initialized():
            every *= dist.get_world_size()
            dist.all_gather_object(every, self.rows())
        total: dict[int, dict[str, Any]] = {}
        for row in (row for rows in every for row in rows):
            times = total[row['index']]['times'] if row['index'] in total else 0
            total[row['index']] = {**row, 'times': row['times'] + times}
        return [total[index] for index in sorted(total)]

    def rows(self) -> list[dict[str, Any]]:
        """This process's bad samples, in the order of the data set, with how often each was met."""
        return [{**asdict(self.found[index]), 'times': self.times[index]} for index in sorted(self.found)]


def write_bad_samples(path: Path, **loaders: list[dict[str, Any]]) -> None:
    """Writes what `BadSamples.merged` gave for each loader, with counts; no file where nothing was bad."""
    if any(loaders.values()):
        report = {name: {'count': len(rows), 'samples': rows} for name, rows in loaders.items()}
        write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + '\n')
