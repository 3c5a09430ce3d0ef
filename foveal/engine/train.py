"""Training, top to bottom: build, resume, epochs, evaluate, save."""

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foveal.data import Loader, Mixup
from foveal.data.loader import Batch
from foveal.engine import distributed
from foveal.engine.bad_samples import listed_bad_samples
from foveal.engine.build import build, open_data, reproducible, updates_per_epoch, wrap
from foveal.engine.clip import clip_gradients
from foveal.engine.config import TrainConfig, check_train
from foveal.engine.evaluate import evaluate
from foveal.engine.fitting import keep_batch_size
from foveal.engine.folder import default_output, find_resumed, opened, prepare_output, save_epoch, save_within_epoch
from foveal.engine.group_table import describe_groups
from foveal.engine.guards import ADVICE, Guard, Suspect, in_parts
from foveal.engine.learning import classifiers, head_only, hold_frozen_statistics, mixing, turn
from foveal.engine.log import Evaluation, Journal
from foveal.engine.precision import autocast, set_products
from foveal.engine.run import Run
from foveal.engine.schedule import check_schedule
from foveal.engine.selection import is_better
from foveal.engine.sharding import check_shard
from foveal.engine.shards import restored
from foveal.engine.stopping import named_death, stop_agreed, stop_signals
from foveal.engine.top_losses import TopLosses
from foveal.engine.tracking import check_tracking
from foveal.engine.writer import Writer
from foveal.report.record import WORST


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
        UnreadableImageError, FloatingPointError: A damaged image, or a loss that is no number; what is done is saved.
        ChildProcessError: A process that reads images was killed.
    """
    config, saved = find_resumed(config)
    config = keep_batch_size(config, saved)
    check_train(config)
    check_schedule(config)
    check_shard(config)
    check_tracking(config)
    process = distributed.start(config.device, config.threads)
    with ExitStack() as cleanup:
        cleanup.callback(distributed.finish)
        cleanup.enter_context(reproducible(config))
        set_products(config.precision)
        train_set, val_set = open_data(config)
        config = replace(config, output=config.output or default_output(config))
        output = Path(config.output)
        if process.is_main and not config.show_groups:
            prepare_output(output, config.resume, saved is not None)
        run, train_loader, val_loader = build(config, process, train_set, val_set)
        if config.show_groups:
            if process.is_main:
                print(describe_groups(run.optimizer, run.model))
            return run
        if saved:
            run.resume(saved)
        datasets = {'train': train_set, 'validation': val_set}
        updates = updates_per_epoch(train_loader, config.grad_accum)
        journal = cleanup.enter_context(Journal(run, output, process, datasets, updates))
        distributed.wait()
        stop = cleanup.enter_context(stop_signals())
        writer = cleanup.enter_context(Writer())
        if not saved or saved.path.resolve().parent != output.resolve():
            # whether the disk has room is known now, and every run has a checkpoint to go on from
            save_within_epoch(run, output, process, writer)
            writer.wait()
        return epochs(run, train_loader, val_loader, process, output, stop, writer, journal)


def epochs(
    run: Run,
    train_loader: Loader,
    val_loader: Loader,
    process: distributed.Process,
    output: Path,
    stop: threading.Event,
    writer: Writer,
    journal: Journal,
) -> Run:
    """Trains, evaluates and saves until the epochs are done or a signal says stop."""
    config, task = run.config, None
    while run.epoch < run.last_epoch:
        changed = head_only(run.optimizer, run.model, run.epoch < config.head_epochs)
        if task is None or changed:
            task = None  # DDP lets go of the gradients before the next one takes hold of those that there are now
            task = wrap(run.task, config, process)
        began = time.perf_counter()
        with listed_bad_samples(output, process, train_loader, val_loader), named_death():
            finished = train_epoch(run, task, train_loader, process, output, stop, writer, journal)
        if not finished:
            break
        seconds = time.perf_counter() - began
        turn(run.optimizer, False)
        for averaged in [run.model, *([run.ema.model] if run.ema else [])]:
            distributed.share_statistics(averaged, config.dist_bn)
        found: Evaluation | None = None
        if (run.epoch + 1) % config.val_interval == 0 or run.epoch + 1 == run.total_epochs:
            with listed_bad_samples(output, process, train_loader, val_loader), named_death():
                found = judge(run, val_loader)
        row = summarise(run, found, process, seconds)
        is_best = found is not None and is_better(row[config.metric], run.best, config.metric)
        run.best = row[config.metric] if is_best else run.best
        run.history.append(row)
        run.epoch, run.step, run.losses, run.marks = run.epoch + 1, 0, [], []
        if run.scheduler:
            column = 'val_loss' if config.sched_options.get('plateau_mode') == 'min' else f'val_{run.goal.metric}'
            run.scheduler.step(run.epoch, row.get(column))
        journal.epoch(row, is_best, found)
        save_epoch(run, output, process, writer, is_best)
        if stop_agreed(0, stop, process):
            break
    writer.wait()
    distributed.wait()
    return run


def judge(run: Run, loader: Loader) -> Evaluation:
    """Evaluates what the run has learnt so far."""
    worst = TopLosses(WORST) if run.goal.kind == 'class' else None
    precision = run.config.precision
    scores = evaluate(run.judged, loader, run.goal, precision, worst)
    plain = evaluate(run.model, loader, run.goal, precision) if run.config.evaluate_plain else None
    return Evaluation(scores, plain, worst.compute() if worst else [])


def train_epoch(
    run: Run,
    task: nn.Module,
    loader: Loader,
    process: distributed.Process,
    output: Path,
    stop: threading.Event,
    writer: Writer,
    journal: Journal,
) -> bool:
    """Makes the rest of the epoch's updates; False where a signal ended it early, after saving."""
    accum = run.config.grad_accum
    updates = updates_per_epoch(loader, accum)
    loader.set_epoch(run.epoch, run.step * accum, run.marks)
    batches = iter(loader)
    mix = get_ready(run, task, process)
    guard = Guard(run, loader, process)
    with journal.progress() as advance:
        while run.step < updates:
            count = min(accum, len(loader) - run.step * accum)
            run.losses.append(update(run, task, batches, count, mix, process, guard))
            run.step += 1
            if run.ema and not guard.skipped:
                run.ema.update(run.model, run.epoch * updates + run.step)
            if run.scheduler:
                run.scheduler.step_update(run.epoch * updates + run.step)
            advance(run.losses[-1])
            told = stop_agreed(run.step, stop, process)
            due = bool(run.config.save_updates) and run.step % run.config.save_updates == 0
            wrong = guard.look(run.step, now=told or due or run.step == updates)
            if wrong is not None:
                writer.wait()
                make_again(run, task, loader, mix, process, guard, output, wrong)
            if (told or due) and run.step < updates:
                run.marks = [mark for marks in distributed.gather(loader.marks()) for mark in marks]
                save_within_epoch(run, output, process, writer)
            if told and run.step < updates:
                return False
    return True


