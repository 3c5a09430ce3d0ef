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
from torch.nn.parallel import DistributedDataParallel

from foveal.data import (
    Augment,
    ImageDataset,
    Loader,
    Mixup,
    create_dataset,
    create_loader,
    resolve_data_config,
)
from foveal.data.dataset import check_channels
from foveal.data.loader import Batch
from foveal.data.source import is_named
from foveal.data.stream import StreamDataset
from foveal.engine import checkpoint, distributed, log
from foveal.engine.bad_samples import listed_bad_samples
from foveal.engine.build import build_ema, build_loss, build_task, freeze, hold_frozen_statistics, mixing
from foveal.engine.clip import clip_gradients
from foveal.engine.config import TrainConfig, check_train
from foveal.engine.evaluate import Scores, evaluate
from foveal.engine.precision import allow_tf32, autocast, grad_scaler
from foveal.engine.run import Run
from foveal.engine.schedule import build_schedule, check_schedule
from foveal.factory import create_model
from foveal.optim import create_optimizer
from foveal.optim.groups import describe_groups

Samples = ImageDataset | StreamDataset

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
    check_schedule(config)
    process = distributed.start(config.device, config.threads)
    with ExitStack() as cleanup:
        cleanup.callback(distributed.finish)
        cleanup.enter_context(reproducible(config))
        allow_tf32(config.precision)
        train_set, val_set = open_data(config)
        config = replace(config, output=config.output or default_output(config))
        output = Path(config.output)
        if process.is_main and not config.show_groups:
            prepare_output(output, saved is not None)
        run, train_loader, val_loader = build(config, process, train_set, val_set)
        if config.show_groups:
            if process.is_main:
                print(describe_groups(run.optimizer, run.model))
            return run
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
    config, task, scores = run.config, wrap(run.task, run.config, process), None
    while run.epoch < run.total_epochs:
        began = time.perf_counter()
        with listed_bad_samples(output, process, train_loader, val_loader):
            finished = train_epoch(run, task, train_loader, process, output, stop)
        if not finished:
            break
        seconds = time.perf_counter() - began
        for averaged in [run.model, *([run.ema.model] if run.ema else [])]:
            distributed.average_buffers(averaged)
        with listed_bad_samples(output, process, train_loader, val_loader):
            scores = evaluate(run.judged, val_loader, len(run.classes), config.precision)
        row = summarise(run, scores, process, seconds)
        is_best = run.best is None or scores.top1 > run.best
        run.best = scores.top1 if is_best else run.best
        run.history.append(row)
        run.epoch, run.step, run.losses = run.epoch + 1, 0, []
        if run.scheduler:
            lower_is_better = config.sched_options.get('plateau_mode') == 'min'
            run.scheduler.step(run.epoch, scores.loss if lower_is_better else scores.top1)
        if process.is_main:
            if is_best:
                run.save_weights(output / 'best.safetensors')
            run.save(output / 'last.safetensors')
            keep_best(run, output)
            log.write_epoch(run, output, row, is_best)
        if stop_agreed(0, stop, process):
            break
    if process.is_main:
        log.write_end(run, output, scores)
    distributed.wait()
    return run


def train_epoch(
    run: Run, task: nn.Module, loader: Loader, process: distributed.Process, output: Path, stop: threading.Event
) -> bool:
    """Makes the rest of the epoch's updates; False where a signal ended it early, after saving."""
    accum = run.config.grad_accum
    updates = updates_per_epoch(loader, accum)
    loader.set_epoch(run.epoch, run.step * accum)
    batches = iter(loader)
    mix = mixing(run.config, len(run.classes), run.epoch)
    run.task.loss = build_loss(run.config, mix is not None).to(process.device)
    task.train()
    hold_frozen_statistics(run.model)
    with log.progress(run, updates, process.is_main) as advance:
        while run.step < updates:
            count = min(accum, len(loader) - run.step * accum)
            run.losses.append(update(run, task, batches, count, mix, process))
            run.step += 1
            if run.ema:
                run.ema.update(run.model, run.epoch * updates + run.step)
            if run.scheduler:
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
    task: nn.Module,
    batches: Iterator[Batch],
    count: int,
    mix: Mixup | None,
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
        images, targets = next(batches)
        if mix is not None:
            images, targets = mix(images, targets, rng)
        # gradients cross processes once an update
        wait_to_sync = task.no_sync() if isinstance(task, DistributedDataParallel) and i + 1 < count else nullcontext()
        with wait_to_sync:
            with autocast(process.device, config.precision):
                loss = task(images, targets) / count
            run.scaler.scale(loss).backward()
        loss_sum += loss.detach()
    if config.clip_grad is not None:
        run.scaler.unscale_(run.optimizer)
        clip_gradients(clipped(run), config.clip_grad, config.clip_mode)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    return loss_sum


