"""Weights made for other channels, sizes or classes.

A module whose weights depend on the size of images, patches or windows says how one is made for another size: a method
`adapt(name, weight)`, with the weight's name inside the module, which returns it in the size that the module has now.
"""

from torch import Tensor, nn

from foveal.weights.read import WeightsError


def adapt(model: nn.Module, name: str, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A weight as the model needs it, or as it came where nothing knows how.

    Args:
        model: the model.
        name: of the weight in the model.
        weight: as it came.
        shape: of the model's own.

    Raises:
        WeightsError: a weight that cannot be made for this size, such as positions that fill no grid.
    """
    if weight.shape == shape:
        return weight
    first = listed_modules(getattr(getattr(model, 'pretrained_cfg', None), 'first_conv', None))
    if name.rpartition('.')[0] in first and weight.dim() == 4 and weight.shape[1] != shape[1]:
        weight = adapt_input_channels(weight, shape[1])
    if weight.shape == shape:
        return weight
    path = name
    while path:
        path = path.rpartition('.')[0]
        change = getattr(model.get_submodule(path), 'adapt', None)
        if callable(change):
            try:
                return change(name.removeprefix(f'{path}.'), weight)
            except ValueError as error:
                raise WeightsError(f'{name}: {error}') from error
    return weight


def adapt_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    """A first convolution (out, channels, height, width) for another number of input channels.

    One channel gets the sum of the old ones, so that a grey image gives what it gave as three equal channels. More
    channels repeat the old ones in turn, scaled so that the sum over channels stays the same.
    """
    channels = weight.shape[1]
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_chans // channels)
    return weight.repeat(1, repeats, 1, 1)[:, :in_chans] * (channels / in_chans)


def listed_modules(paths: str | tuple[str, ...] | None) -> list[str]:
    """A record's module paths, which it gives as none, one or several."""
    return [paths] if isinstance(paths, str) else list(paths or ())
