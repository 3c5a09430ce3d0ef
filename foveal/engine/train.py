"""Training, top to bottom: build, resume, epochs, evaluate, save."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from foveal.data import (
    Augment,
    ImageDataset,
    Loader,
    create_dataset,
    create_loader,
    mixup,
    resolve_data_config,
    soft_targets,
)
from foveal.data.images import check_channels
from foveal.data.readers import FolderReader
from foveal.engine import checkpoint, distributed, log
from foveal.engine.config import TrainConfig, check_train
from foveal.engine.evaluate import Scores, evaluate
from foveal.engine.run import Run
from foveal.factory import create_model
from foveal.optim import create_optimizer
from foveal.scheduler import create_scheduler

# updates between the questions whether any process was told to stop: each costs a synchronisation
ASK_EVERY = 10


def train(config: TrainConfig) -> Run:
    """Trains a model as configured, and leaves a folder with its checkpoints, metrics and figures.

    Started by torchrun, the processes share every batch. SIGINT and SIGTERM end the run after the current update, with
    a checkpoint to go on from.

    Args:
        config: What is asked; with `resume` and no `data`, the resumed run's own configuration is taken.

    Returns:
        The run, in the state that `last.safetensors` holds.

    Raises:
        ValueError, OSError: Something asked cannot be done; nothing has been trained.
        UnreadableImageError, FloatingPointError: A damaged image, or a loss that is no number; epochs done are saved.
    """
    config, saved = find_resumed(config)
    check_train(config)
    process = distributed.start(config.device, config.threads)
    with ExitStack() as cleanup:
        cleanup.callback(distributed.finish)
        cleanup.enter_context(reproducible(config))
        train_set, val_set = open_data(config)
        config = replace(config, output=config.output or default_output(config))
        output = Path(config.output)
        if process.is_main:
            prepare_output(output, saved is not None)
        run, train_loader, val_loader = build(config, process, train_set, val_set)
        if saved:
            run.resume(saved)
        if process.is_main:
            log.write_start(run, output)
        distributed.wait()
        stop = cleanup.enter_context(stop_signals())
        return epochs(run, train_loader, val_loader, process, output, stop)


def epochs(
    run: Run,
    train_loader: Loader,
    val_loader: Loader,
    process: distributed.Process,
    output: Path,
    stop: threading.Event,
) -> Run:
    """Trains, evaluates and saves until the epochs are done or a signal says stop."""
    config, model, scores = run.config, wrap(run.model, process), None
    while run.epoch < config.epochs:
        began = time.perf_counter()
        finished = train_epoch(run, model, train_loader, process, output, stop)
        if not finished:
            break
        seconds = time.perf_counter() - began
        distributed.average_buffers(run.model)
        scores = evaluate(run.model, val_loader, len(run.classes), config.precision)
        row = summarise(run, scores, process, seconds)
        is_best = run.best is None or scores.top1 > run.best
        run.best = scores.top1 if is_best else run.best
        run.history.append(row)
        run.epoch, run.step, run.losses = run.epoch + 1, 0, []
        run.scheduler.step(run.epoch)
        if process.is_main:
            if is_best:
                run.save_weights(output / 'best.safetensors')
            run.save(output / 'last.safetensors')
            log.write_epoch(run, output, row, is_best)
        if stop_agreed(0, stop, process):
            break
    if process.is_main:
        log.write_end(run, output, scores)
    distributed.wait()
    return run


def train_epoch(
    run: Run, model: nn.Module, loader: Loader, process: distributed.Process, output: Path, stop: threading.Event
) -> bool:
    """Makes the rest of the epoch's updates; False where a signal ended it early, after saving."""
    accum = run.config.grad_accum
    updates = updates_per_epoch(loader, accum)
    loader.set_epoch(run.epoch, run.step * accum)
    batches = iter(loader)
    model.train()
    with log.progress(run, updates, process.is_main) as advance:
        while run.step < updates:
            count = min(accum, len(loader) - run.step * accum)
            run.losses.append(update(run, model, batches, count, process))
            run.step += 1
            run.scheduler.step_update(run.epoch * updates + run.step)
            advance(run.losses[-1])
            told = stop_agreed(run.step, stop, process)
            due = bool(run.config.save_updates) and run.step % run.config.save_updates == 0
            if (told or due) and run.step < updates:
                save_within_epoch(run, output, process)
            if told and run.step < updates:
                return False
    mean = distributed.total(torch.stack(run.losses).mean()) / process.world_size
    if not mean.isfinite():
        raise FloatingPointError(
            f'the loss became {mean.item()} in epoch {run.epoch + 1}; try a lower lr, a longer warm-up or clip_grad'
        )
    return True