def clipped(run: Run) -> list[nn.Parameter]:
    """Whose gradients are clipped: all that learns; of AGC all but the classifier, as its paper has it."""
    parameters = dict(run.task.named_parameters())
    if run.config.clip_mode != 'agc':
        return list(parameters.values())
    classifiers = run.model.get_classifier()  # type: ignore[operator]
    heads = classifiers if isinstance(classifiers, tuple) else (classifiers,)
    left_out = {id(parameter) for head in heads for parameter in head.parameters()}
    return [parameter for parameter in parameters.values() if id(parameter) not in left_out]


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
    config: TrainConfig, process: distributed.Process, train_set: Samples, val_set: Samples
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
    check_channels(train_set, preprocess.input_size[0])
    channels_last = process.device.type in ('cpu', 'cuda') if config.channels_last is None else config.channels_last
    model.to(process.device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    freeze(model, config.freeze)
    task = build_task(config, model, preprocess, process.device)
    # a projection of features learns too
    optimizer = build_optimizer(config, task if len(list(task.parameters())) > len(list(model.parameters())) else model)

    shared: dict[str, Any] = {
        **preprocess,
        'batch_size': config.batch_size,
        'num_workers': config.workers,
        'bad_samples': config.bad_samples,
        'bad_limit': config.bad_limit,
        'seed': config.seed,
        'rank': process.rank,
        'world_size': process.world_size,
        'device': process.device,
        'channels_last': channels_last,
    }
    build_loss(config, mixing(config, len(train_set.classes), 0) is not None)  # what cannot be is said now
    augment = {field.name: getattr(config, field.name) for field in fields(Augment) if field.name != 'auto_augment'}
    augment |= {'auto_augment': config.aa, 're_prob': config.reprob, 're_mode': config.remode}
    train_loader = create_loader(
        train_set,
        is_training=True,
        no_aug=config.no_aug,
        re_count=config.recount,
        num_aug_repeats=config.aug_repeats,
        **augment,
        **shared,
    )
    val_loader = create_loader(val_set, **shared)
    scheduler, total_epochs = build_schedule(config, optimizer, updates_per_epoch(train_loader, config.grad_accum))
    global_batch = config.batch_size * config.grad_accum * process.world_size
    run = Run(
        config,
        task,
        build_ema(config, model),
        grad_scaler(process.device, config.precision),
        optimizer,
        scheduler,
        total_epochs,
        train_set.classes,
        preprocess,
        model_options,
        global_batch,
    )
    return run, train_loader, val_loader


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """What makes the updates.

    Raises:
        ValueError: An unknown optimizer, or an option that it does not have.
    """
    given: dict[str, Any] = {'layer_decay': config.layer_decay, **config.opt_options}
    if config.momentum is not None:
        given['momentum'] = config.momentum
    try:
        return create_optimizer(model, config.opt, config.lr, config.weight_decay, **given)
    except TypeError as error:
        raise ValueError(f'opt_options: {error}') from error


def wrap(task: nn.Module, config: TrainConfig, process: distributed.Process) -> nn.Module:
    """The task, compiled where that is asked, whose backward pass averages gradients over the processes."""
    if config.compile:
        task.compile(mode=config.compile)
    if process.world_size == 1:
        return task
    return DistributedDataParallel(task, device_ids=[process.device] if process.device.type == 'cuda' else None)


def updates_per_epoch(loader: Loader, grad_accum: int) -> int:
    """The last update of an epoch may have fewer batches than the others."""
    return -(-len(loader) // grad_accum)


def open_data(config: TrainConfig) -> tuple[Samples, Samples]:
    """The images to train on and to evaluate on, numbered by the same classes.

    Raises:
        ValueError: A single class, or no images of their own to evaluate on.
    """
    same_of_both = ('download', 'val_fraction', 'input_key', 'target_key')
    where: dict[str, Any] = {key: getattr(config, key) for key in same_of_both}
    name, root = config.data, config.data_root
    train_set = create_dataset(
        name,
        root,
        config.train_split,
        True,
        class_map=config.class_map,
        num_samples=config.train_num_samples,
        repeats=config.epoch_repeats,
        **where,
    )
    if train_set.reader.task != 'class':
        raise ValueError(f'{name} has {train_set.reader.task} for targets, not one class an image: not trained on yet')
    if len(train_set.classes) < 2:
        raise ValueError(f'{name} has one class only, {train_set.classes}; a classifier needs at least two')
    # classes that the evaluation images lack keep their numbers
    numbering = None if is_named(name) else train_set.classes
    val_set = create_dataset(
        name, root, config.val_split, class_map=numbering, num_samples=config.val_num_samples, **where
    )
    same = train_set.reader.origin == val_set.reader.origin
    if same and not config.val_fraction and config.val_split != config.train_split:
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
