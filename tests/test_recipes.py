"""Recipes: their options are legal, and what they ask for can be built at its real size and learns at a small one."""

import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import ResNet50_Weights

from foveal import cli
from foveal.catalog import Architecture, catalog
from foveal.data import ImageDataset
from foveal.engine.build import build, open_data
from foveal.engine.config import TrainConfig, check_train
from foveal.engine.distributed import Process
from foveal.engine.learning import classifiers, mixing
from foveal.engine.schedule import check_schedule
from foveal.engine.train import train
from foveal.registry import get_arch_name
from tests.images import write_folder
from tests.tiny import TINY

RECIPES = sorted((Path(__file__).parent.parent / 'recipes').glob('*.yaml'))
README = (RECIPES[0].parent / 'README.md').read_text()
# recipe -> top-1, size, epochs, images an update, cost
ROW = r'^\| \[(\w+)\].*?' + r' \| ([\d.]+)' * 5 + r' \|$'
ROWS = {name: cells for name, *cells in re.findall(ROW, README, re.MULTILINE)}
UPDATES, IMAGES = 10, 8  # in the real runs, and of each update

every_recipe = pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)


class NoImages:
    """As many training images and classes as ImageNet-1k has, none of which can be read."""

    task, origin = 'class', 'nowhere'

    def __init__(self) -> None:
        self.classes = [str(i) for i in range(1000)]
        self.targets = np.zeros(1_281_167, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> bytes:
        raise AssertionError(f'image {index} was read')


@pytest.fixture(scope='module')
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images for an epoch of as many updates."""
    return str(write_folder(tmp_path_factory.mktemp('data') / 'colours', per_class=UPDATES * IMAGES // 3 + 1))


@cache
def read(recipe: Path) -> TrainConfig:
    """What `foveal train` makes of a recipe; where it runs aside."""
    _, config = cli.parse(['train', '--config', str(recipe)], cli.build_parser())
    return replace(config, data=config.data or 'photos', pretrained=False, workers=0)


def architecture(config: TrainConfig) -> Architecture:
    """What is published of a recipe's model."""
    return catalog().archs[get_arch_name(config.model)]


def heading(recipe: Path) -> str:
    """The comment at a recipe's head, as one line."""
    return ' '.join(line.strip('# ') for line in recipe.read_text().split('\n') if line.startswith('#'))


def small(config: TrainConfig) -> TrainConfig:
    """The same training of a tiny model of the family and small images; what is small already stays as it is."""
    if config.img_size and config.img_size <= 64:
        return config
    name, options = TINY[architecture(config).module]
    shrinks = {key: value for key, value in options.items() if key != 'num_classes'}
    # such options shrink any architecture of the family
    model = config.model if shrinks else name
    return replace(config, model=model, model_options={**config.model_options, **shrinks}, img_size=64)


def test_the_readme_lists_every_recipe() -> None:
    assert sorted(re.findall(r'\[(\w+)\]\(\1\.yaml\)', README)) == [recipe.stem for recipe in RECIPES]


@every_recipe
def test_recipes_hold_options_of_train(recipe: Path) -> None:
    cli.check_file('train', str(recipe))
    text = recipe.read_text()
    assert text.startswith('# ')
    assert f'--config recipes/{recipe.name}' in text
    check_train(read(recipe))
    check_schedule(read(recipe))


@every_recipe
def test_recipes_are_built_on_the_meta_device(recipe: Path) -> None:
    """All of a run at its real size, by as many processes as the recipe's head says, and the gradients of a batch."""
    config, head = read(recipe), heading(recipe)
    processes = re.search(r'--nproc-per-node (\d+)', head)
    process = Process(0, int(processes[1]) if processes else 1, torch.device('meta'))
    images = ImageDataset(NoImages(), range(len(NoImages())))
    with process.device, FlopCounterMode(display=False) as flops:
        run, loader, _ = build(config, process, images, images)
        batch = torch.empty(run.config.batch_size, *run.preprocess.input_size)
        targets = torch.zeros(len(batch), dtype=torch.int64)
        mix = mixing(run.config, run.goal, epoch=0)
        loss = run.task(*(mix(batch, targets, np.random.default_rng(0)) if mix else (batch, targets)))
        a_pass = flops.get_total_flops() / len(batch)
        loss.backward()

    assert len(loader) == len(images) // (config.batch_size * process.world_size)
    assert run.total_epochs == config.epochs
    if config.data == 'imagenet':
        assert sum(p.numel() for p in run.model.parameters()) == architecture(config).params
        top1, *said = ROWS[recipe.stem]
        # the units of torchvision's figures are 1e9 multiply-adds
        cost = a_pass * config.epochs / (2e9 * ResNet50_Weights.DEFAULT.meta['_ops'] * 90)
        assert said == [str(batch.shape[-1]), str(config.epochs), str(run.global_batch), f'{cost:.1f}']
        assert f'for {run.global_batch} images an update' in head
        assert f'{top1} % top-1' in head
        assert 'not trained by us' in head

    learnt = [p for group in run.optimizer.param_groups for p in group['params']]
    assert sorted(map(id, learnt)) == sorted(map(id, run.task.parameters()))
    assert all(p.grad is not None for p in learnt)
    assert max(group['initial_lr'] for group in run.optimizer.param_groups) == config.lr
    assert (run.ema is None) == (config.ema == 0)
    for module in [run.task, *([run.ema.model] if run.ema else [])]:
        assert {t.device.type for t in module.state_dict().values()} == {'meta'}


@every_recipe
def test_recipes_learn(recipe: Path, colours: str, tmp_path: Path) -> None:
    """An epoch of ten updates, its evaluation and its files, with all that the recipe asks for but the sizes."""
    config = small(read(recipe))
    config = replace(
        config, data=colours, batch_size=IMAGES // config.grad_accum, device='cpu', threads=1, stop_epoch=1,
        output=str(tmp_path / 'run'), val_fraction=0.0,
    )  # fmt: skip
    check_train(config)
    before, _, _ = build(config, Process(0, 1, torch.device('cpu')), *open_data(config))
    run = train(config)
    assert run.epoch == 1
    assert run.scheduler is None or run.scheduler.t == (1 if run.scheduler.t_in_epochs else UPDATES)
    assert math.isfinite(run.history[0]['train_loss'])
    assert math.isfinite(run.history[0]['val_loss'])
    assert run.skipped == 0
    heads = {id(p) for p in classifiers(run.model)}
    for (name, new), old in zip(run.model.named_parameters(), before.model.parameters(), strict=True):
        if config.head_epochs and id(new) not in heads:
            assert torch.equal(new, old), name
        elif new.ndim > 1:  # a step of a norm's scale may be below the last digit of 1
            assert not torch.equal(new, old), name
