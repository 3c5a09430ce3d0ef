"""From a configuration to a run: data, model, optimizer, loaders."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foveal.data import Augment, ImageDataset, Loader, create_dataset, create_loader, resolve_data_config
from foveal.data.dataset import check_channels
from foveal.data.source import is_named
from foveal.data.stream import StreamDataset
from foveal.engine import distributed
from foveal.engine.config import TrainConfig
from foveal.engine.learning import build_ema, build_loss, build_task, freeze, mixing
from foveal.engine.precision import grad_scaler
from foveal.engine.run import Run
from foveal.engine.schedule import build_schedule
from foveal.factory import create_model
from foveal.optim import create_optimizer

Samples = ImageDataset | StreamDataset


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
