"""Words for error messages."""

import difflib
from collections.abc import Iterable


def near(name: str, legal: Iterable[str], show: int = 8) -> str:
    """The end of a message about an unknown name: the nearest legal names, or the first of them.

    Args:
        name: what came.
        legal: what is legal.
        show: how many names to list where none is near.
    """
    names = [n for n in legal if n]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f'; did you mean {" or ".join(map(repr, close))}?'
    listed = ', '.join(sorted(names)[:show])
    return f'; legal are {listed}' + (', ...' if len(names) > show else '')


def check_options(field: str, options: Iterable[str], legal: Iterable[str]) -> None:
    """Refuses a name that a field's options do not have.

    Args:
        field: what the options are called.
        options: the names that came.
        legal: the names that there are.

    Raises:
        ValueError: names the first one, and the nearest.
    """
    known = set(legal)
    for key in options:
        if key not in known:
            raise ValueError(f'{field} has no option {key!r}{near(key, known)}')
