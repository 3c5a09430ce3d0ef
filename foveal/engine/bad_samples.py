"""The list of what could not be read, kept up to date in a run's folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foveal.data import Loader, UnreadableImageError
from foveal.data.bad import write_bad_samples
from foveal.engine.distributed import Process


@contextmanager
def listed_bad_samples(output: Path, process: Process, train: Loader, validation: Loader) -> Iterator[None]:
    """Writes bad_samples.json after the block: of all processes, or of the one whose limit was passed."""
    try:
        yield
    except UnreadableImageError:
        # the other processes do not know yet, so they cannot be asked
        name = 'bad_samples.json' if process.is_main else f'bad_samples.{process.rank}.json'
        write_bad_samples(output / name, train=train.bad.rows(), validation=validation.bad.rows())
        raise
    merged = train.bad.merged(), validation.bad.merged()
    if process.is_main:
        write_bad_samples(output / 'bad_samples.json', train=merged[0], validation=merged[1])
