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
_registered: dict[str, tuple[type, Entry]] = {}


@dataclass(frozen=True)
class OptimInfo:
    """What a name stands for.

    Attributes:
        name: As in `list_optimizers`.
        opt_class: The class, or `module:Class` where its package is not installed.
        description: One line.
        has_eps, has_momentum, has_betas: Whether the class takes these.
        num_betas: How many betas.
        second_order: Whether it needs `loss.backward(create_graph=True)`.
        defaults: Options that the name stands for.
    """

    name: str
    opt_class: type | str
    description: str
    has_eps: bool
    has_momentum: bool
    has_betas: bool
    num_betas: int
    second_order: bool
    defaults: dict[str, Any]


def register_optimizer(name: str, cls: type, description: str = '', **defaults: Any) -> None:
    """Makes an optimizer class known by a name.

    Args:
        name: For `create_optimizer`.
        cls: A `torch.optim.Optimizer`.
        description: One line.
        **defaults: Options that the name stands for.

    Raises:
        ValueError: The name is taken.
    """
    if name in TABLE or name in _registered or name.startswith(LOOKAHEAD):
        raise ValueError(f'optimizer name {name!r} is taken')
    _registered[name] = cls, Entry('', description, defaults)


def list_optimizers(
    filter: str | Collection[str] = '',
    exclude_filters: str | Collection[str] | None = None,
    with_description: bool = False,
) -> list[Any]:
    """Names of the optimizers, sorted. `lookahead_<name>` exists for each besides.

    Args:
        filter: Wildcard pattern or patterns.
        exclude_filters: Likewise, of names to leave out.
        with_description: Give (name, description) pairs.

    Returns:
        Names, or pairs.
    """
    wanted = [filter] if isinstance(filter, str) else list(filter)
    unwanted = [exclude_filters] if isinstance(exclude_filters, str) else list(exclude_filters or ())
    entries = TABLE | {name: entry for name, (_, entry) in _registered.items()}
    names = [
        name
        for name in sorted(entries)
        if (not any(wanted) or any(fnmatchcase(name, pattern) for pattern in wanted))
        and not any(fnmatchcase(name, pattern) for pattern in unwanted)
    ]
    return [(name, entries[name].description) for name in names] if with_description else names


def find(name: str) -> Entry:
    """The entry of a name.

    Raises:
        ValueError: Unknown name.
    """
    if name in _registered:
        return _registered[name][1]
    if name not in TABLE:
        raise ValueError(f'opt {name!r} is unknown{near(name, [*TABLE, *_registered])}')
    return TABLE[name]


def load(name: str) -> type:
    """The class of a name.

    Raises:
        ValueError: Unknown name.
        ImportError: Its package is not installed.
    """
    entry = find(name)
    if name in _registered:
        return _registered[name][0]
    module, _, cls = entry.target.partition(':')
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

    Returns:
        The class, or a partial of it.

    Raises:
        ValueError: Unknown name.
        ImportError: Its package is not installed.
    """
    defaults = find(name).defaults
    return partial(load(name), **defaults) if bind_defaults and defaults else load(name)


def get_optimizer_info(name: str) -> OptimInfo:
    """What a name stands for.

    Raises:
        ValueError: Unknown name.
    """
    entry = find(name)
    cls: type | str = entry.target
    takes: dict[str, Any] = dict.fromkeys(entry.takes)
    if not entry.takes:
        cls = load(name)
        takes = {key: p.default for key, p in inspect.signature(cls).parameters.items()}
    betas = 3 if 'ademamix' in name else len(takes.get('betas') or (0, 0))
    return OptimInfo(
        name=name,
        opt_class=cls,
        description=entry.description,
        has_eps='eps' in takes,
        has_momentum='momentum' in takes,
        has_betas='betas' in takes,
        num_betas=betas if isinstance(takes.get('betas', ()), tuple | None) else 2,
        second_order=getattr(cls, 'second_order', False),
        defaults=dict(entry.defaults),
    )


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
        filter_bias_and_bn: Keep a model's biases, norm scales and `no_weight_decay()` parameters from decay.
        layer_decay: Factor of the learning rate from each layer to the one before it; None: the same for all.
        layer_decay_min_scale: Least factor.
        layer_decay_no_opt_scale: Layers whose factor is below this are frozen.
        fallback_list: Names or wildcards of the parameters for which a matrix optimizer uses its fallback.
        fallback_no_weight_decay: Use the fallback for the parameters named as not decaying, too.
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
    legal = arguments(cls) | set(entry.takes)
    for name in sorted(options):
        if name not in legal and name in ('eps', 'betas'):
            del options[name]
        elif name not in legal and not entry.takes:
            raise TypeError(f'opt {opt!r} has no option {name!r}{near(name, legal)}')
    given = {'lr': lr, 'momentum': momentum, 'foreach': foreach}
    options |= {name: value for name, value in given.items() if value is not None and name in legal | {'lr'}}
    if momentum is None and 'None' in str(getattr(inspect.signature(cls).parameters.get('momentum'), 'annotation', '')):
        options['momentum'] = None
    options = entry.defaults | {'weight_decay': weight_decay} | options
    if isinstance(model_or_params, nn.Module):
        if param_group_fn is not None:
            params: Any = param_group_fn(model_or_params)
        else:
            rate = lr if lr is not None else inspect.signature(cls).parameters['lr'].default
            params = param_groups(
                model_or_params,
                weight_decay,
                lr=rate if layer_decay is not None else None,
                layer_decay=layer_decay,
                min_scale=layer_decay_min_scale,
                no_opt_scale=layer_decay_no_opt_scale,
                fallback_list=fallback_list,
                fallback_no_weight_decay=fallback_no_weight_decay,
                filter_bias_and_bn=filter_bias_and_bn,
            )
    else:
        params = [listed(entry) for entry in model_or_params]
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


def arguments(cls: type) -> set[str]:
    """Names of the options that a class takes."""
    from foveal.optim.engine import OPTIONS, Optimizer

    own = {name for name, p in inspect.signature(cls).parameters.items() if p.kind != p.VAR_KEYWORD}
    return (own | set(OPTIONS) if issubclass(cls, Optimizer) else own) - {'self', 'params'}


def fused(cls: type, params: list[Any], options: dict[str, Any]) -> dict[str, bool]:
    """`fused=True` for a class of torch that has such kernels where all its parameters are."""
    import torch

    devices = {'SGD': {'cpu', 'cuda'}, 'Adam': {'cpu', 'cuda'}, 'AdamW': {'cpu', 'cuda'}, 'Adagrad': {'cpu'}}
    if cls.__module__.partition('.')[0] != 'torch' or cls.__name__ not in devices:
        return {}
    if any(options.get(name) is not None for name in ('fused', 'foreach', 'differentiable')):
        return {}
    tensors: list[Any] = []
    for entry in params:
        members = entry['params'] if isinstance(entry, dict) else [entry]
        tensors += [member[1] if isinstance(member, tuple) else member for member in members]
    fits = all(t.device.type in devices[cls.__name__] and t.is_floating_point() for t in tensors)
    return {'fused': True} if tensors and fits and not isinstance(options.get('lr'), torch.Tensor) else {}