def get_ready(run: Run, task: nn.Module, process: distributed.Process) -> Mixup | None:
    """Makes a run ready for the updates of its epoch; returns what mixes their batches."""
    mix = mixing(run.config, run.goal, run.epoch)
    run.task.loss = run.goal.loss(run.config, mix is not None).to(process.device)
    task.train()
    turn(run.optimizer, True)
    hold_frozen_statistics(run.model)
    return mix


def update(
    run: Run,
    task: nn.Module,
    batches: Iterator[Batch],
    count: int,
    mix: Mixup | None,
    process: distributed.Process,
    guard: Guard,
) -> torch.Tensor:
    """One update from the gradients of `count` batches; returns their mean loss, or NaN where it was not made."""
    config = run.config
    address = (config.seed, run.epoch, run.step, process.rank)
    # dropout and its like: decided by the update's address, so that a resumed run draws what an unbroken one draws
    torch.manual_seed(int(np.random.SeedSequence(address).generate_state(1)[0]))
    rng = np.random.default_rng(address)
    loss_sum = torch.zeros((), device=process.device)

    def learn(images: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
        with autocast(process.device, config.precision):
            loss = task(images, targets) * (share / count)
        backward(run, loss)
        return loss.detach()

    guard.begin()
    for i in range(count):
        batch = next(batches)
        images, targets = batch
        if mix is not None:
            images, targets = mix(images, targets, rng)
        # gradients cross processes once an update
        wait_to_sync = task.no_sync() if isinstance(task, DistributedDataParallel) and i + 1 < count else nullcontext()
        with wait_to_sync:
            loss = in_parts(run, images, targets, learn)
        guard.note(Suspect(batch, images, targets, loss))
        loss_sum += loss
    if guard.refuses(loss_sum):
        return torch.full_like(loss_sum, torch.nan)
    if config.clip_grad is not None:
        run.scaler.unscale_(run.optimizer)
        clip_gradients(clipped(run), config.clip_grad, config.clip_mode)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    return loss_sum


def make_again(
    run: Run,
    task: nn.Module,
    loader: Loader,
    mix: Mixup | None,
    process: distributed.Process,
    guard: Guard,
    output: Path,
    step: int,
) -> NoReturn:
    """Makes an update that was not finite once more, with the weights of the last checkpoint, to say what went wrong.

    Raises:
        FloatingPointError: Always.
    """
    saved = restored(opened(output), run)
    run.model.load_state_dict(saved.weights)
    run.optimizer.zero_grad()
    run.step, guard.at_once, accum = step, True, run.config.grad_accum
    loader.set_epoch(run.epoch, step * accum)
    update(run, task, iter(loader), min(accum, len(loader) - step * accum), mix, process, guard)
    raise FloatingPointError(
        f'epoch {run.epoch + 1}, update {step + 1}: the loss or a gradient is not finite, but is with the weights of '
        f'{saved.path}: training diverged since; {ADVICE}'
    )


def backward(run: Run, loss: torch.Tensor) -> None:
    """Gradients of a loss; as a graph for optimizers that take their derivative."""
    second = getattr(run.optimizer, 'second_order', False)
    with warnings.catch_warnings():
        # of a cycle between parameters and gradients, which zero_grad breaks after the update
        warnings.filterwarnings('ignore', 'Using backward')
        run.scaler.scale(loss).backward(create_graph=second)


def clipped(run: Run) -> list[nn.Parameter]:
    """Whose gradients are clipped: all that learns; of AGC all but the classifier, as its paper has it."""
    parameters = dict(run.task.named_parameters())
    if run.config.clip_mode != 'agc':
        return list(parameters.values())
    left_out = {id(parameter) for parameter in classifiers(run.model)}
    return [parameter for parameter in parameters.values() if id(parameter) not in left_out]


def summarise(run: Run, found: Evaluation | None, process: distributed.Process, seconds: float) -> dict[str, Any]:
    """The row of an epoch in metrics.csv; without scores where it was not evaluated."""
    kinds = {'val': found.scores, 'plain': found.plain} if found else {}
    measured = {f'{kind}_{name}': v for kind, scores in kinds.items() if scores for name, v in scores.to_dict().items()}
    loss = distributed.total(torch.stack(run.losses).nanmean()) / process.world_size
    return {
        'epoch': run.epoch + 1,
        'train_loss': loss.item(),
        **{name: value for name, value in measured.items() if not name.endswith('_count')},
        'lr': run.optimizer.param_groups[0]['lr'],
        'seconds': round(seconds, 2),
        'images_per_second': round(len(run.losses) * run.global_batch / seconds, 1),
    }
