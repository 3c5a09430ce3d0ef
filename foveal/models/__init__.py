"""The architectures. A family is a module (`from foveal.models.resnet import ResNet`); every architecture is a function
here too: `foveal.models.resnet50(pretrained=True)` is `foveal.create_model('resnet50', pretrained=True)`."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from foveal.catalog import catalog


def __getattr__(name: str) -> Any:
    if name in catalog().archs:
        from foveal.factory import create_model

        build: Callable[..., Any] = partial(create_model, name)
        return build
    if name in catalog().modules:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}: neither an architecture nor a family')


def __dir__() -> list[str]:
    return sorted({*globals(), *catalog().archs, *catalog().modules})
