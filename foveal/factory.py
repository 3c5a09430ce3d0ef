"""From a name to a model."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from foveal.features import Features
from foveal.models.backbone import Backbone, configure, take_indices
from foveal.pretrained import PretrainedCfg
from foveal.registry import Variant, find_variant, get_pretrained_cfg
from foveal.weights import load_checkpoint, load_pretrained
from foveal.weights.fit import draw
from foveal.weights.names import find_config


def create_model(
    model_name: str,
    pretrained: bool = False,
    *,
    pretrained_cfg: PretrainedCfg | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    pretrained_strict: bool = True,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    feature_norm: bool = False,
    output_fmt: str = 'NCHW',
    **options: Any,
) -> Any:
    """Build a model by name.

    Args:
        model_name: `arch` or `arch.tag`; the tag says which published weights, and with them which input size, which
            number of classes and which preprocessing. Or `hf-hub:org/repo[@revision]`, or `local-dir:folder`, which
            hold a config.json and weights.
        pretrained: load the published weights.
        pretrained_cfg: the record of the weights, in place of the published one.
        pretrained_cfg_overlay: fields over those of the record.
        checkpoint_path: load weights from this file (safetensors, or a torch file of plain tensors).
        cache_dir: where downloads are kept.
        pretrained_strict: weights that are missing or unexpected are an error; otherwise a warning, and what is missing
            is drawn anew. A wrong shape always is an error.
        features_only: return the feature pyramid instead of the classifier.
        out_indices: its levels: a number for the last so many, or a list (negative from the end).
        feature_norm: normalise its maps where the model's norm fits them.
        output_fmt: the layout of its maps: 'NCHW', 'NHWC' or 'NLC'.
        options: fields of the family's config: `num_classes`, `in_chans`, `img_size`, `drop_path_rate`,
            `output_stride`, ... Those given as None keep their default.

    Returns:
        The model, in training mode: a `Backbone`, or a `Features` over one, or what a user's own builder returns.

    Raises:
        UnknownModelError: no such model; the message names near ones.
        ValueError: an option that the family does not have or a value that it cannot take. Nothing has been built.
    """
    config = find_config(model_name, cache_dir)
    if config is not None:
        model_name, options = config.architecture, {**config.model_args, **options}
        pretrained_cfg = pretrained_cfg or config.pretrained_cfg
    variant = find_variant(model_name)
    record = resolve_cfg(model_name, pretrained_cfg, pretrained_cfg_overlay)
    options = {name: value for name, value in options.items() if value is not None}
    if not features_only and out_indices is not None:
        raise ValueError('out_indices chooses levels of a feature pyramid: it needs features_only=True')
    if not (isinstance(variant.cls, type) and issubclass(variant.cls, Backbone)):
        if features_only:
            raise ValueError(f'{model_name} is not a foveal Backbone, so it has no levels for features_only=True')
        return create_foreign(variant, pretrained, checkpoint_path, options)
    cls = variant.cls
    cfg = configure(cls.Config, None, {**defaults(cls, record), **variant.options, **options})
    if features_only:
        with torch.device('meta'):
            levels = len(cls(cfg).feature_info)
        take_indices(levels, cls.out_indices if out_indices is None else out_indices, 'out_indices')
    loads = pretrained or checkpoint_path is not None
    model = cls.unfilled(cfg) if loads else cls(cfg)
    model.pretrained_cfg = record
    whole = set(model.state_dict()) if features_only else set()
    result = Features(model, out_indices, output_fmt, feature_norm) if features_only else model
    if checkpoint_path is not None:
        draw(model, load_checkpoint(model, checkpoint_path, pretrained_strict, spare=whole))
    elif pretrained:
        draw(model, load_pretrained(model, cache_dir, pretrained_strict, spare=whole))
    return result


def create_foreign(
    variant: Variant, pretrained: bool, checkpoint_path: str | Path | None, options: Mapping[str, Any]
) -> Any:
    """A model that a user's own class or function builds; a function is told whether to load weights of its own."""
    if isinstance(variant.cls, type):
        if pretrained:
            raise ValueError(
                f'{variant.name} is built by the class {variant.cls.__name__}, which has no weights to load'
            )
        model = variant.cls(**options)
    else:
        model = variant.cls(pretrained=pretrained, **options)
    if checkpoint_path is not None:
        load_checkpoint(model, checkpoint_path)
    return model


def resolve_cfg(
    model_name: str, given: PretrainedCfg | Mapping[str, Any] | None, overlay: Mapping[str, Any] | None
) -> PretrainedCfg:
    """The record of a model's weights: the published one or the one given, and the overlay over it."""
    if given is None:
        record = get_pretrained_cfg(model_name) or PretrainedCfg()
    else:
        record = given if isinstance(given, PretrainedCfg) else PretrainedCfg.from_dict(given)
    return PretrainedCfg.from_dict({**record, **overlay}) if overlay else record


def defaults(cls: type[Backbone], record: PretrainedCfg) -> dict[str, Any]:
    """What a record says about the network that its weights fit: channels, classes, and the size where it is fixed."""
    said: dict[str, Any] = {'in_chans': record.input_size[0], 'num_classes': record.num_classes or 0}
    if record.fixed_input_size:
        said['img_size'] = record.input_size[1:]
    legal = {field.name for field in fields(cls.Config)}
    return {name: value for name, value in said.items() if name in legal}