def update(
    run: Run,
    model: nn.Module,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    count: int,
    process: distributed.Process,
) -> torch.Tensor:
    """One update from the gradients of `count` batches; returns their mean loss."""
    config = run.config
    address = (config.seed, run.epoch, run.step, process.rank)
    # dropout and its like: decided by the update's address, so that a resumed run draws what an unbroken one draws
    torch.manual_seed(int(np.random.SeedSequence(address).generate_state(1)[0]))
    rng = np.random.default_rng(address)
    loss_sum = torch.zeros((), device=process.device)
    for i in range(count):
        images, classes = next(batches)
        targets = soft_targets(classes, len(run.classes), config.smoothing)
        if config.mixup:
            images, targets = mixup(images, targets, rng.beta(config.mixup, config.mixup))
        # gradients cross processes once an update
        wait_to_sync = (
            model.no_sync() if isinstance(model, DistributedDataParallel) and i + 1 < count else nullcontext()
        )
        with wait_to_sync:
            with torch.autocast(process.device.type, torch.bfloat16, enabled=config.precision == 'bf16'):
                logits = model(images)
            loss = cross_entropy(logits.float(), targets) / count
            loss.backward()
        loss_sum += loss.detach()
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_grad)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return loss_sum


def summarise(run: Run, scores: Scores, process: distributed.Process, seconds: float) -> dict[str, Any]:
    """The row of an epoch in metrics.csv."""
    loss = distributed.total(torch.stack(run.losses).mean()) / process.world_size
    return {
        'epoch': run.epoch + 1,
        'train_loss': loss.item(),
        'val_loss': scores.loss,
        'val_top1': scores.top1,
        'val_top5': scores.top5,
        'lr': run.optimizer.param_groups[0]['lr'],
        'seconds': round(seconds, 2),
        'images_per_second': round(len(run.losses) * run.global_batch / seconds, 1),
    }


