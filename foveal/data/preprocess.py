"""How an image becomes the input of a model: the record that travels with the weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

IMAGENET_DEFAULT_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEFAULT_STD = (0.229, 0.224, 0.225)
CROP_MODES = ('center', 'squash', 'border')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of a model's input. `**record` passes it to `create_transform` and `create_loader`.

    Attributes:
        input_size: (channels, height, width) of the input.
        interpolation: nearest, bilinear, bicubic, box, hamming or lanczos.
        mean, std: Of pixels in [0, 1], one value a channel.
        crop_pct: Share of the resized image that the evaluation crop keeps, in (0, 1] or above to pad.
        crop_mode: center (resize the short side, crop), squash (resize both sides) or border (resize the long
            side, fill with the mean colour).
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = 'bilinear'
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    crop_pct: float = 0.875
    crop_mode: str = 'center'

    def __post_init__(self) -> None:
        channels, *size = self.input_size
        if len(size) != 2 or min(self.input_size) < 1:
            raise ValueError(f'input_size must be (channels, height, width), each at least 1, got {self.input_size}')
        for name, value, legal in (
            ('interpolation', self.interpolation, INTERPOLATIONS),
            ('crop_mode', self.crop_mode, CROP_MODES),
        ):
            if value not in legal:
                raise ValueError(f'{name} must be one of {", ".join(legal)}, got {value!r}')
        if not self.crop_pct > 0:
            raise ValueError(f'crop_pct must be above 0, got {self.crop_pct}')
        for name, values in (('mean', self.mean), ('std', self.std)):
            if len(values) != channels:
                raise ValueError(f'{name} must have {channels} values (one a channel), got {values}')

    def keys(self) -> list[str]:
        return [field.name for field in fields(self)]

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def to_dict(self) -> dict[str, Any]:
        """The record as a plain dictionary, for JSON."""
        return asdict(self)


def resolve_data_config(
    args: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    model: Any = None,
    use_test_size: bool = False,
) -> Preprocess:
    """Decides a model's preprocessing: what is asked for, else what its weights were trained with, else defaults.

    Args:
        args: Overrides by field name; None values count as absent. `img_size` (one number or (height, width)) and
            `in_chans` set parts of `input_size`.
        pretrained_cfg: The published preprocessing; the model's own where absent.
        model: A model with a `pretrained_cfg`; its channels and the size it was made for go before published ones.
        use_test_size: Take the larger size and crop that some weights are published to be evaluated at.

    Returns:
        The resolved record.

    Raises:
        ValueError: A value outside its range.
    """
    asked = {key: value for key, value in (args or {}).items() if value is not None}
    # a model that was made for another size or other channels takes no others
    takes = getattr(model, 'input_shape', None) if pretrained_cfg is None else None
    source = pretrained_cfg if pretrained_cfg is not None else getattr(model, 'pretrained_cfg', None)
    published = {} if source is None else {field.name: source.get(field.name) for field in fields(Preprocess)}
    if source is not None and use_test_size:
        published['input_size'] = source.get('test_input_size') or published['input_size']
        published['crop_pct'] = source.get('test_crop_pct') or published['crop_pct']
    values = {key: value for key, value in published.items() if value is not None}
    if takes is not None and source is not None:
        own_size = takes[1:] != tuple(source['input_size'][1:])
        values['input_size'] = takes if own_size else (takes[0], *values['input_size'][1:])
    values |= {field.name: asked[field.name] for field in fields(Preprocess) if field.name in asked}

    channels, *size = values.get('input_size', Preprocess.input_size)
    if 'img_size' in asked:
        size = [asked['img_size']] * 2 if isinstance(asked['img_size'], int) else list(asked['img_size'])
    channels = asked.get('in_chans', channels)
    values['input_size'] = (channels, *size)
    for name in ('mean', 'std'):
        values[name] = fit_channels(tuple(values.get(name, getattr(Preprocess, name))), channels)
    return Preprocess(**values)


def resolve_model_data_config(
    model: Any,
    args: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    use_test_size: bool = False,
) -> Preprocess:
    """`resolve_data_config` with the model first, as model cards write it."""
    return resolve_data_config(args, pretrained_cfg, model, use_test_size)


def fit_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One value serves every channel; three published values serve another number of channels by their average."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels
