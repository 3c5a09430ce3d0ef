"""What of a run lies where on disk."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from foveal.engine import checkpoint, distributed, shards
from foveal.engine.config import TrainConfig
from foveal.engine.run import Run
from foveal.engine.selection import best_first
from foveal.engine.writer import Writer
from foveal.files import remove_leftovers

# what a run has before its first checkpoint
BEGUN = {'config.yaml', 'classes.json', 'provenance.json', 'tracking.json', 'report.html', 'tensorboard', 'wandb'}


def find_resumed(config: TrainConfig) -> tuple[TrainConfig, checkpoint.Checkpoint | None]:
    """The checkpoint to go on from, and the configuration to do it with."""
    if not config.resume:
        return config, None
    if config.resume == 'auto':
        output = Path(config.output or default_output(config))
        return config, opened(output) if checkpoint.written(output, 'last') else None
    saved = opened(Path(config.resume))
    if not config.data and 'run' in saved.header:
        stored = saved.header['run']['config']
        now = {'resume': config.resume, 'output': config.output or stored['output'], 'stop_epoch': config.stop_epoch}
        config = TrainConfig(**{**stored, **now})
    return replace(config, output=config.output or str(saved.path.parent)), saved


def opened(path: Path) -> checkpoint.Checkpoint:
    """The checkpoint to go on from of a path. One in shards has no tensors yet: processes take those that they need."""
    path = checkpoint.find(path, 'last')
    return shards.opened(path) if path.suffix == checkpoint.SHARDS else checkpoint.load(path)


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
            for left in folder.glob(f'.*{checkpoint.SHARDS}.*'):
                shutil.rmtree(left)
    begun = BEGUN if resume == 'auto' else set()
    if not resumed and output.is_dir() and any(path.name not in begun for path in output.iterdir()):
        raise FileExistsError(f'{output} already holds a run; choose another output, or go on with it by --resume auto')
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise OSError(f'cannot write to output {output}: {error.strerror}') from error


def save_epoch(run: Run, output: Path, process: distributed.Process, writer: Writer, is_best: bool) -> None:
    """Write what is kept of an epoch. The whole run comes last: killed before it, the epoch is made again."""
    if not (process.is_main or run.shards):
        return
    if is_best:
        write(writer, process, output / 'best.safetensors', run.snapshot_weights)
    if run.config.keep:
        keep_best(run, output / 'checkpoints', process, writer)
    if run.epoch in run.config.milestones:
        (output / 'checkpoints').mkdir(exist_ok=True)
        write(writer, process, output / 'checkpoints' / f'milestone-{run.epoch:04}.safetensors', run.snapshot)
    write(writer, process, output / 'last.safetensors', run.snapshot)


def keep_best(run: Run, folder: Path, process: distributed.Process, writer: Writer) -> None:
    """Write the weights of an epoch where it is among the best, and then delete what it drove out."""
    ranked = best_first(run.history, run.config.metric)
    best = {f'epoch-{row["epoch"]:04}.safetensors' for row in ranked[: run.config.keep]}
    newest = f'epoch-{run.epoch:04}.safetensors'
    if newest in best:
        folder.mkdir(exist_ok=True)
        write(writer, process, folder / newest, run.snapshot_weights)
    # the deleting waits for the writing
    writer.wait()
    for old in folder.glob('epoch-*.safetensors'):
        if process.is_main and old.name not in best:
            old.unlink()


def save_within_epoch(run: Run, output: Path, process: distributed.Process, writer: Writer) -> None:
    """Write a checkpoint before the epoch ends."""
    if run.losses:
        run.losses = list(distributed.total(torch.stack(run.losses)) / process.world_size)
    for model in [run.model, *([run.ema.model] if run.ema else [])]:
        distributed.share_statistics(model, run.config.dist_bn)
    if process.is_main or run.shards:
        write(writer, process, output / 'last.safetensors', run.snapshot)


def write(
    writer: Writer,
    process: distributed.Process,
    path: Path,
    take: Callable[[], checkpoint.Snapshot | shards.ShardSnapshot],
) -> None:
    """Writes a snapshot in the background. It is taken when the one before is written: memory holds one at a time.

    Args:
        writer: Writes.
        process: Only the first writes, but of what is sharded all do.
        path: The file; shards go to a folder of its name with another ending. Of the two, the older is deleted.
        take: Makes the snapshot.
    """
    writer.wait()
    taken, folder = take(), path.with_suffix(checkpoint.SHARDS)

    def job() -> None:
        if isinstance(taken, shards.ShardSnapshot):
            taken.write(folder)
            if process.is_main:
                path.unlink(missing_ok=True)
        elif process.is_main:
            taken.write(path)
            shutil.rmtree(folder, ignore_errors=True)

    writer.submit(job)
