"""What is published about one set of weights: where they lie, how their inputs are prepared, whose they are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

# Model code and clients read these four by key even where they are empty, so a mapping of a cfg always has them.
ALWAYS_PRESENT = ('num_classes', 'pool_size', 'first_conv', 'classifier')


@dataclass(frozen=True, kw_only=True)
class PretrainedCfg(Mapping[str, Any]):
    """The record that travels with a model's weights.

    The fields carry the names of published `config.json` files. Sizes are (channels, height, width), crops are the
    fraction of the resized image that is kept, `mean` and `std` belong to inputs in [0, 1]. A record reads like an
    object (`cfg.mean`) and like a mapping of the fields that are set (`cfg['mean']`, `'url' in cfg`, `dict(cfg)`).

    >>> cfg = PretrainedCfg(architecture='resnet50', input_size=(3, 288, 288))
    >>> cfg.input_size == cfg['input_size'], 'url' in cfg
    (True, False)
    """

    url: str | None = None
    file: str | None = None
    state_dict: Mapping[str, Any] | None = None
    hf_hub_id: str | None = None  # 'owner/repository[@revision]'
    hf_hub_filename: str | None = None
    source: str | None = None  # where this record came from when not from the zoo: 'hf-hub', 'local-dir'
    architecture: str | None = None
    tag: str | None = None
    custom_load: bool | str = False  # the file needs the family's own reader (JAX .npz)

    input_size: tuple[int, int, int] = (3, 224, 224)
    test_input_size: tuple[int, int, int] | None = None
    min_input_size: tuple[int, int, int] | None = None
    fixed_input_size: bool = False
    interpolation: str = 'bicubic'
    crop_pct: float = 0.875
    test_crop_pct: float | None = None
    crop_mode: str = 'center'
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    num_classes: int | None = 1000
    label_offset: int | None = None
    label_names: tuple[str, ...] | None = None
    label_descriptions: Mapping[str, str] | None = None

    pool_size: tuple[int, ...] | None = None
    test_pool_size: tuple[int, ...] | None = None
    first_conv: str | tuple[str, ...] | None = None
    classifier: str | tuple[str, ...] | None = None

    license: str | None = None
    description: str | None = None
    origin_url: str | None = None
    paper_name: str | None = None
    paper_ids: str | tuple[str, ...] | None = None
    notes: tuple[str, ...] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'PretrainedCfg':
        """A record from a mapping such as the `pretrained_cfg` of a `config.json`; lists become tuples.

        Raises:
            ValueError: a key is not a field of the record.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f'unknown pretrained cfg field: {", ".join(unknown)}; known are {", ".join(sorted(known))}'
            )
        typed: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**typed)

    @property
    def has_weights(self) -> bool:
        """Whether the record says where weights are to be had."""
        return any((self.url, self.file, self.state_dict, self.hf_hub_id))

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, and those of `ALWAYS_PRESENT`, as a new dict."""
        return dict(self)

    def __getitem__(self, key: str) -> Any:
        value = getattr(self, key) if key in self.__dataclass_fields__ else None
        if value is None and key not in ALWAYS_PRESENT:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        names = (field.name for field in fields(self))
        return (name for name in names if name in ALWAYS_PRESENT or getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)