def build(
    config: TrainConfig, process: distributed.Process, train_set: ImageDataset, val_set: ImageDataset
) -> tuple[Run, Loader, Loader]:
    """The model, what trains it, and the loaders."""
    torch.manual_seed(config.seed)
    model_options: dict[str, Any] = {**config.model_options}
    if config.in_chans is not None:
        model_options['in_chans'] = config.in_chans
    model = create_model(
        config.model,
        pretrained=config.pretrained,
        checkpoint_path=config.checkpoint,
        num_classes=len(train_set.classes),
        **model_options,
    )
    asked = {key: getattr(config, key) for key in ('mean', 'std', 'crop_pct', 'crop_mode', 'interpolation')}
    asked |= {'img_size': config.img_size or model_options.get('img_size'), 'in_chans': model_options.get('in_chans')}
    preprocess = resolve_data_config(asked, model=model)
    check_channels(preprocess.input_size[0])
    channels_last = process.device.type in ('cpu', 'cuda') if config.channels_last is None else config.channels_last
    model.to(process.device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    optimizer = create_optimizer(model, config.opt, config.lr, config.weight_decay, config.momentum)

    shared: dict[str, Any] = {
        **preprocess,
        'batch_size': config.batch_size,
        'num_workers': config.workers,
        'seed': config.seed,
        'rank': process.rank,
        'world_size': process.world_size,
        'device': process.device,
        'channels_last': channels_last,
    }
    augment = {field.name: getattr(config, field.name) for field in fields(Augment)}
    train_loader = create_loader(train_set, is_training=True, no_aug=config.no_aug, **augment, **shared)
    val_loader = create_loader(val_set, **shared)
    scheduler, _ = create_scheduler(
        optimizer,
        config.sched,
        config.epochs,
        config.warmup_epochs,
        config.warmup_lr,
        config.min_lr,
        updates_per_epoch(train_loader, config.grad_accum),
    )
    global_batch = config.batch_size * config.grad_accum * process.world_size
    run = Run(config, model, optimizer, scheduler, train_set.classes, preprocess, model_options, global_batch)
    return run, train_loader, val_loader


def wrap(model: nn.Module, process: distributed.Process) -> nn.Module:
    """The model whose backward pass averages gradients over the processes."""
    if process.world_size == 1:
        return model
    return DistributedDataParallel(model, device_ids=[process.device] if process.device.type == 'cuda' else None)


def updates_per_epoch(loader: Loader, grad_accum: int) -> int:
    """The last update of an epoch may have fewer batches than the others."""
    return -(-len(loader) // grad_accum)


def open_data(config: TrainConfig) -> tuple[ImageDataset, ImageDataset]:
    """The images to train on and to evaluate on, numbered by the same classes.

    Raises:
        ValueError: A single class, or no images of their own to evaluate on.
    """
    where: dict[str, Any] = {'download': config.download, 'val_fraction': config.val_fraction}
    name, root = config.data, config.data_root
    train_set = create_dataset(name, root, config.train_split, True, class_map=config.class_map, **where)
    if len(train_set.classes) < 2:
        raise ValueError(f'{name} has one class only, {train_set.classes}; a classifier needs at least two')
    # classes that the evaluation images lack keep their numbers
    numbering = None if name.startswith('torch/') else train_set.classes
    val_set = create_dataset(name, root, config.val_split, class_map=numbering, **where)
    roots = [data.reader.root for data in (train_set, val_set) if isinstance(data.reader, FolderReader)]
    if len(roots) == 2 and roots[0] == roots[1] and not config.val_fraction and config.val_split != config.train_split:
        raise ValueError(
            f'{name} has no {config.val_split} split: training and evaluation would see the same images; '
            'give val_fraction (such as 0.1) to hold some out'
        )
    return train_set, val_set


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


def save_within_epoch(run: Run, output: Path, process: distributed.Process) -> None:
    """Write a checkpoint before the epoch ends."""
    run.losses = list(distributed.total(torch.stack(run.losses)) / process.world_size)
    if process.is_main:
        run.save(output / 'last.safetensors')


def stop_agreed(step: int, stop: threading.Event, process: distributed.Process) -> bool:
    """Whether a signal came, to any process."""
    if process.world_size == 1:
        return stop.is_set()
    if step % ASK_EVERY:
        return False
    return distributed.total(torch.tensor(float(stop.is_set()), device=process.device)).item() > 0


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Within the block SIGINT and SIGTERM set the event. A later SIGINT, of who will not wait, interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    patience = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal patience
        del frame
        if number == signal.SIGINT and event.is_set() and time.monotonic() > patience:
            raise KeyboardInterrupt
        if not event.is_set():
            # a terminal and torchrun may both pass one Ctrl-C on
            patience = time.monotonic() + 1
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def reproducible(config: TrainConfig) -> Iterator[None]:
    """Within the block, torch uses deterministic algorithms where that is asked."""
    was = torch.are_deterministic_algorithms_enabled()
    if config.deterministic:
        # cuBLAS wants to be told before its first use
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)
