"""Channel-pruned networks: an architecture whose layers have been cut to the channels that a list gives."""

from torch import nn

from foveal.catalog import ZOO
from foveal.errors import near


def pruned_names() -> list[str]:
    """Names of the channel lists that there are."""
    return sorted(path.stem for path in (ZOO / 'pruned').glob('*.txt'))


def channel_list(name: str) -> dict[str, tuple[int, ...]]:
    """One list: layer -> (output, input) channels of a convolution or a linear layer, (channels,) of a norm.

    Raises:
        ValueError: no such list.
    """
    if name not in pruned_names():
        raise ValueError(f'pruned {name!r} is unknown{near(name, pruned_names())}')
    lines = (ZOO / 'pruned' / f'{name}.txt').read_text().splitlines()
    rows = (line.split() for line in lines if line and not line.startswith('#'))
    return {path: tuple(map(int, channels)) for path, *channels in rows}


def narrow(model: nn.Module, name: str) -> None:
    """Cut the layers of a model that is being built to the channels of a list; their weights are new and undrawn.

    Args:
        model: the unpruned architecture.
        name: of the list, `zoo/pruned/<name>.txt`.

    Raises:
        ValueError: no such list.
    """
    for path, shape in channel_list(name).items():
        layer = model.get_submodule(path)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            fresh: nn.Module = type(layer)(shape[0], layer.eps, layer.momentum)
            layer.num_features = shape[0]
        elif isinstance(layer, nn.Conv2d):
            depthwise = layer.groups == layer.in_channels > 1
            layer.out_channels, layer.in_channels = wide, deep = shape
            layer.groups = shape[0] if depthwise else layer.groups
            fresh = nn.Conv2d(*reversed(shape), layer.kernel_size, groups=layer.groups, bias=layer.bias is not None)
        else:
            assert isinstance(layer, nn.Linear), f'{path} is a {type(layer).__name__}'
            layer.out_features, layer.in_features = shape
            fresh = nn.Linear(*reversed(shape), bias=layer.bias is not None)
        layer._parameters, layer._buffers = fresh._parameters, fresh._buffers
