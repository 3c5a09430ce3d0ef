"""What of a run lies where on disk."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from foveal.engine import checkpoint, distributed
from foveal.engine.config import TrainConfig
from foveal.engine.run import Run
from foveal.engine.writer import Writer
from foveal.files import remove_leftovers


def find_resumed(config: TrainConfig) -> tuple[TrainConfig, checkpoint.Checkpoint | None]:
    """The checkpoint to go on from, and the configuration to do it with."""
    if not config.resume:
        return config, None
    if config.resume == 'auto':
        output = Path(config.output or default_output(config))
        return config, checkpoint.load(output, 'last') if (output / 'last.safetensors').is_file() else None
    saved = checkpoint.load(config.resume, 'last')
    if not config.data and 'run' in saved.header:
        stored = saved.header['run']['config']
        config = TrainConfig(**{**stored, 'resume': config.resume, 'output': config.output or stored['output']})
    return replace(config, output=config.output or str(saved.path.parent)), saved


def default_output(config: TrainConfig) -> str:
    """Where a run goes that names no folder."""
    return f'runs/{config.model}-{Path(config.data).name}'


def prepare_output(output: Path, resume: str, resumed: bool) -> None:
    """Makes the run's folder, or clears it of what a killed run was writing.

    Args:
        output: The folder.
        resume: What was asked; under auto, a run that was killed before its first checkpoint begins again.
        resumed: Whether a checkpoint was found to go on from.

    Raises:
        FileExistsError: Another run's files are there.
        OSError: It cannot be written.
    """
    if resume and output.is_dir():
        for folder in (output, output / 'checkpoints'):
            remove_leftovers(folder)
    begun = {'config.yaml', 'classes.json'} if resume == 'auto' else set()
    if not resumed and output.is_dir() and any(path.name not in begun for path in output.iterdir()):
        raise FileExistsError(f'{output} already holds a run; choose another output, or go on with it by --resume auto')
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise OSError(f'cannot write to output {output}: {error.strerror}') from error


def save_epoch(run: Run, output: Path, writer: Writer, is_best: bool) -> None:
    """Write what is kept of an epoch. The whole run comes last: killed before it, the epoch is made again."""
    if is_best:
        write(writer, output / 'best.safetensors', run.snapshot_weights)
    if run.config.keep:
        keep_best(run, output / 'checkpoints', writer)
    write(writer, output / 'last.safetensors', run.snapshot)


def keep_best(run: Run, folder: Path, writer: Writer) -> None:
    """Write the weights of an epoch where it is among the best, and then delete what it drove out."""
    ranked = sorted(run.history, key=lambda row: (-row['val_top1'], row['epoch']))
    best = {f'epoch-{row["epoch"]:04}.safetensors' for row in ranked[: run.config.keep]}
    newest = f'epoch-{run.epoch:04}.safetensors'
    if newest in best:
        folder.mkdir(exist_ok=True)
        write(writer, folder / newest, run.snapshot_weights)
    # the deleting waits for the writing
    writer.wait()
    for old in folder.glob('epoch-*.safetensors'):
        if old.name not in best:
            old.unlink()


def save_within_epoch(run: Run, output: Path, process: distributed.Process, writer: Writer) -> None:
    """Write a checkpoint before the epoch ends."""
    if run.losses:
        run.losses = list(distributed.total(torch.stack(run.losses)) / process.world_size)
    if process.is_main:
        write(writer, output / 'last.safetensors', run.snapshot)


def write(writer: Writer, path: Path, take: Callable[[], checkpoint.Snapshot]) -> None:
    """Writes a snapshot in the background. It is taken when the one before is written: memory holds one at a time."""
    writer.wait()
    writer.submit(partial(take().write, path))
