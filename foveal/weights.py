"""Loading weights into models: from files and from the hub, fitted to the model, never in silence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from foveal.pretrained import PretrainedCfg

WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')  # keys that checkpoints keep the weights under
PREFIXES = ('_orig_mod.', 'module.')  # of compiled and distributed models


class WeightsError(RuntimeError):
    """Weights that cannot be had, read, or fitted to the model."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, with the prefixes of compiled and distributed models taken off.

    Args:
        path: a safetensors file, or a torch file of plain tensors; nothing is unpickled but tensors.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: a file that is damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no weights at {path}')
    try:
        loaded: Any = (
            load_file(path)
            if path.suffix == '.safetensors'
            else torch.load(path, map_location='cpu', weights_only=True)
        )
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f'cannot read weights from {path}: {error}') from error
    except Exception as error:  # pickle.UnpicklingError and what else a hostile file makes torch.load raise
        raise WeightsError(f'{path} is not a file of plain tensors: {error}') from error
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f'{path} does not hold named tensors, nor under any of {", ".join(WRAPPERS)}')
    return {bare(name): tensor for name, tensor in loaded.items()}


def bare(name: str) -> str:
    """A weight's name without the prefixes of wrappers."""
    while name.startswith(PREFIXES):
        name = name.split('.', 1)[1]
    return name


def load_checkpoint(model: nn.Module, path: str | Path, strict: bool = True) -> None:
    """Load a file into a model whose weights have the same names and shapes.

    Args:
        model: changed in place.
        path: as in `read_weights`.
        strict: missing and unexpected weights are an error; a wrong shape always is.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: the file cannot be read, or does not fit; the message says how.
    """
    fit(model, read_weights(path), str(path), strict)


def fit(model: nn.Module, weights: Mapping[str, Tensor], source: str, strict: bool = True) -> None:
    """Copy weights into a model, or say what does not fit before anything is copied."""
    own = model.state_dict()
    missing, extra = [k for k in own if k not in weights], [k for k in weights if k not in own]
    shapes = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    said = [f'missing: {listed(missing)}'] * bool(missing and strict)
    said += [f'unexpected: {listed(extra)}'] * bool(extra and strict)
    said += [f'{k} is {tuple(weights[k].shape)}, the model has {tuple(own[k].shape)}' for k in shapes[:5]]
    if said:
        raise WeightsError(f'{source} does not fit {type(model).__name__}: ' + '; '.join(said))
    model.load_state_dict({k: v for k, v in weights.items() if k in own}, strict=False)


def listed(names: list[str], most: int = 5) -> str:
    """The first names of a list, and how many there are."""
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def load_pretrained(model: Any, cache_dir: str | Path | None = None) -> None:
    """Load the weights that the model's `pretrained_cfg` names.

    The first convolution is fitted to the model's input channels. The classifier is left as it is where the number of
    classes differs, and cut where the record says that its first classes are to be left out.

    Raises:
        WeightsError: the record names no weights, they cannot be fetched, or they do not fit.
    """
    record: PretrainedCfg = model.pretrained_cfg
    weights, source = fetch(record, cache_dir)
    for conv in listed_modules(record.first_conv):
        name = f'{conv}.weight'
        if name in weights and weights[name].shape[1] != model.in_chans:
            weights[name] = adapt_input_channels(weights[name], model.in_chans)
    heads = {f'{head}.{leaf}' for head in listed_modules(record.classifier) for leaf in ('weight', 'bias')}
    if model.num_classes != (record.num_classes or 0):
        own = {name: tensor for name, tensor in model.state_dict().items() if name in heads}
        weights = {name: tensor for name, tensor in weights.items() if name not in heads} | own
    elif record.label_offset:
        weights |= {name: weights[name][record.label_offset :] for name in heads & weights.keys()}
    fit(model, weights, source)


def listed_modules(paths: str | tuple[str, ...] | None) -> list[str]:
    """A record's module paths, which it gives as none, one or several."""
    return [paths] if isinstance(paths, str) else list(paths or ())


def fetch(record: PretrainedCfg, cache_dir: str | Path | None) -> tuple[dict[str, Tensor], str]:
    """The tensors that a record names, and where they come from: its tensors, its file, or the hub."""
    if record.state_dict is not None:
        return dict(record.state_dict), 'state_dict of pretrained_cfg'
    if record.file:
        return read_weights(record.file), str(record.file)
    if not record.hf_hub_id:
        raise WeightsError(f'there are no published weights for {record.architecture or "this model"} on the hub')
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = record.hf_hub_id.partition('@')
    name = record.hf_hub_filename or 'model.safetensors'
    try:
        path = hf_hub_download(repository, name, revision=revision or None, cache_dir=cache_dir)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f'cannot fetch {name} of {record.hf_hub_id}: {error}') from error
    return read_weights(path), record.hf_hub_id


def adapt_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    """A first convolution (out, channels, height, width) for another number of input channels.

    One channel gets the sum of the old ones, so that a grey image gives what it gave as three equal channels. More
    channels repeat the old ones in turn, scaled so that the sum over channels stays the same.
    """
    channels = weight.shape[1]
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_chans // channels)
    return weight.repeat(1, repeats, 1, 1)[:, :in_chans] * (channels / in_chans)
