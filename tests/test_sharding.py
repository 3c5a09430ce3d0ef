"""Weights, gradients and states shared out over processes: what is learnt, kept and gone on from is the same."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from foveal.cli import main
from foveal.data import create_dataset
from foveal.engine import build as building
from foveal.engine import checkpoint, distributed, shards
from foveal.engine import train as training
from foveal.engine.config import TrainConfig
from foveal.engine.sharding import Shards, shardable, step_options
from foveal.engine.train import train
from foveal.optim import create_optimizer, get_optimizer_class, list_optimizers
from tests.images import write_folder
from tests.processes import together
from tests.test_distributed import TOLERANCE, assert_equal

# few operations of little cost, so that a second thread would only wait for the first
torch.set_num_threads(1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp('data') / 'colours', per_class=12)


def configured(folder: Path, output: Path, **options: Any) -> TrainConfig:
    """A run of three epochs of three updates; seven images to evaluate on are two batches of one process of two."""
    return TrainConfig(
        data=str(folder), model='vit_tiny_patch16_224', img_size=32, epochs=3, warmup_epochs=0.5, batch_size=12,
        model_options={'img_size': 32, 'patch_size': 16, 'embed_dim': 48, 'depth': 2, 'num_heads': 3}, opt='sgd',
        lr=0.02, clip_grad=1.0, ema=0.9, workers=0, device='cpu', output=str(output), threads=1, channels_last=False,
        **options,
    )  # fmt: skip


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> TrainConfig:
    return configured(folder, tmp_path / 'run')


@pytest.fixture(scope='module')
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learns."""
    output = tmp_path_factory.mktemp('whole') / 'run'
    train(configured(folder, output))
    return output


@pytest.fixture(scope='module')
def begun(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes with shards leave after two epochs."""
    output = tmp_path_factory.mktemp('begun') / 'run'
    together(2, train, replace(configured(folder, output), batch_size=6, shard=True, stop_epoch=2))
    return output


# what is learnt


@pytest.mark.parametrize(('processes', 'shard'), [(1, False), (2, False), (3, True)])
def test_a_sharded_run_goes_on_with_any_number_of_processes(
    begun: Path, whole: Path, config: TrainConfig, processes: int, shard: bool
) -> None:
    """Two of its epochs were made by two processes; the end is that of one process, which made all three."""
    shutil.copytree(begun, config.output)
    assert (begun / 'last.shards').is_dir()
    assert not (begun / 'last.safetensors').exists()
    config = replace(config, batch_size=12 // processes, resume='auto', shard=shard)
    if processes == 1:
        train(config)
    else:
        together(processes, train, config)
    assert_equal(config.output, whole, TOLERANCE)
    left = sorted(path.name for path in Path(config.output).glob('*last*'))
    assert left == (['last.shards'] if shard else ['last.safetensors'])


def test_a_whole_run_goes_on_in_shards(whole: Path, config: TrainConfig) -> None:
    train(replace(config, stop_epoch=1))
    together(2, train, replace(config, batch_size=6, resume='auto', shard=True))
    assert_equal(config.output, whole, TOLERANCE)


@pytest.mark.parametrize(
    'options',
    [
        {'model': 'test_resnet', 'model_options': {}, 'freeze': ['conv1*'], 'dist_bn': 'broadcast'},
        # without attention, whose biases of keys have gradients of rounding alone, which Adafactor scales up
        {
            'model': 'test_convnext',
            'model_options': {},
            'opt': 'adafactor',
            'lr': 1e-4,
            'layer_decay': 0.7,
            'clip_mode': 'agc',
            'clip_grad': 0.02,
            'grad_accum': 2,
            'channels_last': None,
            'freeze': ['stages.[0-2]*'],
        },
    ],
    ids=['resnet', 'adafactor'],
)
def test_shards_learn_what_copies_learn(config: TrainConfig, options: dict[str, Any]) -> None:
    """The same two processes, as FSDP and as DDP: their sums differ in nothing but order."""
    config = replace(config, batch_size=6, **options)
    if 'grad_accum' in options:
        config = replace(config, batch_size=3)
    together(2, train, replace(config, epochs=2))
    sharded = replace(config, output=config.output + '2', shard=True, epochs=2)
    together(2, train, replace(sharded, stop_epoch=1))
    together(2, train, replace(sharded, resume='auto'))
    assert_equal(sharded.output, config.output, TOLERANCE)


class Net(nn.Module):
    """Weights of all kinds of shapes: kernels, matrices, vectors, tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.LayerNorm(12)
        self.fc, self.head = nn.Linear(8 * 36, 12), nn.Linear(12, 5)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 3, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.fc(self.conv(x).flatten(1)))
        return self.head((x[:, None] + self.token + self.positions).sigmoid().sum(1))


