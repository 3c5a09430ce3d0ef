"""Names of models: which there are, which weights they have, and what builds them.

Nothing here imports torch. The published names come from `foveal.catalog`, so listing and looking up import no model
file either; `find_variant` imports the one family that a name needs.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, TypeVar, overload

from foveal.catalog import Architecture, catalog
from foveal.errors import near
from foveal.pretrained import PretrainedCfg

Builder = TypeVar('Builder', bound=Callable[..., Any])
Patterns = str | Iterable[str]


class UnknownModelError(ValueError, RuntimeError):
    """No such architecture or tag. A RuntimeError too: that is what callers of published APIs already catch."""


@dataclass(frozen=True)
class Variant:
    """What builds one architecture: a class (or a user's function), and the options that make it this one."""

    name: str
    cls: Callable[..., Any]
    options: Mapping[str, Any]
    module: str


_variants: dict[str, Variant] = {}  # of the family files imported so far
_own: dict[str, Variant] = {}  # of register_model; they win, whenever the family of the same name is imported


def register(module: str, cls: type, **variants: Mapping[str, Any]) -> None:
    """Enter architectures of a family file: `register(__name__, ConvNeXt, convnext_tiny=dict(depths=(3, 3, 9, 3)))`.

    Args:
        module: the family file's `__name__`; the class may come from another family.
        cls: the class that builds them.
        variants: architecture name -> the options it is built with.

    Raises:
        ValueError: another module has entered the name.
    """
    family = module.rpartition('.')[-1]
    for name, options in variants.items():
        if name in _variants and _variants[name].module != family:
            raise ValueError(f'{name} is registered by {_variants[name].module}, and again by {family}')
        _variants[name] = Variant(name, cls, options, family)


def find_variant(name: str) -> Variant:
    """The variant behind a model name (`arch`, `arch.tag` or an old name); imports the family that it belongs to.

    Warns:
        FutureWarning: the name is an old one; the message names the new one.

    Raises:
        UnknownModelError: no such architecture or tag; the message names near ones.
    """
    arch, tag = resolve(name)
    if arch != get_arch_name(name):
        new = f'{arch}.{tag}' if tag else arch
        # Level 3 is the caller of create_model: the line that holds the old name.
        warnings.warn(f'the model name {name!r} is deprecated, use {new!r}', FutureWarning, stacklevel=3)
    if arch in _own:
        return _own[arch]
    if arch not in _variants:
        import_module(f'foveal.models.{catalog().archs[arch].module}')
    return _variants[arch]


@overload
def register_model(builder: Builder, /) -> Builder: ...
@overload
def register_model(
    *, name: str | None = None, cfg: PretrainedCfg | Mapping[str, Any] | None = None
) -> Callable[[Builder], Builder]: ...
def register_model(
    builder: Builder | None = None,
    /,
    *,
    name: str | None = None,
    cfg: PretrainedCfg | Mapping[str, Any] | None = None,
) -> Builder | Callable[[Builder], Builder]:
    """Enter your own model, so that `create_model`, `list_models` and the commands know it.

    Use it bare (`@register_model`) or with arguments (`@register_model(name='my_net', cfg=dict(input_size=...))`) on a
    class, or on a function that takes `pretrained=False, **options` and returns a module.

    Args:
        builder: the class or function.
        name: its name among the models; the builder's own name if not given.
        cfg: its weights and preprocessing; a `tag` in it becomes part of the name.

    Returns:
        The builder, unchanged. A name that is taken is replaced, with a warning.

    Raises:
        ValueError: the name holds a dot (that separates the tag), or `cfg` holds an unknown field.
    """
    if builder is None:
        return lambda builder: _enter(builder, name or builder.__name__, cfg)
    return _enter(builder, name or builder.__name__, cfg)


def _enter(builder: Builder, name: str, cfg: PretrainedCfg | Mapping[str, Any] | None) -> Builder:
    if '.' in name:
        raise ValueError(f'a model name cannot hold a dot, got {name!r}: what follows a dot is the tag of its weights')
    record = cfg if isinstance(cfg, PretrainedCfg) else PretrainedCfg.from_dict(cfg or {})
    if name in catalog().archs:
        warnings.warn(f'{name} is registered again and replaced', UserWarning, stacklevel=3)
    module = builder.__module__.rpartition('.')[-1]
    _own[name] = Variant(name, builder, {}, module)
    catalog().archs[name] = Architecture(name, module, builder.__name__, weights={record.tag or '': record.to_dict()})
    return builder


def split_model_name_tag(model_name: str, no_tag: str = '') -> tuple[str, str]:
    """('resnet50', 'a1_in1k') of 'resnet50.a1_in1k'; `no_tag` stands for a missing tag."""
    arch, _, tag = model_name.partition('.')
    return arch, tag or no_tag


def get_arch_name(model_name: str) -> str:
    """The architecture of a model name, without the tag."""
    return split_model_name_tag(model_name)[0]


def _translate(model_name: str) -> tuple[str, str]:
    """(architecture, tag) of a name that may be an old one or unknown; a tag that is named stays."""
    arch, tag = split_model_name_tag(model_name)
    if arch not in catalog().archs:
        arch, new_tag = split_model_name_tag(get_deprecated_models().get(arch, arch))
        tag = tag or new_tag
    return arch, tag


def resolve(model_name: str) -> tuple[str, str]:
    """(architecture, tag) of a model name, with old names translated and a missing tag replaced by the default one.

    Raises:
        UnknownModelError: no such architecture or tag; the message names near ones.
    """
    arch, tag = _translate(model_name)
    archs = catalog().archs
    if arch not in archs:
        raise UnknownModelError(f'unknown model {model_name!r}{near(arch, archs)}')
    weights = archs[arch].weights
    tag = tag or next(iter(weights))
    if tag not in weights:
        has = ', '.join(filter(None, weights)) or 'none'
        raise UnknownModelError(f'{arch} has no weights tagged {tag!r}; it has {has}')
    return arch, tag


def list_models(
    filter: Patterns = '',
    module: Patterns = '',
    pretrained: bool = False,
    exclude_filters: Patterns = '',
    name_matches_cfg: bool = False,
    include_tags: bool | None = None,
) -> list[str]:
    """The names of models, in natural order.

    Args:
        filter: wildcard(s) that a name must match one of (`'resnet*'`, `['*_tiny*', 'vit_s*']`); empty for all. Where
            tags are listed, a wildcard without a tag stands for all tags of what it matches.
        module: only of these families.
        pretrained: only what has weights; lists tags unless `include_tags` is False.
        exclude_filters: wildcard(s) of names to leave out.
        name_matches_cfg: only names that weights or preprocessing are recorded for.
        include_tags: list `arch.tag` for every tag; None: as `pretrained`.
    """
    tagged = pretrained if include_tags is None else include_tags
    modules, wanted, unwanted = _listed(module), _listed(filter), _listed(exclude_filters)
    names = [
        name
        for arch in catalog().archs.values()
        if not modules or arch.module in modules
        if not name_matches_cfg or arch.weights
        for name in _names(arch, pretrained, tagged)
    ]
    if wanted:
        names = [name for name in names if _matches(name, wanted, tagged)]
    return sorted((name for name in names if not _matches(name, unwanted, tagged)), key=natural_key)


def list_pretrained(filter: Patterns = '', exclude_filters: Patterns = '') -> list[str]:
    """The `arch.tag` names that have weights, in natural order; the arguments are those of `list_models`."""
    return list_models(filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True)


def list_modules() -> list[str]:
    """The names of the families, which are modules of `foveal.models`, and of modules that registered a model."""
    return sorted({arch.module for arch in catalog().archs.values()})


def _listed(patterns: Patterns) -> list[str]:
    return [patterns] * bool(patterns) if isinstance(patterns, str) else list(patterns)


def _names(arch: Architecture, pretrained: bool, tagged: bool) -> list[str]:
    tags = [tag for tag in arch.weights if not pretrained or arch.has_weights(tag)]
    if tagged:
        return [f'{arch.name}.{tag}' if tag else arch.name for tag in tags]
    return [arch.name] if tags or not pretrained else []


def _matches(name: str, patterns: list[str], tagged: bool) -> bool:
    return any(
        fnmatchcase(name, pattern) or (tagged and '.' not in pattern and fnmatchcase(name, f'{pattern}.*'))
        for pattern in patterns
    )


def natural_key(name: str) -> list[str | int]:
    """Sort key that orders numbers inside names by value: resnet18, resnet50, resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name.lower())]


def is_model(model_name: str) -> bool:
    """Whether `create_model` knows the name: an architecture, one of its tags, or an old name."""
    arch, tag = _translate(model_name)
    return arch in catalog().archs and (not tag or tag in catalog().archs[arch].weights)


def is_model_pretrained(model_name: str) -> bool:
    """Whether the architecture, or the tag if one is named, has published weights."""
    arch, tag = _translate(model_name)
    if arch not in catalog().archs:
        return False
    known = catalog().archs[arch]
    return any(known.has_weights(each) for each in known.weights if not tag or each == tag)


def get_deprecated_models(module: str = '') -> dict[str, str]:
    """Old name -> new name, of one family or of all."""
    families = catalog().deprecated
    chosen = [families.get(module, {})] if module else families.values()
    return {old: new for family in chosen for old, new in family.items()}


def get_pretrained_cfg(model_name: str, allow_unregistered: bool = True) -> PretrainedCfg | None:
    """The record of a model name's weights: of its tag, or of the default one.

    Args:
        model_name: `arch`, `arch.tag` or an old name.
        allow_unregistered: return None for an unknown architecture; otherwise that is an error.

    Raises:
        UnknownModelError: the architecture has no such tag, or is unknown and `allow_unregistered` is False.
    """
    if allow_unregistered and not is_model(get_arch_name(model_name)):
        return None
    arch, tag = resolve(model_name)
    return catalog().archs[arch].cfg(tag)


def get_pretrained_cfg_value(model_name: str, cfg_key: str) -> Any:
    """One field of `get_pretrained_cfg(model_name)`; None where the field is not set.

    Raises:
        UnknownModelError: no such architecture or tag.
    """
    arch, tag = resolve(model_name)
    return catalog().archs[arch].cfg(tag).get(cfg_key)


def get_arch_pretrained_cfgs(model_name: str) -> dict[str, PretrainedCfg]:
    """`arch.tag` -> record, for all tags of a model name's architecture; empty for an unknown one."""
    arch = catalog().archs.get(get_arch_name(model_name))
    return {f'{arch.name}.{tag}' if tag else arch.name: arch.cfg(tag) for tag in arch.weights} if arch else {}
