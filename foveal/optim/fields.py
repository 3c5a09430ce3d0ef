"""Arguments of a class as annotated fields: its signature, its docstring and the checks follow from them."""

import inspect
import re
from dataclasses import Field, dataclass, fields
from functools import wraps
from itertools import chain
from typing import Any, ClassVar, Literal, dataclass_transform, get_args, get_origin

from foveal.errors import near

# what a field means where no comment beside it says so
USUAL = {
    'lr': 'learning rate',
    'betas': 'of the means of the gradient and of its square',
    'eps': 'added to the root of the second moment',
    'momentum': 'share of the last step that is kept',
    'dampening': 'share of the gradient that does not enter the momentum, from the second step on',
    'weight_decay': 'decoupled',
    'nesterov': 'look ahead by one step of the momentum',
    'amsgrad': 'divide by the largest second moment so far',
    'decoupled_decay': 'decay as AdamW does',
}
LEAST = dict.fromkeys(('lr', 'eps', 'weight_decay', 'momentum', 'lr_decay', 'initial_accumulator_value'), 0.0)
LEAST |= dict.fromkeys(('update_each', 'n_samples', 'precondition_frequency'), 1)


@dataclass_transform()
class Fields:
    """Base of classes that are dataclasses in their signature alone: `start` gets the values, nothing keeps them.

    A comment beside a field is its description. Arguments that are not there are refused with near names.
    """

    fields: ClassVar[dict[str, Field[Any]]] = {}
    meanings: ClassVar[dict[str, str]] = USUAL

    def __init_subclass__(cls) -> None:
        cls.meanings = {**cls.meanings, **comments(cls)}
        has_own = '__init__' in vars(cls)
        dataclass(init=not has_own, eq=False, repr=False)(cls)
        cls.fields = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
        for name in cls.fields.keys() & vars(cls).keys():
            delattr(cls, name)
        if has_own:
            return
        made: Any = cls.__init__

        @wraps(made)
        def __init__(self: Any, *args: Any, **values: Any) -> None:
            for name in values.keys() - cls.fields:
                raise TypeError(f'{type(self).__name__} has no option {name!r}{near(name, cls.fields)}')
            made(self, *args, **values)

        cls.__init__ = __init__  # type: ignore[method-assign]
        told = [f'    {name}: {cls.meanings.get(name, "")}.' for name in inspect.signature(cls).parameters]
        cls.__doc__ = '\n'.join([inspect.cleandoc(cls.__doc__ or '').rstrip(), '', 'Args:', *told])

    def __post_init__(self) -> None:
        self.start(**{name: vars(self).pop(name) for name in self.fields})

    def start(self, **values: Any) -> None:
        """What `__init__` does with the arguments."""
        raise NotImplementedError


def comments(cls: type) -> dict[str, str]:
    """What the comments beside a class's fields say; nothing where its source is not at hand."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        return {}
    return dict(re.findall(r'^    (\w+): [^#\n]*  # (.+)$', source, re.MULTILINE))


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values that an annotation lists with `Literal`, None included where it may be; () if it lists none."""
    parts = get_args(annotation) if get_origin(annotation) is not Literal else (annotation,)
    listed = [get_args(part) for part in parts if get_origin(part) is Literal]
    return (*chain(*listed), *[None] * (type(None) in parts)) if listed else ()


def check(cls: type[Fields], values: dict[str, Any]) -> None:
    """Refuses values outside their range.

    Raises:
        ValueError: Names the argument, what came and what is legal.
    """
    owner = cls.__name__
    for name, value in values.items():
        if name in LEAST and isinstance(value, float | int) and not value >= LEAST[name]:
            raise ValueError(f'{owner}: {name} is {value}; it must be {LEAST[name]:g} or more')
        legal = choices(cls.fields[name].type) if name in cls.fields else ()
        if legal and value not in legal:
            raise ValueError(f'{owner}: {name} {value!r} is unknown{near(str(value), map(str, legal))}')
    for name in ('betas', 'betas_1d'):
        if not all(0 <= beta < 1 for beta in values.get(name) or () if isinstance(beta, float)):
            raise ValueError(f'{owner}: {name} are {values[name]}; each must be from 0 to below 1')