def steps(folder: Path) -> None:
    """Steps of every optimizer that takes shards, one name a class, on shards and on whole tensors."""
    torch.set_default_dtype(torch.float64)
    shards = Shards.of(TrainConfig(shard=True), distributed.Process(dist.get_rank(), 2, torch.device('cpu')))
    assert shards is not None
    classes = {get_optimizer_class(name, bind_defaults=False): name for name in filter(shardable, list_optimizers())}
    for name in [*classes.values(), 'cadamw', 'clamb']:
        ends = []
        for is_sharded in (False, True):
            model = Net()
            if is_sharded:
                fully_shard(model, shard_placement_fn=shards.place)
            optimizer = create_optimizer(model, name, 1e-2, 0.05, **(step_options(name) if is_sharded else {}))
            getattr(optimizer, 'train', lambda: None)()
            for seed in range(2):
                torch.manual_seed(seed)
                (model(torch.randn(4, 3, 8, 8)) - 1).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            ends.append([p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()])
        for one, other in zip(*ends, strict=True):
            # in float64, so that what differs is no rounding
            torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10, msg=name)
    (folder / f'{dist.get_rank()}').touch()


def test_optimizers_step_on_shards_as_on_whole_tensors(tmp_path: Path) -> None:
    together(2, steps, tmp_path)
    assert len(os.listdir(tmp_path)) == 2


def built(config: TrainConfig) -> None:
    """A process holds its share of everything, and only the first ever had the weights."""
    process = distributed.start('cpu', 1)
    made = []
    original = building.create_model

    def create_model(*args: Any, **options: Any) -> Any:
        made.append(original(*args, **options))
        return made[-1]

    building.create_model = create_model
    data = create_dataset(config.data, split='train')
    torch.manual_seed(config.seed)
    expected = original(config.model, num_classes=3, **config.model_options).state_dict()
    run, _, _ = training.build(config, process, data, data)
    held = sum(distributed.local(p).numel() for p in run.model.parameters())
    assert held == pytest.approx(sum(p.numel() for p in run.model.parameters()) / 2, rel=0.02)
    assert run.ema is not None
    for model in (run.model, run.ema.model):
        assert all(isinstance(p, DTensor) for p in model.parameters())
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor, expected[name]), name


def test_a_model_is_built_in_shards(config: TrainConfig) -> None:
    together(2, built, replace(config, shard=True, batch_size=6))


# what is kept


def test_shards_become_one_file(begun: Path, tmp_path: Path) -> None:
    """By the tools that take any checkpoint, and by nothing more than what safetensors files say."""
    shapes = json.loads((begun / 'last.shards' / 'header.json').read_text())['shapes']
    expected = {name: torch.full(shape, torch.nan) for name, shape in shapes.items() if ':' not in name}
    for path in (begun / 'last.shards').glob('*.safetensors'):
        with safe_open(path, 'pt') as file:
            places = json.loads(file.metadata()['DCP_SHARDING_INFO'])
            for name in set(file.keys()) & expected.keys():
                part = file.get_tensor(name)
                at = places[name]['saved_offsets']
                expected[name][tuple(slice(o, o + s) for o, s in zip(at, part.shape, strict=True))] = part
    assert main(['clean', str(begun / 'last.shards'), '--output', str(tmp_path / 'one.safetensors'), '--no-hash']) == 0
    found = load_file(tmp_path / 'one.safetensors')
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name
    assert not list((begun / 'last.shards').glob('.metadata'))


