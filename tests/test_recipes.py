"""Recipes: their options are legal, and what they ask for can be built and learns."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal import cli
from foveal.engine import train as training
from foveal.engine.config import TrainConfig, check_train
from foveal.engine.schedule import check_schedule
from foveal.engine.train import train
from tests.images import write_folder

torch.set_num_threads(1)
RECIPES = sorted((Path(__file__).parent.parent / 'recipes').glob('*.yaml'))

# some of the recipes at a size that takes a second: models of the same family
SMALL: dict[str, dict[str, Any]] = {
    'deit_small': dict(
        model='deit_tiny_patch16_224', model_options=dict(img_size=32, embed_dim=48, depth=2, drop_path_rate=0.1)
    ),
    'deit3_small': dict(model_options=dict(img_size=32, embed_dim=48, depth=2, num_heads=3)),
    'fine_tune': dict(model='test_convnext'),
    'linear_probe': dict(
        model='vit_tiny_patch16_224', model_options=dict(img_size=32, embed_dim=48, num_heads=3, depth=2)
    ),
    'resnet50_a1': dict(model='test_resnet'),
}


def read(recipe: Path) -> TrainConfig:
    """What `foveal train` makes of a recipe."""
    _, config = cli.parse(['train', '--config', str(recipe)], cli.build_parser())
    return config


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_recipes_hold_options_of_train(recipe: Path) -> None:
    cli.check_file('train', str(recipe))
    text = recipe.read_text()
    assert text.startswith('# ')
    assert f'--config recipes/{recipe.name}' in text
    config = replace(read(recipe), data='anything')
    check_train(config)
    check_schedule(config)


@pytest.mark.parametrize('name', SMALL)
def test_recipes_learn(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = next(path for path in RECIPES if path.stem == name)
    config = replace(
        read(recipe), **SMALL[name], data=str(write_folder(tmp_path / 'colours')), pretrained=False, batch_size=8,
        img_size=32, workers=0, device='cpu', threads=1, output=str(tmp_path / 'run'), val_fraction=0.0,
        precision='fp32', save_updates=0,
    )  # fmt: skip
    calls: list[int] = []

    def stop_agreed(step: int, *_: Any) -> bool:
        calls.append(step)
        return len(calls) == 4

    monkeypatch.setattr(training, 'stop_agreed', stop_agreed)
    run = train(config)
    assert (run.epoch, run.step) == (0, 4)
    assert all(math.isfinite(loss.item()) for loss in run.losses)
