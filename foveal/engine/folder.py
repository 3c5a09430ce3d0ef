"""What of a run lies where on disk."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from foveal.engine import checkpoint, distributed
from foveal.engine.config import TrainConfig
from foveal.engine.run import Run


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


def prepare_output(output: Path, resumed: bool) -> None:
    """Makes the run's folder.

    Raises:
        FileExistsError: Another run's files are there.
        OSError: It cannot be written.
    """
    if not resumed and output.is_dir() and any(output.iterdir()):
        raise FileExistsError(f'{output} already holds a run; choose another output, or go on with it by --resume auto')
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise OSError(f'cannot write to output {output}: {error.strerror}') from error


def keep_best(run: Run, output: Path) -> None:
    """Write the weights of an epoch where it is among the best, and delete what it drove out."""
    if not run.config.keep:
        return
    folder = output / 'checkpoints'
    folder.mkdir(exist_ok=True)
    ranked = sorted(run.history, key=lambda row: (-row['val_top1'], row['epoch']))
    best = {f'epoch-{row["epoch"]:04}.safetensors' for row in ranked[: run.config.keep]}
    newest = f'epoch-{run.epoch:04}.safetensors'
    if newest in best:
        run.save_weights(folder / newest)
    for old in folder.glob('epoch-*.safetensors'):
        if old.name not in best:
            old.unlink()


def save_within_epoch(run: Run, output: Path, process: distributed.Process) -> None:
    """Write a checkpoint before the epoch ends."""
    run.losses = list(distributed.total(torch.stack(run.losses)) / process.world_size)
    if process.is_main:
        run.save(output / 'last.safetensors')