def damage_header(folder: Path) -> None:
    (folder / 'header.json').write_text('{"format": 2}')


def lose_shard(folder: Path) -> None:
    max(folder.glob('*.safetensors')).unlink()


def cut_shard(folder: Path) -> None:
    path = max(folder.glob('*.safetensors'))
    path.write_bytes(path.read_bytes()[:-100])


def change_shape(folder: Path) -> None:
    path = max(folder.glob('*.safetensors'))
    with safe_open(path, 'pt') as file:
        places = file.metadata()
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path, places)


@pytest.mark.parametrize('damage', [damage_header, lose_shard, cut_shard, change_shape])
def test_damaged_shards_are_refused(begun: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(begun / 'last.shards', tmp_path / 'last.shards')
    damage(tmp_path / 'last.shards')
    for read in (shards.opened, checkpoint.load):
        with pytest.raises(ValueError, match=r'last\.shards is damaged'):
            read(tmp_path / 'last.shards')


def fill_disk(config: TrainConfig) -> None:
    """The second process can write no more than 20 kB from the second epoch on."""
    original = training.train_epoch

    def train_epoch(run: Any, *rest: Any) -> bool:
        if run.epoch == 1 and dist.get_rank() == 1:
            rest[-2].wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return original(run, *rest)

    training.train_epoch = train_epoch
    with pytest.raises(OSError, match=r'cannot write .*last\.shards'):
        train(config)


def test_full_disk_of_one_process(config: TrainConfig, whole: Path) -> None:
    """All end, the checkpoint of the first epoch is whole, and nothing half is left behind."""
    config = replace(config, batch_size=6, shard=True)
    together(2, fill_disk, config)
    assert checkpoint.load(config.output, 'last').header['epoch'] == 1
    assert not list(Path(config.output).glob('.*'))
    together(2, train, replace(config, resume='auto'))
    assert_equal(config.output, whole, TOLERANCE)


def test_leftovers_of_killed_processes_are_removed(begun: Path, config: TrainConfig) -> None:
    shutil.copytree(begun, config.output)
    left = Path(config.output) / '.last.shards.abcd1234'
    left.mkdir()
    (left / 'shard-00001-model-00001-of-00001.safetensors').write_text('half')
    train(replace(config, resume='auto'))
    assert not left.exists()


# what cannot be


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'opt': 'soap'}, "opt 'soap' wants whole tensors.*these do: .*adamw, .*sgd"),
        ({'opt': 'adamw', 'batch_size': 'auto'}, 'batch_size auto'),
        ({'opt': 'lookahead_adamw'}, "opt 'lookahead_adamw' wants whole tensors"),
        ({'opt': 'adamww'}, "opt 'adamww' is unknown"),
        ({'ema_options': {'device': 'cpu'}}, "ema_options 'device' does not go with shard"),
        ({'teacher': 'resnet18', 'distill': 'feature'}, 'distill feature does not go with shard'),
    ],
)
def test_what_does_not_go_with_shards_is_refused(config: TrainConfig, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(replace(config, shard=True, **options))


def uncut(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r'cls_token \(1, 1, 45\) cannot be cut evenly over 2 .* lamb sums over'):
        train(config)


def test_a_weight_that_an_optimizer_wants_cut_otherwise(config: TrainConfig) -> None:
    options = {**config.model_options, 'embed_dim': 45}
    together(2, uncut, replace(config, model_options=options, opt='lamb', shard=True, batch_size=6))


def too_few(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match='fewer images to evaluate on than processes'):
        train(config)


def test_fewer_images_than_processes_to_evaluate_on(tmp_path: Path, config: TrainConfig) -> None:
    data = write_folder(tmp_path / 'few', per_class=4)
    together(4, too_few, replace(config, data=str(data), batch_size=3, shard=True, epochs=1, warmup_epochs=0))
