"""Arrays of JAX under torch's axes: kernels have their inputs first and their outputs last."""

from collections.abc import Mapping

from torch import Tensor

Arrays = Mapping[str, Tensor]


def shortened(weights: Arrays) -> dict[str, Tensor]:
    """Names without what training states put before them."""
    result = {}
    for name, array in weights.items():
        for prefix in ('opt/target/', 'params/', 'img/'):
            name = name.removeprefix(prefix)
        result[name] = array
    return result


def linear(arrays: Arrays, path: str) -> dict[str, Tensor]:
    """A dense layer: (in, out) as (out, in)."""
    return {'weight': arrays[f'{path}/kernel'].T.contiguous(), 'bias': arrays[f'{path}/bias']}


def convolution(arrays: Arrays, path: str) -> dict[str, Tensor]:
    """A convolution: (height, width, in, out) as (out, in, height, width)."""
    return {'weight': arrays[f'{path}/kernel'].permute(3, 2, 0, 1).contiguous(), 'bias': arrays[f'{path}/bias']}


def norm(arrays: Arrays, path: str) -> dict[str, Tensor]:
    """A layer norm."""
    return {'weight': arrays[f'{path}/scale'], 'bias': arrays[f'{path}/bias']}


def heads_in(arrays: Arrays, path: str) -> dict[str, Tensor]:
    """A projection to heads: (in, heads, head_dim) as (heads * head_dim, in)."""
    return {
        'weight': arrays[f'{path}/kernel'].flatten(1).T.contiguous(), 'bias': arrays[f'{path}/bias'].flatten(),
    }  # fmt: skip


def heads_out(arrays: Arrays, path: str) -> dict[str, Tensor]:
    """A projection from heads: (heads, head_dim, out) as (out, heads * head_dim)."""
    return {'weight': arrays[f'{path}/kernel'].flatten(0, 1).T.contiguous(), 'bias': arrays[f'{path}/bias']}
