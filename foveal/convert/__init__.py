"""Weights under the names of their original authors, brought under ours.

One file a family, with the layouts that its weights come in.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from foveal.convert.layout import Layout

__all__ = ['Layout', 'layout_of']


def layout_of(weights: dict[str, Tensor], model: Any) -> Layout | None:
    """The source layout that weights for a model are in; None where none is recognised, as with our own."""
    path = f'{__name__}.{type(model).__module__.rpartition(".")[-1]}'
    if find_spec(path) is None:
        return None
    layouts = getattr(import_module(path), 'LAYOUTS', ())
    return next((layout for layout in layouts if layout.recognises(weights)), None)
