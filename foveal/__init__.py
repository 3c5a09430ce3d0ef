"""Image models on PyTorch: every architecture under one API, with training, validation and prediction.

The names here are resolved when they are used: `import foveal` imports neither torch nor any model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveal import data, engine, labels, layers, models, optim, scheduler
    from foveal.factory import create_model
    from foveal.pretrained import PretrainedCfg
    from foveal.query import search
    from foveal.registry import (
        UnknownModelError,
        get_pretrained_cfg,
        get_pretrained_cfg_value,
        is_model,
        is_model_pretrained,
        list_models,
        list_modules,
        list_pretrained,
        register_model,
    )
    from foveal.save import push_to_hub, save_pretrained

__version__ = '0.1.0'

__all__ = [
    'PretrainedCfg',
    'UnknownModelError',
    '__version__',
    'create_model',
    'data',
    'engine',
    'get_pretrained_cfg',
    'get_pretrained_cfg_value',
    'is_model',
    'is_model_pretrained',
    'labels',
    'layers',
    'list_models',
    'list_modules',
    'list_pretrained',
    'models',
    'optim',
    'push_to_hub',
    'register_model',
    'save_pretrained',
    'scheduler',
    'search',
]

_SUBMODULES = {'data', 'engine', 'labels', 'layers', 'models', 'optim', 'scheduler'}
_HOMES = {
    'create_model': 'factory',
    'PretrainedCfg': 'pretrained',
    'push_to_hub': 'save',
    'save_pretrained': 'save',
    'search': 'query',
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name in _SUBMODULES:
        return import_module(f'foveal.{name}')
    value = getattr(import_module(f'foveal.{_HOMES.get(name, "registry")}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
