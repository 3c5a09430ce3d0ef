"""From what a configuration asks to what learns: loss, mixing, teacher, frozen parts, running mean."""

import inspect
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from foveal.data import Mixup, Preprocess
from foveal.engine import tasks
from foveal.engine.checkpoint import load_model
from foveal.engine.config import TrainConfig
from foveal.engine.ema import Ema
from foveal.errors import near
from foveal.loss import create_classification_loss
from foveal.optim import Lookahead

# what other fields of the configuration decide
OF_LOSS = {'loss_type', 'smoothing', 'soft_targets', 'multi_label', 'jsd_splits'}
DISTILLATIONS: dict[str, type[tasks.Distillation]] = {
    'logit': tasks.LogitDistillation,
    'feature': tasks.FeatureDistillation,
    'token': tasks.TokenDistillation,
}


def build_loss(config: TrainConfig, mixed: bool) -> nn.Module:
    """The loss of a batch; of one that is mixed, targets are distributions and smoothed already.

    Raises:
        ValueError: An unknown loss or option, or a combination that means nothing.
    """
    legal = set(inspect.signature(create_classification_loss).parameters) - OF_LOSS
    check_options('loss_options', config.loss_options, legal)
    return create_classification_loss(
        config.loss, smoothing=config.smoothing, soft_targets=mixed, **config.loss_options
    )


def mixing(config: TrainConfig, num_classes: int, epoch: int) -> Mixup | None:
    """Mixup and cutmix, where an epoch has them."""
    is_over = 0 < config.mixup_off_epoch <= epoch
    if is_over or not (config.mixup or config.cutmix or config.cutmix_minmax):
        return None
    return Mixup(
        config.mixup,
        config.cutmix,
        config.cutmix_minmax,
        config.mixup_prob,
        config.mixup_switch_prob,
        config.mixup_mode,
        label_smoothing=config.smoothing,
        num_classes=num_classes,
    )


def build_task(config: TrainConfig, model: nn.Module, preprocess: Preprocess, device: torch.device) -> tasks.Task:
    """The model and what it learns from, on a device.

    Raises:
        ValueError, OSError: A teacher that cannot be had or is of another kind.
    """
    loss = build_loss(config, mixed=False)
    if config.teacher is None:
        return tasks.Task(model, loss).to(device)
    loaded = load_model(config.teacher, pretrained=True)
    teacher = tasks.Teacher(loaded.model, loaded.preprocess, preprocess).to(device)
    cls = DISTILLATIONS[config.distill]
    legal = {'task_weight', 'distill_weight', *inspect.signature(cls.__init__).parameters}
    check_options('distill_options', config.distill_options, legal - {'self', 'model', 'loss', 'teacher', 'options'})
    return cls(model, loss, teacher, **config.distill_options).to(device)


def build_ema(config: TrainConfig, model: nn.Module) -> Ema | None:
    """The running mean of the weights, where one is asked for.

    Raises:
        ValueError: An option that it does not have.
    """
    if not config.ema:
        return None
    legal = set(inspect.signature(Ema.__init__).parameters) - {'self', 'model', 'decay'}
    check_options('ema_options', config.ema_options, legal)
    options: dict[str, Any] = {**config.ema_options}
    if isinstance(options.get('dtype'), str):
        options['dtype'] = getattr(torch, options['dtype'])
    return Ema(model, config.ema, **options)


def freeze(model: nn.Module, patterns: list[str]) -> None:
    """Takes the parameters that wildcards name out of the training.

    Raises:
        ValueError: A wildcard that names nothing, or nothing left to learn.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        named = [name for name in parameters if fnmatchcase(name, pattern)]
        if not named:
            raise ValueError(f'freeze {pattern!r} names no parameter{near(pattern, parameters)}')
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f'freeze {patterns} leaves nothing to learn')


def hold_frozen_statistics(model: nn.Module) -> None:
    """Batch norms whose weights are frozen keep their running statistics too; call after `train()`."""
    for module in model.modules():
        if isinstance(module, _NormBase) and module.affine and not module.weight.requires_grad:
            module.eval()


def turn(optimizer: torch.optim.Optimizer, training: bool) -> None:
    """Puts the weights that are trained into the model, or those that are judged, where an optimizer has both.

    These are Schedule-Free's, and the slow weights of Lookahead, which an epoch ends with.
    """
    mode = getattr(optimizer, 'train' if training else 'eval', None)
    if mode is not None:
        mode()
    if not training and isinstance(optimizer, Lookahead):
        optimizer.sync_lookahead()


def check_options(field: str, options: dict[str, Any], legal: set[str]) -> None:
    """Refuses a name that a field's options do not have."""
    for key in options:
        if key not in legal:
            raise ValueError(f'{field} has no option {key!r}{near(key, legal)}')
