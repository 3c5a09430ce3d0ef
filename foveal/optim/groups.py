"""Parameter groups: what weight decay leaves alone, and a learning rate for each depth of the model."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from foveal.wrapped import unwrap, without_wrappers


def param_groups(
    model: nn.Module,
    weight_decay: float = 0.0,
    *,
    lr: float | Tensor | None = None,
    layer_decay: float | None = None,
    min_scale: float = 0.0,
    no_opt_scale: float | None = None,
    no_weight_decay_list: Collection[str] = (),
    fallback_list: Collection[str] = (),
    fallback_no_weight_decay: bool = False,
    filter_bias_and_bn: bool = True,
) -> list[dict[str, Any]]:
    """The trainable parameters of a model in groups, for any torch optimizer.

    With `layer_decay`, a group's `lr` is its learning rate, ready scaled, so the ratios hold under every schedule that
    multiplies rates. `lr_ratio` tells the share; foveal's schedules scale their warm-up and their lowest rate by it.
    (Under `OneCycleLR`, whose `max_lr` replaces the rates, give it one for each group.)

    Args:
        model: The model, as it is or inside DDP, torch.compile, AveragedModel.
        weight_decay: Of the parameters that decay.
        lr: Learning rate of the last layers; needed with `layer_decay`.
        layer_decay: Factor from each depth to the one before it, in (0, 1]; depths are `model.layer_depths()`.
        min_scale: Least factor.
        no_opt_scale: Parameters whose factor is below this are frozen (`requires_grad = False`).
        no_weight_decay_list: Names or wildcards of parameters that do not decay, besides `model.no_weight_decay()`.
        fallback_list: Names or wildcards of parameters for which an optimizer of matrices, such as Muon, is to use its
            fallback; their groups have `use_fallback: True`.
        fallback_no_weight_decay: Use the fallback for what is named as not decaying, too.
        filter_bias_and_bn: Keep biases and parameters of one dimension from decay.

    Returns:
        Groups that hold at least one parameter, by depth; the same ones for every value of `weight_decay`.

    Raises:
        ValueError: No depths to go by, or a number out of its range.
    """
    model = unwrap(model)
    exempt = set(no_weight_decay_list)
    for prefix, module in that_have(model, 'no_weight_decay'):
        exempt |= {without_wrappers(prefix + name) for name in module.no_weight_decay()}
    fallback = {*fallback_list, *(exempt if fallback_no_weight_decay else ())}
    if layer_decay is not None and lr is None:
        raise ValueError('lr must be given with layer_decay: each group gets its own learning rate')
    scales = {} if layer_decay is None else layer_scales(model, layer_decay, min_scale)

    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = scales.get(name, 1.0)
        if not parameter.requires_grad:
            continue
        if no_opt_scale is not None and scale < no_opt_scale:
            parameter.requires_grad_(False)
            continue
        plain = without_wrappers(name)
        vector = parameter.ndim <= 1 or f'.{plain}'.endswith('.bias')
        decays = not (filter_bias_and_bn and vector) and not matches(plain, exempt)
        groups.setdefault((scale, matches(plain, fallback), decays), []).append(parameter)

    result = []
    for (scale, use_fallback, decays), parameters in sorted(groups.items(), key=lambda item: item[0]):
        group: dict[str, Any] = {'params': parameters, 'weight_decay': weight_decay if decays else 0.0}
        if layer_decay is not None:
            group |= {'lr': lr * scale, 'lr_ratio': scale}  # type: ignore[operator]
        if use_fallback:
            group['use_fallback'] = True
        result.append(group)
    return result


def layer_scales(model: nn.Module, layer_decay: float, min_scale: float = 0.0) -> dict[str, float]:
    """Factor on the learning rate by name: 1 at the last depth, and `layer_decay` for each step before it.

    The model has `layer_depths()`, or is built around models that do; what lies outside of those counts as head.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f'layer_decay must be in (0, 1], got {layer_decay}')
    if not 0 <= min_scale <= 1:
        raise ValueError(f'min_scale must be in [0, 1], got {min_scale}')
    parts = that_have(model, 'layer_depths')
    depths = {prefix + name: depth for prefix, part in parts for name, depth in part.layer_depths().items()}
    if not depths:
        raise ValueError(
            f'layer_decay needs to know how deep parameters are: give {type(model).__name__} a method layer_depths() '
            'that returns {parameter name: depth}, 0 for the stem'
        )
    head = max(depths.values()) + 1
    depths = {name: depths.get(name, head) for name, _ in model.named_parameters()}
    ranks = {depth: rank for rank, depth in enumerate(sorted(set(depths.values()), reverse=True))}
    return {name: max(layer_decay ** ranks[depth], min_scale) for name, depth in depths.items()}


def that_have(module: nn.Module, method: str, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """The outermost modules that have a method, each with what stands before the names of its parameters."""
    if hasattr(module, method):
        yield prefix, module
        return
    for name, child in module.named_children():
        yield from that_have(child, method, f'{prefix}{name}.')


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether a name is among names and wildcards."""
    return name in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def param_groups_weight_decay(
    model: nn.Module, weight_decay: float = 1e-5, weight_decay_exclude_1d: bool = True, **options: Any
) -> list[dict[str, Any]]:
    """`param_groups` by the arguments that are in use elsewhere."""
    return param_groups(model, weight_decay, filter_bias_and_bn=weight_decay_exclude_1d, **options)


def param_groups_layer_decay(
    model: nn.Module, weight_decay: float = 0.05, *, lr: float | Tensor, layer_decay: float = 0.75, **options: Any
) -> list[dict[str, Any]]:
    """Likewise with layer-wise decay, for which `lr` is needed besides."""
    return param_groups_weight_decay(model, weight_decay, lr=lr, layer_decay=layer_decay, **options)
