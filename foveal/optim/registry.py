"""Optimizers by name: `create_optimizer`, listing, and names of one's own. Listing imports no torch."""

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from foveal.errors import near
from foveal.optim.names import TABLE, Entry

if TYPE_CHECKING:
    import torch
    from torch import nn

LOOKAHEAD = 'lookahead_'


@dataclass(frozen=True)
class OptimInfo:
    """What a name stands for."""

    name: str
    opt_class: type | str  # `module:Class` where its package is not installed
    description: str
    has_eps: bool
    has_momentum: bool
    has_betas: bool
    num_betas: int
    second_order: bool  # needs `loss.backward(create_graph=True)`
    defaults: dict[str, Any]  # options that the name stands for


def register_optimizer(name: str, cls: type, description: str = '', **defaults: Any) -> None:
    """Makes an optimizer class known by a name.

    Args:
        name: For `create_optimizer`.
        cls: A `torch.optim.Optimizer`.
        description: One line.
        **defaults: Options that the name stands for.
    """
    if name in TABLE or name.startswith(LOOKAHEAD):
        raise ValueError(f'optimizer name {name!r} is taken')
    TABLE[name] = Entry(cls, description, defaults)


def list_optimizers(
    filter: str | Collection[str] = '', exclude_filters: str | Collection[str] = (), with_description: bool = False
) -> list[Any]:
    """Names of the optimizers, sorted. `lookahead_<name>` exists for each besides.

    Args:
        filter: Wildcard pattern or patterns; empty for all.
        exclude_filters: Likewise, of names to leave out.
        with_description: Give (name, description) pairs.
    """

    def match(name: str, patterns: str | Collection[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))

    names = [name for name in sorted(TABLE) if not filter or match(name, filter)]
    names = [name for name in names if not match(name, exclude_filters)]
    return [(name, TABLE[name].description) for name in names] if with_description else names


def find(name: str) -> Entry:
    """The entry of a name; a ValueError that lists near ones where there is none."""
    if name not in TABLE:
        raise ValueError(f'opt {name!r} is unknown{near(name, TABLE)}')
    return TABLE[name]


def load(name: str) -> type:
    """The class of a name; an ImportError that says what to install where its package is missing."""
    target = find(name).target
    if isinstance(target, type):
        return target
    module, _, cls = target.partition(':')
    try:
        return getattr(import_module(module if '.' in module else f'foveal.optim.{module}'), cls)
    except ModuleNotFoundError as error:
        package = module.partition('.')[0]
        if package not in ('apex', 'bitsandbytes'):
            raise
        how = 'https://github.com/NVIDIA/apex' if package == 'apex' else 'pip install bitsandbytes'
        raise ImportError(f'opt {name!r} needs the package {package}, which is not installed: {how}') from error


def get_optimizer_class(name: str, bind_defaults: bool = True) -> Callable[..., 'torch.optim.Optimizer']:
    """The class of a name.

    Args:
        name: As in `list_optimizers`.
        bind_defaults: Bind the options that the name stands for.

    Raises:
        ValueError: Unknown name.
        ImportError: Its package is not installed.
    """
    defaults = find(name).defaults
    return partial(load(name), **defaults) if bind_defaults and defaults else load(name)


def get_optimizer_info(name: str) -> OptimInfo:
    """What a name stands for."""
    entry = find(name)
    cls: type | str = entry.target
    takes: dict[str, Any] = dict.fromkeys(entry.takes)
    if not entry.takes:
        cls = load(name)
        takes = {key: p.default for key, p in inspect.signature(cls).parameters.items()}
    betas = 3 if 'ademamix' in name else len(takes.get('betas') or (0, 0))
    flags = {f'has_{option}': option in takes for option in ('eps', 'momentum', 'betas')}
    flags['second_order'] = getattr(cls, 'second_order', False)
    return OptimInfo(name, cls, entry.description, num_betas=betas, defaults={**entry.defaults}, **flags)


