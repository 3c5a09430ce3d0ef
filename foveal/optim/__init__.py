"""Optimizers: `create_optimizer` by name, or the classes themselves. Listing them imports no torch.

Names are resolved when they are used. How an algorithm is written is told in `foveal.optim.engine`.
"""

from importlib import import_module
from typing import Any

from foveal.optim.names import TABLE
from foveal.optim.registry import (
    OptimInfo,
    create_optimizer,
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
    register_optimizer,
)

_TARGETS = (entry.target.partition(':') for entry in TABLE.values())
_HOMES = {cls: module for module, _, cls in _TARGETS if '.' not in module}
_HOMES |= {'Lookahead': 'lookahead', 'Optimizer': 'engine', 'Traits': 'engine'}
_HOMES |= dict.fromkeys(('param_groups', 'param_groups_layer_decay', 'param_groups_weight_decay'), 'groups')

__all__ = [
    'OptimInfo',
    'create_optimizer',
    'get_optimizer_class',
    'get_optimizer_info',
    'list_optimizers',
    'register_optimizer',
]
__all__ += sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(f'foveal.optim.{_HOMES[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
