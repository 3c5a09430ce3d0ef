"""Channel-pruned networks: an architecture whose layers have been cut to the channels that a list gives."""

from torch import nn

from foveal.catalog import ZOO
from foveal.layers.batch_norm import BatchNorm2d


def pruned_names(family: str) -> list[str]:
    """Names of the channel lists that have `family` in their name."""
    return sorted(path.stem for path in (ZOO / 'pruned').glob(f'*{family}*.txt'))


def narrow(model: nn.Module, name: str) -> None:
    """Cut convolutions and norms of a model that is being built; their weights are new and undrawn.

    Args:
        model: the unpruned architecture.
        name: of a list in `zoo/pruned`. Its lines name a layer; then come a convolution's output and input channels,
            or a norm's channels.
    """
    for line in (ZOO / 'pruned' / f'{name}.txt').read_text().splitlines():
        path, width, *inputs = line.split()
        layer = model.get_submodule(path)
        if isinstance(layer, nn.Conv2d):
            layer.out_channels, layer.in_channels = int(width), int(*inputs)
            bias = layer.bias is not None
            fresh = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups, bias=bias)  # type: ignore[arg-type]
        else:
            assert isinstance(layer, nn.BatchNorm2d), f'{path} is a {type(layer).__name__}'
            layer.num_features = int(width)
            fresh = BatchNorm2d(layer.num_features)  # type: ignore[assignment]
        layer._parameters, layer._buffers = fresh._parameters, fresh._buffers
