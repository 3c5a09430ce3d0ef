"""Tensors put into a model: what does not fit is said, what fits is taken without a copy."""

import difflib
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveal.models.backbone import Backbone
from foveal.weights.adapt import adapt
from foveal.weights.read import WeightsError

SEARCHED = 5000  # names among which a near one is looked for: more than any model has
COUNTERS = 'num_batches_tracked'  # of batch norms; files from before torch 0.4.1 have none, and nothing reads them


def fit(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    strict: bool = True,
    keep: Collection[str] = (),
    spare: Collection[str] = (),
    take: bool = False,
) -> list[str]:
    """Put weights into a model, or say what does not fit before anything is changed.

    Weights of another shape are adapted where a module knows how (`foveal.weights.adapt`). Buffers that the model
    computes itself are passed over. A model on the meta device comes to life with its weights.

    Args:
        model: changed in place.
        weights: name -> tensor.
        source: where they come from, for messages.
        strict: missing and unexpected weights are an error; otherwise a warning. A wrong shape always is an error.
        keep: names of weights that stay as they are in the model.
        spare: names that are expected although the model has no use for them.
        take: the tensors may become the model's own; a weight on the same device and of the same type is not copied.

    Returns:
        Names of the model's weights that were not given.

    Raises:
        WeightsError: what does not fit, with the nearest names beside it.
    """
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in keep}
    weights = unflattened(weights, own)
    known = {name for name, _ in model.named_buffers()} | own.keys() | set(spare) | set(keep)
    missing = [name for name in own if name not in weights and not name.endswith(COUNTERS)]
    extra = [name for name in weights if name not in known]
    fitted = {name: adapt(model, name, weights[name], own[name].shape) for name in own if name in weights}
    shapes = [name for name, tensor in fitted.items() if tensor.shape != own[name].shape]
    said = [f'missing: {listed(missing, extra)}'] * bool(missing)
    said += [f'unexpected: {listed(extra, missing)}'] * bool(extra)
    wrong = [f'{k} is {tuple(weights[k].shape)}, the model has {tuple(own[k].shape)}' for k in shapes[:5]]
    if shapes[5:]:
        wrong.append(f'and {len(shapes) - 5} more of another shape')
    if any(name.startswith(tuple(heads(model))) for name in shapes):
        wrong.append("for a new classifier over these weights: pretrained=True, pretrained_cfg_overlay={'file': ...}")
    if wrong or (said and strict):
        what = said + wrong if strict else wrong
        raise WeightsError(f'{source} does not fit {type(model).__name__}: ' + '; '.join(what))
    if said:
        warnings.warn(f'{source} does not fit {type(model).__name__} in all: ' + '; '.join(said), stacklevel=2)
    if any(value.is_meta for value in own.values()) and not take:
        fitted, take = {name: tensor.clone() for name, tensor in fitted.items()}, True
    model.load_state_dict(ready(fitted, own, take), strict=False, assign=take)
    if any(buffer.is_meta for buffer in model.buffers()) and isinstance(model, Backbone):
        fill_buffers(model)
    return missing


def fill_buffers(model: Backbone) -> None:
    """Give memory and values to buffers on the meta device, which no file holds."""
    device = next(model.parameters()).device
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=device)
    model.reset_buffers()


def ready(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], take: bool) -> dict[str, Tensor]:
    """The tensors as the model holds its own: of the same device and type; to be taken, each in memory of its own."""
    if not take:
        return dict(weights)
    result, seen = {}, set()
    for name, tensor in weights.items():
        like = own[name]
        device = tensor.device if like.device.type == 'meta' else like.device
        tensor = tensor.to(device, like.dtype).contiguous()
        # weights that a file stores once would be trained as one
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen |= {tensor.data_ptr()} if tensor.numel() else set()
    return result


def heads(model: Any) -> list[str]:
    """What the names of a model's classifiers begin with; none of a model that is no `Backbone`."""
    return [f'{path}.' for path in model.parts.classifier.split()] if isinstance(model, Backbone) else []


def draw(model: Any, names: Iterable[str]) -> None:
    """Draw new weights of these names, in a model that was built without."""
    names, own = set(names), model.state_dict()
    for path in heads(model):
        whole = {name for name in own if name.startswith(path)}
        if whole & names and whole <= names:
            model.get_submodule(path.rstrip('.')).apply(model.initialize)
            names -= whole
    for path, module in model.named_modules():
        whole = {f'{path}.weight', f'{path}.bias'}
        if isinstance(module, nn.LayerNorm) and whole <= names:
            module.reset_parameters()
            names -= whole
    if names:  # rare, so it may cost a second model
        fresh = type(model)(model.cfg).state_dict()
        with torch.no_grad():
            for name in names:
                own[name].copy_(fresh[name])


def unflattened(weights: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights of a feature extractor, with `stages_0` or `model.stages.0` for `stages.0`, under the model's names."""
    others = {name.replace('.', '_', 1): name for name in own} | {f'model.{name}': name for name in own}
    return {name if name in own else others.get(name, name): tensor for name, tensor in weights.items()}


def listed(names: list[str], others: list[str], most: int = 5) -> str:
    """The first names of a list, each with the nearest of `others`, and how many more there are."""
    said = []
    for name in names[:most]:
        near = difflib.get_close_matches(name, others[:SEARCHED], n=1, cutoff=0.7)
        said.append(f'{name} (there is {near[0]})' if near else name)
    return ', '.join(said) + (f' and {len(names) - most} more' if len(names) > most else '')
