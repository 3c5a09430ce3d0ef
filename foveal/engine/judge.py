"""A trained model, made ready to judge images."""

from dataclasses import dataclass

import torch
from torch import nn

from foveal.data import ImageDataset, Loader, Preprocess, create_dataset, create_loader, resolve_data_config
from foveal.data.class_map import class_names, read_class_map
from foveal.data.stream import StreamDataset
from foveal.engine import checkpoint
from foveal.engine.distributed import Process
from foveal.engine.goals import Goal, OneLabel, restored
from foveal.engine.halving import Halving
from foveal.engine.judging import JudgingConfig, LabelledConfig
from foveal.engine.precision import set_products, weights_dtype
from foveal.engine.views import TestTimePool, Views, preprocess_of_views, published_window
from foveal.labels import Label, labels_of
from foveal.layers.split_norm import of_first_part
from foveal.models.backbone import Backbone


@dataclass(frozen=True)
class Judge:
    """A model and what belongs to it.

    Attributes:
        model: In evaluation mode, on its device.
        preprocess: What its input needs.
        labels: What each output means; None where nobody said.
        numbering: name -> output; a class map may have several names for one.
        goal: What it was trained to tell of an image; None where nobody said.
        target_format: How the labels that it was trained on were read.
    """

    model: nn.Module
    preprocess: Preprocess
    labels: list[Label] | None
    numbering: dict[str, int]
    goal: Goal | None = None
    target_format: str | None = None

    @property
    def outputs(self) -> int:
        """How many logits there are.

        Raises:
            ValueError: A model of a user's own that does not say.
        """
        count = getattr(self.model, 'num_classes', None)
        if not isinstance(count, int):
            raise ValueError(f'{type(self.model).__name__} has no num_classes, which says how many logits it gives')
        return count


def load_judge(config: JudgingConfig, source: str, process: Process) -> Judge:
    """Loads a model as configured.

    Raises:
        FileNotFoundError, ValueError: It cannot be had, or what is asked does not fit it.
    """
    overrides = {key: getattr(config, key) for key in ('img_size', 'crop_pct', 'crop_mode', 'interpolation')}
    loaded = checkpoint.load_model(source, config.pretrained, config.checkpoint, config.model_options, overrides)
    model, preprocess = loaded.model, loaded.preprocess
    if config.ema:
        load_ema(model, source)
    if config.use_test_size:
        if loaded.classes is not None:
            raise ValueError(f'use_test_size is for published weights; {source} is of a run: give img_size')
        preprocess = resolve_data_config(overrides, model=model, use_test_size=True)
    size = preprocess.input_size[1:]
    if isinstance(model, Backbone) and size != model.input_shape[1:]:
        model.set_input_size(size)
    labels, numbering = labels_for(config, model, loaded.classes)
    if labels is not None and len(labels) != model.num_classes:
        who = 'class_map' if config.class_map else source
        raise ValueError(f'{source} has {model.num_classes} outputs, but {who} names {len(labels)} classes')
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(process.device, weights_dtype(config.precision), memory_format=layout)
    if loaded.header is None:
        return Judge(model, preprocess, labels, numbering)
    told = loaded.header.get('task', {})
    return Judge(model, preprocess, labels, numbering, restored(loaded.header), told.get('target_format'))


def labels_for(
    config: JudgingConfig, model: nn.Module, classes: list[str] | None
) -> tuple[list[Label] | None, dict[str, int]]:
    """What the outputs mean, and the output that each name means."""
    numbering = read_class_map(config.class_map or classes) or {}
    if numbering:
        return [Label(name, name) for name in class_names(numbering)], numbering
    published = labels_of(model) if isinstance(model, Backbone) else None
    if published is None:
        return None, {}
    return list(published), {label.name: i for i, label in enumerate(published)}


def load_ema(model: nn.Module, source: str) -> None:
    """Puts the running mean of a run's weights into its model.

    Raises:
        ValueError: The checkpoint has none.
    """
    saved = checkpoint.load(source, 'last')
    prefix = checkpoint.EMA
    averages = {name.removeprefix(prefix): t for name, t in saved.extra.items() if name.startswith(prefix)}
    if not averages:
        raise ValueError(f'{saved.path} holds no running mean of the weights; leave --ema out')
    model.load_state_dict(of_first_part(averages))


def forward_of(judge: Judge, config: JudgingConfig, goal: Goal | None = None) -> Halving:
    """The model with what is asked around it: pooling, views, compilation, several devices, halving of batches.

    Args:
        judge: The model.
        config: What is asked.
        goal: What its outputs mean; one label an image where absent.

    Raises:
        ValueError: More devices than there are, or pooling that the model does not have.
    """
    model = judge.model
    device = next(model.parameters()).device
    set_products(config.precision)
    if config.test_pool:
        model = TestTimePool(model, published_window(model) if isinstance(model, Backbone) else (1, 1))
    if config.tta:
        model = Views(model, config.tta, judge.preprocess.input_size[1:], (goal or OneLabel([])).mean)
    if config.compile:
        model = torch.compile(model, mode=config.compile)  # type: ignore[assignment]
    if config.devices > 1:
        there = torch.cuda.device_count() if device.type == 'cuda' else 1
        if config.devices > there:
            raise ValueError(f'devices={config.devices}, but there are {there} of {device.type}')
        model = nn.DataParallel(model, list(range(config.devices)))
    return Halving(model.eval())


STREAMS = ('wds/', 'hfids/', 'tfds/')


def open_labelled(config: LabelledConfig, judge: Judge, split: str = '') -> ImageDataset | StreamDataset:
    """The labelled images that are asked for. `matching.match` finds out which outputs their classes are.

    Raises:
        FileNotFoundError, ValueError: Data that are not there, or not as they should be.
    """
    return create_dataset(
        config.data,
        config.data_root,
        split or config.split,
        download=config.download,
        # a stream cannot be asked for its classes beforehand
        class_map=judge.numbering or None if config.data.lower().startswith(STREAMS) else None,
        input_key=config.input_key,
        target_key=config.target_key,
        target_format=config.target_format or judge.target_format,
        num_samples=config.num_samples,
        val_fraction=config.val_fraction,
    )


def loader_of(
    dataset: ImageDataset | StreamDataset, judge: Judge, config: JudgingConfig, process: Process, views: bool = True
) -> Loader:
    """Batches of a data set as the model takes them."""
    preprocess = preprocess_of_views(judge.preprocess, config.tta) if config.tta and views else judge.preprocess
    return create_loader(
        dataset,
        **preprocess,
        batch_size=config.batch_size,
        num_workers=config.workers,
        crop_border_pixels=config.crop_border_pixels or None,
        channels_last=config.channels_last,
        img_dtype=weights_dtype(config.precision),
        bad_samples=config.bad_samples,
        bad_limit=config.bad_limit,
        rank=process.rank,
        world_size=process.world_size,
        device=process.device,
    )
