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
from foveal.engine.goals import Goal
from foveal.engine.precision import PURE, weights_dtype
from foveal.errors import check_options, near
from foveal.optim import Lookahead

DISTILLATIONS: dict[str, type[tasks.Distillation]] = {
    'logit': tasks.LogitDistillation,
    'feature': tasks.FeatureDistillation,
    'token': tasks.TokenDistillation,
}


def mixing(config: TrainConfig, goal: Goal, epoch: int) -> Mixup | None:
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
        label_smoothing=config.smoothing or 0.0,
        num_classes=len(goal.classes),
        multi_label=goal.kind != 'class',
    )


def build_task(
    config: TrainConfig, goal: Goal, model: nn.Module, preprocess: Preprocess, device: torch.device
) -> tasks.Task:
    """The model and what it learns from, on a device.

    Raises:
        ValueError, OSError: A teacher that cannot be had or is of another kind.
    """
    dtype = weights_dtype(config.precision)
    loss = goal.loss(config, mixed=mixing(config, goal, 0) is not None)
    if config.teacher is None:
        return tasks.Task(model, loss).to(device, dtype)
    if goal.kind != 'class' and config.distill != 'feature':
        raise ValueError(f'distill {config.distill} is for one label an image; {config.data} has {goal.about}: feature')
    loaded = load_model(config.teacher, pretrained=True)
    teacher = tasks.Teacher(loaded.model, loaded.preprocess, preprocess).to(device)
    cls = DISTILLATIONS[config.distill]
    legal = {'task_weight', 'distill_weight', *inspect.signature(cls.__init__).parameters}
    check_options('distill_options', config.distill_options, legal - {'self', 'model', 'loss', 'teacher', 'options'})
    return cls(model, loss, teacher, **config.distill_options).to(device, dtype)


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
    if config.precision in PURE:
        options.setdefault('dtype', 'float32')  # in bfloat16 steps of 1 - decay would be lost
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


def classifiers(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model's classifier, or of both where it has two."""
    found = model.get_classifier()  # type: ignore[operator]
    return [parameter for head in (found if isinstance(found, tuple) else (found,)) for parameter in head.parameters()]


def head_only(optimizer: torch.optim.Optimizer, model: nn.Module, only: bool) -> bool:
    """Lets the classifier alone learn, or all that an optimizer has; what lies beside the model always learns.

    Returns:
        Whether something else learns than before.

    Raises:
        ValueError: The classifier is frozen.
    """
    trunk = {id(p) for p in model.parameters()} - {id(p) for p in classifiers(model)}
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    learn = [not only or id(p) not in trunk for p in parameters]
    if not any(learn):
        raise ValueError('head_epochs needs a classifier that learns; freeze names all of it')
    changed = [p.requires_grad != learns for p, learns in zip(parameters, learn, strict=True)]
    for parameter, learns in zip(parameters, learn, strict=True):
        parameter.requires_grad_(learns)
    if isinstance(optimizer, torch.optim.SGD) and not only:
        even_momentum(optimizer)
    return any(changed)


def even_momentum(optimizer: torch.optim.SGD) -> None:
    """Gives parameters that begin to learn after others a momentum of zero, from which their first step is the same.

    torch's fused kernel (2.15) fails where a group has momentum of some of its parameters only.
    """
    for group in optimizer.param_groups:
        has = ['momentum_buffer' in optimizer.state.get(p, {}) for p in group['params']]
        for parameter, there in zip(group['params'], has, strict=True):
            if any(has) and not there:
                optimizer.state[parameter]['momentum_buffer'] = torch.zeros_like(parameter)


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
