"""What every model can do, written once over the parts that a family names."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.errors import near
from foveal.layers.blocks import Blocks
from foveal.layers.head import PoolHead, classifier, classify
from foveal.layers.init import SkipInit, init_conv
from foveal.layers.layout import LAYOUTS, relayout
from foveal.layers.patch import PatchEmbed
from foveal.layers.pool import Pool
from foveal.pretrained import PretrainedCfg

if TYPE_CHECKING:
    from foveal.data.preprocess import Preprocess

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options that every family shares. A family's own config adds what makes its architectures differ.

    A field with `init=False` is no option: the family has that value, or makes it from options.
    """

    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = 'avg'
    drop_rate: float = 0.0  # dropout before the classifier
    drop_path_rate: float = 0.0  # stochastic depth of the last block

    def __post_init__(self) -> None:
        for name, least in (('in_chans', 1), ('num_classes', 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f'{name} must be a whole number of at least {least}, got {value!r}')
        for name in (
            field.name for field in fields(self) if field.name.endswith('drop_rate') or 'drop_path' in field.name
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f'{name} must be in [0, 1), got {value!r}')
        stride = getattr(self, 'output_stride', 32)
        if stride not in (8, 16, 32):
            raise ValueError(f'output_stride must be 8, 16 or 32, got {stride!r}')


class Level(NamedTuple):
    """One feature level of a trunk: the children it runs, its channels, and how many pixels one step of it spans."""

    path: str
    channels: int
    reduction: int

    def as_dict(self) -> dict[str, Any]:
        """The level under the keys that users of published feature tables know."""
        return {'num_chs': self.channels, 'reduction': self.reduction, 'module': self.path.split()[-1]}


class FeatureInfo(list[Level]):
    """The feature levels of a model, shallow to deep."""

    def channels(self, index: int | None = None) -> Any:
        """Channels of every level, or of one."""
        return [level.channels for level in self] if index is None else self[index].channels

    def reduction(self, index: int | None = None) -> Any:
        """Pixels that a step spans at every level, or at one."""
        return [level.reduction for level in self] if index is None else self[index].reduction

    def module_name(self, index: int | None = None) -> Any:
        """The child whose output is the level, for every level or for one."""
        names = [level.path.split()[-1] for level in self]
        return names if index is None else names[index]

    def get_dicts(self) -> list[dict[str, Any]]:
        """Every level as a dict of num_chs, reduction and module."""
        return [level.as_dict() for level in self]


class Parts(NamedTuple):
    """Where the named parts of a family live. Several children of one part are separated by spaces."""

    stem: str = 'stem'  # children before the first level; '' where the stem is itself a level
    norm: str = 'norm'  # children after the last level
    head: str = 'head'  # the head module and what runs before it; '' where pool and classifier sit on the model
    classifier: str = 'head.fc'  # 'head head_dist' for a distilled pair
    pre_logits: str = ''  # without a head module: children between pooling and classifier
    layout: str = 'NCHW'  # what the trunk carries: NCHW, NHWC or NLC


class Plan(NamedTuple):
    """How one stage strides and dilates under an output stride."""

    stride: int
    dilation_in: int  # of the stage's first block
    dilation: int
    reduction: int


def dilate(strides: Iterable[int], stem: int, limit: int) -> list[Plan]:
    """Trade stride for dilation where a trunk would reduce by more than `limit` (arXiv:1706.05587, section 3.1).

    Args:
        strides: stride of each stage.
        stem: reduction before the first stage.
        limit: the greatest reduction: 8, 16 or 32.
    """
    plans, reduction, dilation = [], stem, 1
    for stride in strides:
        before = dilation
        if reduction * stride > limit:
            dilation, stride = dilation * stride, 1
        reduction *= stride
        plans.append(Plan(stride, before, dilation, reduction))
    return plans


def configure(config: type[Config], given: Config | None, options: dict[str, Any]) -> Config:
    """A family's config from a ready one or none, and options over it.

    Raises:
        ValueError: an option that the family does not have; the message names the nearest one.
    """
    legal = {field.name for field in fields(config) if field.init}
    for name in options:
        if name not in legal:
            family = config.__name__.removesuffix('Config')
            raise ValueError(f'{family} has no option {name!r}{near(name, legal, show=99)}')
    if given is None:
        return config(**options)
    return replace(given, **options) if options else given


def take_indices(count: int, indices: int | Sequence[int] | None, name: str = 'indices') -> list[int]:
    """The levels that `indices` means, as indices from 0, in the order given.

    Args:
        count: how many levels there are.
        indices: None for all, a number n for the last n, or a list that may count from the end (-1 is the last).
        name: of the argument, for the message.

    Raises:
        ValueError: an index beyond the levels.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise ValueError(f'{name}={indices} asks for the last {indices} levels; there are {count}, so 1 to {count}')
        return list(range(count - indices, count))
    wrong = [i for i in indices if not isinstance(i, int) or not -count <= i < count]
    if wrong or not len(indices):
        raise ValueError(f'{name} {list(indices)} is outside the {count} levels; legal are {-count} to {count - 1}')
    return [i % count for i in indices]


class Backbone(nn.Module):
    """An image model: stem, levels, norm, head.

    A family sets `Config` and `parts`, builds its children and `feature_info` in `build`, and overrides a hook
    (`embed`, `step`, `finish`, `to_map`, `trunk`) only where its parts do not say it all. What goes from level to
    level is the family's own affair; `finish` and `to_map` alone look inside.

    Args:
        cfg: the family's config; its defaults if not given.
        options: fields of the config by name, over those of `cfg`.

    Raises:
        ValueError: an option that the family does not have, or a value that it cannot take.
    """

    Config: ClassVar[type[Any]] = Config
    parts: Parts = Parts()
    out_indices: ClassVar[int | None] = None  # the levels that features_only takes by default; None: all
    initialize: ClassVar[Any] = staticmethod(init_conv)  # draws the weights of one layer
    cfg: Any
    global_pool: Any
    feature_info: FeatureInfo
    num_features: int  # channels of forward_features
    head_hidden_size: int  # channels that the classifier sees

    def __init__(self, cfg: Any = None, **options: Any) -> None:
        self.assemble(configure(self.Config, cfg, options))
        self.init_weights()

    @classmethod
    def unfilled(cls, cfg: Any) -> Self:
        """A model whose weights have not been drawn: who asks for it fills them all."""
        if cls.__init__ is not Backbone.__init__:
            return cls(cfg)  # a subclass with more to set up
        model = cls.__new__(cls)
        model.assemble(cfg)
        model.reset_buffers()
        return model

    def assemble(self, cfg: Any) -> None:
        """Make the children, with weights that are still to be drawn or loaded."""
        super().__init__()
        self.cfg = cfg
        self.num_classes, self.in_chans, self.drop_rate = cfg.num_classes, cfg.in_chans, cfg.drop_rate
        self.pretrained_cfg = PretrainedCfg(num_classes=cfg.num_classes)
        with SkipInit():
            self.build(cfg)

    def build(self, cfg: Any) -> None:
        """Make the children and set `feature_info`, `num_features` and `head_hidden_size`."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Draw new weights for all layers."""
        self.reset_buffers()
        for module in self.modules():
            self.initialize(module)

    def reset_buffers(self) -> None:
        """Compute what checkpoints do not hold: call it after `to_empty`, before weights are loaded."""
        for module in self.modules():
            reset = getattr(module, 'reset_buffers', None)
            if module is not self and callable(reset):
                reset()

    # The five hooks.

    def embed(self, x: Tensor) -> Any:
        """From images (batch, channels, height, width) to what the first level takes."""
        return self.run(self.parts.stem, x)

    def step(self, level: Level, x: Any) -> Any:
        """Run one level."""
        return self.run(level.path, x)

    def finish(self, x: Any) -> Tensor:
        """From the last level to features."""
        return self.run(self.parts.norm, x)

    def to_map(self, x: Any, grid: Grid, fmt: str) -> Tensor:
        """One level's output as a tensor in the layout `fmt`; `grid` is its (height, width)."""
        return relayout(x, self.parts.layout, fmt, grid)

    def trunk(self, x: Tensor, keep: Collection[int] = (), stop: int | None = None) -> tuple[Any, list[Any]]:
        """Run the levels up to `stop`; what comes last, and the outputs of the levels in `keep`."""
        x, kept = self.embed(x), []
        for i, level in enumerate(self.feature_info[:stop]):
            x = self.step(level, x)
            if i in keep:
                kept.append(x)
        return x, kept

    # What follows from them.

    def child(self, path: str) -> Any:
        """The module at a dotted path; `features[4:9]` is a slice of a sequence."""
        module: Any = self
        for name in path.split('.'):
            name, _, span = name.partition('[')
            module = getattr(module, name)
            if span:
                start, stop = span.rstrip(']').split(':')
                module = module[int(start) : int(stop)]
        return module

    def run(self, paths: str, x: Any) -> Any:
        """Run the children at space-separated paths, one after the other."""
        for path in paths.split():
            x = self.child(path)(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Features of images (batch, channels, height, width) before pooling, in the trunk's layout."""
        return self.finish(self.trunk(x)[0])

    def pool(self, x: Tensor) -> Any:
        """Features to a vector (batch, channels)."""
        return self.global_pool(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Logits (batch, num_classes) of features, or with `pre_logits` what the classifier would see."""
        *before, head = self.parts.head.split() or ['']
        if head:
            return self.child(head)(self.run(' '.join(before), x), pre_logits=pre_logits)
        x = self.run(self.parts.pre_logits, self.pool(x))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else classify(self.get_classifier(), x, self.parts.layout)

    def forward(self, x: Tensor) -> Any:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Any:
        """Features, and the feature maps of chosen levels.

        Args:
            x: images (batch, channels, height, width).
            indices: None for all levels, a number for the last so many, or a list (negative from the end).
            norm: normalise what is taken, where the model's norm fits it.
            stop_early: run no further than the last level that is taken.
            output_fmt: layout of the maps: 'NCHW', 'NHWC' or 'NLC'.
            intermediates_only: return the maps alone.

        Returns:
            `(features, maps)`, or the list of maps. Stopped early, features are the last level's output.

        Raises:
            ValueError: a level or a layout that does not exist.
        """
        self.check_format(output_fmt)
        features, taps, grids = self.taps(x, indices, norm, stop_early, intermediates_only)
        maps = [self.to_map(tap, grid, output_fmt) for tap, grid in zip(taps, grids, strict=True)]
        return maps if intermediates_only else (features, maps)

    @staticmethod
    def check_format(output_fmt: str) -> None:
        """Refuse an unknown layout."""
        if output_fmt not in LAYOUTS:
            raise ValueError(f'output_fmt {output_fmt!r} is unknown; legal are {", ".join(LAYOUTS)}')

    def taps(
        self, x: Tensor, indices: int | Sequence[int] | None, norm: bool, stop_early: bool, taps_only: bool
    ) -> tuple[Any, list[Any], list[Grid]]:
        """Features (None with `taps_only`), the outputs of the chosen levels, and their grids."""
        count = len(self.feature_info)
        wanted = take_indices(count, indices)
        keep = sorted(set(wanted))
        stop = keep[-1] + 1 if stop_early else count
        size = x.shape[-2:]
        x, kept = self.trunk(x, keep, stop)
        found = {i: self.normalized(tap, i) if norm else tap for i, tap in zip(keep, kept, strict=True)}
        features = None if taps_only else self.finish(x) if stop == count else x
        return features, [found[i] for i in wanted], [self.grid(size, i) for i in wanted]

    def normalized(self, tap: Any, index: int) -> Any:
        """A level's output after the model's norm, which fits the last level alone in a pyramid."""
        last = index == len(self.feature_info) - 1
        return self.finish(tap) if last and self.feature_info[index].channels == self.num_features else tap

    def grid(self, size: Sequence[int], index: int) -> Grid:
        """(height, width) of a level's map for images of `size`."""
        reduction = self.feature_info[index].reduction
        return math.ceil(size[0] / reduction), math.ceil(size[1] / reduction)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Cut what comes after the last of the levels `indices` (as in `forward_intermediates`).

        Args:
            indices: the levels that are needed.
            prune_norm: cut the norm too; it goes in any case where it no longer fits.
            prune_head: cut the head.

        Returns:
            The levels, counted from 0.
        """
        wanted = take_indices(len(self.feature_info), indices)
        last = max(wanted)
        whole = self.feature_info[-1]
        needed = {path for level in self.feature_info[: last + 1] for path in level.path.split()}
        for level in reversed(self.feature_info[last + 1 :]):
            for path in reversed(level.path.split()):
                if path not in needed:
                    remove(self, path)
        del self.feature_info[last + 1 :]
        deepest = self.feature_info[-1]
        if prune_norm or deepest.channels != whole.channels:
            for path in self.parts.norm.split():
                self.set_submodule(path, nn.Identity())
            self.num_features = deepest.channels
        if prune_head:
            for path in self.parts.head.split() if self.parts.head else self.parts.pre_logits.split():
                self.set_submodule(path, PoolHead(self.num_features, 0, '') if path == 'head' else nn.Identity())
            self.reset_classifier(0, '')
        return wanted

    def get_classifier(self) -> Any:
        """The module that makes the logits; a tuple where there are two."""
        heads = tuple(self.get_submodule(path) for path in self.parts.classifier.split())
        return heads[0] if len(heads) == 1 else heads

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put in a new classifier.

        Args:
            num_classes: its classes; 0 for none, so that `forward` gives what the classifier would have seen.
            global_pool: another pooling; the present one if not given.
        """
        self.num_classes = num_classes
        like = next(self.parameters())
        if self.parts.head:
            head = self.child(self.parts.head.split()[-1])
            head.reset(num_classes, global_pool)
            self.head_hidden_size = head.num_features
        else:
            if global_pool is not None:
                self.reset_pool(global_pool)
            for path in self.parts.classifier.split():
                self.set_submodule(path, classifier(self.head_hidden_size, num_classes))
        for path in self.parts.classifier.split():
            self.get_submodule(path).to(device=like.device, dtype=like.dtype).apply(self.initialize)
        pool = self.cfg.global_pool if global_pool is None else global_pool
        self.cfg = replace(self.cfg, num_classes=num_classes, global_pool=pool)

    def reset_pool(self, pool_type: str) -> None:
        """Put in another pooling, where pooling and classifier sit on the model itself."""
        before = self.global_pool.feat_mult
        self.global_pool = Pool(pool_type, self.parts.layout)
        if not self.parts.pre_logits:
            self.head_hidden_size = self.head_hidden_size // before * self.global_pool.feat_mult

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of each block in the backward pass: less memory, about a third more time."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.checkpointing = enable

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, **options: Any) -> None:
        """Prepare for images of another size. A network without positions takes any size, so there is nothing to do."""
        if options:
            raise ValueError(f'{type(self).__name__} has no {", ".join(options)} to set; it takes img_size only')

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should leave alone, besides biases and norms."""
        return set()

    def layer_depths(self) -> dict[str, int]:
        """Depth of every parameter, for layer-wise learning rates: 0 in the stem, one more a block, then the head.

        What runs behind the pooling belongs to the head, a norm before it to the last block.
        """
        blocks = [
            f'{name}.{unit}.'
            for name, group in outermost_blocks(self)
            for unit, block in group.named_children()
            if next(block.parameters(), None) is not None
        ]
        heads = {path.split('.')[0] for path in f'{self.parts.classifier} {self.parts.pre_logits}'.split()}
        depths: dict[str, int] = {}
        seen = 0
        for name, _ in self.named_parameters():
            inside = next((i for i, prefix in enumerate(blocks, 1) if name.startswith(prefix)), None)
            if name.split('.')[0] in heads:
                depths[name] = len(blocks) + 1
            else:
                depths[name] = inside or (min(seen + 1, len(blocks)) if seen else 0)
            seen = inside or seen
        return depths

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that the model takes; where any size will do, the published one."""
        cut = next((m for m in self.modules() if isinstance(m, PatchEmbed)), None)
        size = cut.img_size if cut is not None and cut.strict_img_size else None
        return (self.in_chans, *(size or self.pretrained_cfg.input_size[1:]))

    @property
    def preprocess(self) -> 'Preprocess':
        """What images go through before they reach the model: that of its weights, at the size that it takes."""
        from foveal.data.preprocess import resolve_data_config

        return resolve_data_config(model=self)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Save the model as it is published, with config and card: `foveal.save_pretrained`, which has the options."""
        from foveal.save import save_pretrained

        return save_pretrained(self, folder, **options)

    @property
    def default_cfg(self) -> PretrainedCfg:
        """`pretrained_cfg` under its older name."""
        return self.pretrained_cfg


def outermost_blocks(model: nn.Module, prefix: str = '') -> list[tuple[str, Blocks]]:
    """The `Blocks` of a model that are not inside other `Blocks`, with their paths."""
    found = []
    for name, child in model.named_children():
        path = f'{prefix}.{name}' if prefix else name
        found += [(path, child)] if isinstance(child, Blocks) else outermost_blocks(child, path)
    return found


def remove(model: nn.Module, path: str) -> None:
    """Delete the child at a path; of `features[4:9]`, the children 4 to 8."""
    path, _, span = path.partition('[')
    parent, _, name = path.rpartition('.')
    if span:
        start, stop = map(int, span.rstrip(']').split(':'))
        for i in range(start, stop):
            delattr(model.get_submodule(path), str(i))
    else:
        delattr(model.get_submodule(parent), name)
