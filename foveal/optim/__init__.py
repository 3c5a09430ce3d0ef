"""Optimizers by name, over parameter groups that leave out of weight decay what should not decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from foveal.errors import near

OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    'adam': (torch.optim.Adam, {}),
    'adamw': (torch.optim.AdamW, {}),
    'rmsprop': (torch.optim.RMSprop, {'momentum': 0.9}),
    'sgd': (torch.optim.SGD, {'momentum': 0.9, 'nesterov': True}),
    'momentum': (torch.optim.SGD, {'momentum': 0.9}),
}


def create_optimizer(
    model_or_params: nn.Module | Iterable[Any],
    opt: str = 'adamw',
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float | None = None,
    filter_bias_and_bn: bool = True,
    **options: Any,
) -> torch.optim.Optimizer:
    """Builds an optimizer.

    Args:
        model_or_params: A model, or parameters or groups that are taken as they are.
        opt: adam, adamw, rmsprop, sgd (Nesterov) or momentum.
        lr: Learning rate.
        weight_decay: Of the parameters that decay.
        momentum: Of the optimizers that have one.
        filter_bias_and_bn: Keep a model's biases, norm scales and `no_weight_decay()` parameters from decay.
        **options: Further arguments of the torch class.

    Returns:
        The optimizer.

    Raises:
        ValueError: Unknown name.
    """
    if opt not in OPTIMIZERS:
        raise ValueError(f'opt {opt!r} is unknown{near(opt, OPTIMIZERS)}')
    cls, defaults = OPTIMIZERS[opt]
    options = {**defaults, **options}
    if momentum is not None and 'momentum' in defaults:
        options['momentum'] = momentum
    if not isinstance(model_or_params, nn.Module):
        params = model_or_params
    elif filter_bias_and_bn:
        params = decay_groups(model_or_params, weight_decay)
    else:
        params = model_or_params.parameters()
    return cls(params, lr=lr, weight_decay=weight_decay, **options)


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and kernels decay; vectors and what the model names do not."""
    exempt = set(model.no_weight_decay()) if hasattr(model, 'no_weight_decay') else set()
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1 and name not in exempt].append(parameter)
    return [
        {'params': parameters, 'weight_decay': weight_decay if decays else 0.0}
        for decays, parameters in groups.items()
        if parameters
    ]
