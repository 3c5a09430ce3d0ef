"""Loading weights into models: from files and from the hub, never in silence."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from foveal.convert import layout_of
from foveal.models.backbone import Backbone
from foveal.pretrained import PretrainedCfg
from foveal.weights.adapt import listed_modules
from foveal.weights.fit import fit
from foveal.weights.read import WeightsError, read_weights


def load_checkpoint(model: nn.Module, path: str | Path, strict: bool = True, spare: Collection[str] = ()) -> list[str]:
    """Load a file into a model.

    Names are those of the model, or of its original authors where `foveal.convert` knows them. Positions, patches and
    windows are resampled, and the first convolution is fitted to the model's channels; the classifier is not touched.

    Args:
        model: changed in place. Its weights lie in the file's memory map from then on, where the types agree: changes
            stay in memory, the file is never written.
        path: as in `read_weights`.
        strict: missing and unexpected weights are an error; otherwise a warning. A wrong shape always is an error.
        spare: names that are expected although the model has no use for them.

    Returns:
        Names of the model's weights that the file does not have.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: the file cannot be read, or does not fit; the message says how.
    """
    weights = translated(read_weights(path), model, str(path))
    keep = unpublished(model, weights)
    return fit(model, weights, str(path), strict, keep=keep, spare=spare, take=True) + sorted(keep)


def load_pretrained(
    model: Any, cache_dir: str | Path | None = None, strict: bool = True, spare: Collection[str] = ()
) -> list[str]:
    """Load the weights that the model's `pretrained_cfg` names.

    As `load_checkpoint`. The classifier is left as it is where the number of classes differs, and cut where the record
    says that its first classes are to be left out.

    Returns:
        Names of the model's weights that were not loaded: the classifier, where it is left as it is.

    Raises:
        WeightsError: the record names no weights, they cannot be fetched, or they do not fit.
    """
    record: PretrainedCfg = model.pretrained_cfg
    found, source = fetch(record, cache_dir)
    weights = translated(found, model, source)
    heads = {f'{head}.{leaf}' for head in listed_modules(record.classifier) for leaf in ('weight', 'bias')}
    keep = unpublished(model, weights)
    if model.num_classes != (record.num_classes or 0):
        keep |= heads
    elif record.label_offset:
        weights |= {name: weights[name][record.label_offset :] for name in heads & weights.keys()}
    missing = fit(model, weights, source, strict, keep=keep, spare=spare, take=record.state_dict is None)
    return missing + [name for name in model.state_dict() if name in keep]


def unpublished(model: nn.Module, weights: Collection[str]) -> set[str]:
    """What an encoder's file may lack: parts of a head that was never trained, such as the last norm of ConvNeXt V2."""
    if not isinstance(model, Backbone) or not model.parts.head:
        return set()
    record = model.pretrained_cfg
    if record.num_classes or not record.has_weights:
        return set()
    return {name for name in model.state_dict() if name.startswith(f'{model.parts.head}.')} - set(weights)


def translated(weights: dict[str, Tensor], model: Any, source: str) -> dict[str, Tensor]:
    """Weights under the names and shapes of the model; as they came, where no other layout is recognised.

    Raises:
        WeightsError: weights that begin like those of a layout and lack its rest.
    """
    layout = layout_of(weights, model)
    if layout is None:
        return weights
    try:
        return layout.translate(weights, model)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        what = f'there is no {error}' if isinstance(error, KeyError) else str(error)
        raise WeightsError(f'{source} has the names of {layout.name}, but cannot be read as such: {what}') from error


def fetch(record: PretrainedCfg, cache_dir: str | Path | None) -> tuple[dict[str, Tensor], str]:
    """The tensors that a record names, and where they come from: its tensors, its file, the hub, or its address."""
    if record.state_dict is not None:
        return dict(record.state_dict), 'state_dict of pretrained_cfg'
    if record.file:
        return read_weights(record.file), str(record.file)
    from foveal import hub

    if record.hf_hub_id:
        return read_weights(hub.download_weights(record.hf_hub_id, record.hf_hub_filename, cache_dir)), record.hf_hub_id
    if record.url:
        return read_weights(hub.download_url(record.url, cache_dir)), record.url
    raise WeightsError(f'there are no published weights for {record.architecture or "this model"}')