def create_optimizer(
    model_or_params: 'nn.Module | Iterable[Any]',
    opt: str = 'sgd',
    lr: float | None = None,
    weight_decay: float = 0.0,
    momentum: float | None = 0.9,
    foreach: bool | None = None,
    filter_bias_and_bn: bool = True,
    layer_decay: float | None = None,
    layer_decay_min_scale: float = 0.0,
    layer_decay_no_opt_scale: float | None = None,
    fallback_list: Collection[str] = (),
    fallback_no_weight_decay: bool = False,
    param_group_fn: 'Callable[[nn.Module], Iterable[Any]] | None' = None,
    **options: Any,
) -> 'torch.optim.Optimizer':
    """Builds an optimizer by name.

    Args:
        model_or_params: A model, or parameters or groups that are taken as they are.
        opt: A name of `list_optimizers`, or `lookahead_<name>`.
        lr: Learning rate; None takes the class's default.
        weight_decay: Of the parameters that decay.
        momentum: Of the optimizers that have it; None takes the class's default, or none where it can be without.
        foreach: False steps tensor by tensor.
        filter_bias_and_bn, fallback_list, fallback_no_weight_decay: As in `param_groups`.
        layer_decay, layer_decay_min_scale, layer_decay_no_opt_scale: Likewise, without the prefix.
        param_group_fn: Makes the groups from the model instead.
        **options: Further arguments of the class. `eps` and `betas` are dropped where it has none.

    Returns:
        The optimizer. torch's own use their fused kernels where all parameters are where these exist.

    Raises:
        ValueError: Unknown name.
        TypeError: Unknown option.
        ImportError: The optimizer's package is not installed.
    """
    from torch import nn

    from foveal.optim.groups import param_groups

    base = opt.removeprefix(LOOKAHEAD)
    cls, entry = load(base), find(base)
    signature = inspect.signature(cls).parameters
    legal = {*signature, *entry.takes} - {'params'}
    for name in sorted(options):
        if name not in legal and name in ('eps', 'betas'):
            del options[name]
        elif name not in legal and not entry.takes:
            raise TypeError(f'opt {opt!r} has no option {name!r}{near(name, legal)}')
    given = {'lr': lr, 'momentum': momentum, 'foreach': foreach}
    options |= {name: value for name, value in given.items() if value is not None and name in legal | {'lr'}}
    if momentum is None and 'None' in str(getattr(signature.get('momentum'), 'annotation', '')):
        options['momentum'] = None
    options = entry.defaults | {'weight_decay': weight_decay} | options
    if not isinstance(model_or_params, nn.Module):
        params: Any = [listed(entry) for entry in model_or_params]
    elif param_group_fn is not None:
        params = param_group_fn(model_or_params)
    else:
        rate = signature['lr'].default if lr is None else lr
        params = param_groups(
            model_or_params,
            weight_decay,
            lr=rate,
            layer_decay=layer_decay,
            min_scale=layer_decay_min_scale,
            no_opt_scale=layer_decay_no_opt_scale,
            fallback_list=fallback_list,
            fallback_no_weight_decay=fallback_no_weight_decay,
            filter_bias_and_bn=filter_bias_and_bn,
        )
    optimizer = cls(params, **options, **fused(cls, params, options))
    if base == opt:
        return optimizer
    from foveal.optim.lookahead import Lookahead

    return Lookahead(optimizer)


def listed(entry: Any) -> Any:
    """A group with its parameters as a list; whatever else as it is."""
    if not isinstance(entry, dict):
        return entry
    params = entry['params']
    return entry | {'params': [params] if hasattr(params, 'dtype') else list(params)}


def fused(cls: type, params: list[Any], options: dict[str, Any]) -> dict[str, bool]:
    """`fused=True` for a class of torch that has such kernels where all its parameters are."""
    import torch

    given = any(options.get(name) is not None for name in ('fused', 'foreach', 'differentiable'))
    if given or cls not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return {}
    groups = (entry['params'] if isinstance(entry, dict) else [entry] for entry in params)
    tensors = [member[1] if isinstance(member, tuple) else member for members in groups for member in members]
    fits = all(t.device.type in ('cpu', 'cuda') and t.is_floating_point() for t in tensors)
    return {'fused': True} if tensors and fits and not isinstance(options.get('lr'), torch.Tensor) else {}
