"""From a configuration to a run: data, model, optimizer, loaders."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from foveal.data import Augment, ImageDataset, Loader, create_dataset, create_loader, resolve_data_config
from foveal.data.dataset import check_channels
from foveal.data.source import is_named
from foveal.data.stream import StreamDataset
from foveal.engine import distributed
from foveal.engine.config import TrainConfig
from foveal.engine.fitting import largest_batch
from foveal.engine.goals import Numbers, goal_of
from foveal.engine.learning import build_ema, build_task, freeze
from foveal.engine.precision import PURE, grad_scaler, weights_dtype
from foveal.engine.run import Run
from foveal.engine.schedule import build_schedule
from foveal.engine.sharding import Shards, step_options
from foveal.engine.target_stats import numbers_of
from foveal.factory import create_model
from foveal.layers.split_norm import convert_split_batchnorm
from foveal.layers.sync_norm import convert_sync_batchnorm
from foveal.optim import Optimizer, create_optimizer, get_optimizer_class

Samples = ImageDataset | StreamDataset


def build(
    config: TrainConfig, process: distributed.Process, train_set: Samples, val_set: Samples
) -> tuple[Run, Loader, Loader]:
    """The model, what trains it, and the loaders."""
    goal = goal_of(config, train_set)
    config = goal.decided(config)
    torch.manual_seed(config.seed)
    model_options: dict[str, Any] = {**config.model_options}
    if config.in_chans is not None:
        model_options['in_chans'] = config.in_chans
    shards = Shards.of(config, process)
    has_weights = shards is None or process.is_main
    with nullcontext() if has_weights else torch.device('meta'):
        model = create_model(
            config.model,
            pretrained=config.pretrained and has_weights,
            checkpoint_path=config.checkpoint if has_weights else None,
            num_classes=len(goal.classes),
            **model_options,
        )
    if config.sync_bn and process.world_size > 1:
        model = convert_sync_batchnorm(model)
    if config.split_bn:
        model = convert_split_batchnorm(model, config.aug_splits)
    asked = {key: getattr(config, key) for key in ('mean', 'std', 'crop_pct', 'crop_mode', 'interpolation')}
    asked |= {'img_size': config.img_size or model_options.get('img_size'), 'in_chans': model_options.get('in_chans')}
    preprocess = resolve_data_config(asked, model=model)
    check_channels(train_set, preprocess.input_size[0])
    channels_last = process.device.type in ('cpu', 'cuda') if config.channels_last is None else config.channels_last
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    freeze(model, config.freeze)
    model.to(weights_dtype(config.precision))
    if shards is None:
        model.to(process.device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        ema = build_ema(config, model)
    else:
        ema = shards.shard(model, partial(build_ema, config))
    task = build_task(config, goal, model, preprocess, process.device)
    # a projection of features learns too
    optimizer = build_optimizer(config, task if len(list(task.parameters())) > len(list(model.parameters())) else model)

    batch_size = config.batch_size
    if batch_size == 'auto':
        batch_size = largest_batch(config, task, goal, preprocess.input_size, len(train_set), process)
        config = replace(config, batch_size=batch_size)

    shared: dict[str, Any] = {
        **preprocess,
        'batch_size': batch_size,
        'num_workers': config.workers,
        'bad_samples': config.bad_samples,
        'bad_limit': config.bad_limit,
        'seed': config.seed,
        'rank': process.rank,
        'world_size': process.world_size,
        'device': process.device,
        'channels_last': channels_last,
        'img_dtype': weights_dtype(config.precision),
    }
    augment = {field.name: getattr(config, field.name) for field in fields(Augment) if field.name != 'auto_augment'}
    augment |= {'auto_augment': config.aa, 're_prob': config.reprob, 're_mode': config.remode}
    train_loader = create_loader(
        train_set,
        is_training=True,
        no_aug=config.no_aug,
        re_count=config.recount,
        num_aug_repeats=config.aug_repeats,
        num_aug_splits=config.aug_splits,
        re_split=True,  # the clean images stay clean
        **augment,
        **shared,
    )
    val_loader = create_loader(val_set, **{**shared, 'batch_size': config.val_batch_size or batch_size})
    scheduler, total_epochs = build_schedule(config, optimizer, updates_per_epoch(train_loader, config.grad_accum))
    global_batch = batch_size * config.grad_accum * process.world_size
    run = Run(
        config,
        task,
        ema,
        grad_scaler(process.device, config.precision),
        optimizer,
        scheduler,
        total_epochs,
        goal,
        preprocess,
        model_options,
        global_batch,
        shards=shards,
    )
    return run, train_loader, val_loader


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """What makes the updates.

    In the pure low precisions foveal's own optimizers keep their state in float32 and round bfloat16 weights at random:
    to the nearest, a step below 1/256 of a weight would be lost.

    Raises:
        ValueError: An unknown optimizer, or an option that it does not have.
    """
    in_shards = isinstance(next(model.parameters()), DTensor)
    given: dict[str, Any] = {
        'layer_decay': config.layer_decay,
        **(step_options(config.opt) if in_shards else {}),
        **config.opt_options,
    }
    if config.momentum is not None:
        given['momentum'] = config.momentum
    cls: Any = get_optimizer_class(config.opt.removeprefix('lookahead_'), bind_defaults=False)
    if config.precision.endswith('fp16') and cls is torch.optim.SGD:
        # where the first gradient overflows, which a loss scale begins with, torch's fused kernel (2.15) leaves the
        # momentum as the memory happened to be
        given['fused'] = False
    if config.precision in PURE:
        if issubclass(cls, Optimizer):
            given = {'state_dtype': 'float32', 'stochastic_rounding': config.precision == 'pure-bf16', **given}
        else:
            print(f'opt {config.opt} is torch\'s, which rounds {config.precision} weights to the nearest: small steps '
                  'are lost; adamwlegacy, lion and the other own ones round at random')  # fmt: skip
    try:
        return create_optimizer(model, config.opt, config.lr, config.weight_decay, **given)
    except TypeError as error:
        raise ValueError(f'opt_options: {error}') from error


def wrap(task: nn.Module, config: TrainConfig, process: distributed.Process) -> nn.Module:
    """The task, compiled where that is asked, whose backward pass averages gradients over the processes.

    Shards do both already, block by block.
    """
    if config.shard and process.world_size > 1:
        return task
    if config.compile:
        task.compile(mode=config.compile)
    if process.world_size == 1:
        return task
    # statistics are shared where they are looked at, not before every batch; torch 2.15 renamed the option
    named = inspect.signature(DistributedDataParallel).parameters
    option = 'forward_sync_buffers' if 'forward_sync_buffers' in named else 'broadcast_buffers'
    options: dict[str, Any] = {option: False}
    if process.device.type == 'cuda':
        options['device_ids'] = [process.device]
    return DistributedDataParallel(task, **options)


def updates_per_epoch(loader: Loader, grad_accum: int) -> int:
    """The last update of an epoch may have fewer batches than the others."""
    return -(-len(loader) // grad_accum)


def open_data(config: TrainConfig) -> tuple[Samples, Samples]:
    """The images to train on and to evaluate on, numbered by the same classes.

    Raises:
        ValueError: No images of their own to evaluate on, or with targets of another kind.
    """
    same_of_both = ('download', 'val_fraction', 'input_key', 'target_key', 'target_format')
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
    kind = train_set.reader.task
    if kind == Numbers.kind:
        where['target_format'] = kind  # also where those of the evaluation images happen to be whole
    # classes that the evaluation images lack keep their numbers
    numbering = None if is_named(name) or kind == Numbers.kind else train_set.classes
    val_set = create_dataset(
        name, root, config.val_split, class_map=numbering, num_samples=config.val_num_samples, **where
    )
    same = train_set.reader.origin == val_set.reader.origin
    if same and not config.val_fraction and config.val_split != config.train_split:
        raise ValueError(
            f'{name} has no {config.val_split} split: training and evaluation would see the same images; '
            'give val_fraction (such as 0.1) to hold some out'
        )
    if val_set.reader.task != kind:
        raise ValueError(f'{name} has {kind} as training targets, but {val_set.reader.task} to evaluate on; give '
                         'target_format')  # fmt: skip
    if kind == Numbers.kind and isinstance(val_set, ImageDataset):
        numbers_of(val_set)  # what is not finite is said now
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
