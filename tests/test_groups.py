"""Parameter groups: who decays, how fast each depth learns, under any scheduler and any wrapper."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import AdamW, Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel

import foveal
from foveal import cli
from foveal.engine.group_table import describe_groups
from foveal.optim import create_optimizer
from foveal.optim.groups import (
    layer_scales,
    param_groups,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from foveal.scheduler import create_scheduler
from foveal.wrapped import unwrap
from tests import reference
from tests.images import write_folder

ROWS = {row['name']: row for row in reference.rows('groups')}


class Net(nn.Module):
    """Every kind of parameter that has a rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.position = nn.Linear(3, 3), nn.LayerNorm(3), nn.Parameter(torch.zeros(1, 4, 3))
        self.scalar = nn.Parameter(torch.zeros(()))
        self.bank = nn.ParameterDict({'bias': nn.Parameter(torch.zeros(2, 2))})
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    def no_weight_decay(self) -> set[str]:
        return {'position'}

    def layer_depths(self) -> dict[str, int]:
        depths = {'fc.weight': 2, 'fc.bias': 2, 'norm.weight': 7, 'norm.bias': 7}
        return {name: depths.get(name, 0) for name, _ in self.named_parameters()}


def by_name(groups: list[dict[str, Any]], model: nn.Module, key: str, absent: Any = None) -> dict[str, Any]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: group.get(key, absent) for group in groups for parameter in group['params']}


@pytest.fixture(scope='module')
def vit() -> nn.Module:
    return foveal.create_model('vit_tiny_patch16_224', depth=3, num_classes=10)


@pytest.mark.parametrize('name', ROWS)
def test_members_are_the_stored_ones(name: str) -> None:
    row = ROWS[name]
    parameters = [key for key, *_, kind in reference.manifests()[name] if kind == 'p']
    with torch.device('meta'):
        model = foveal.create_model(name)
    plain = by_name(param_groups(model, 0.05), model, 'weight_decay')
    assert [plain[key] for key in parameters] == [weight_decay for weight_decay, _ in row['plain']]
    groups = param_groups(model, 0.05, lr=2.0, layer_decay=0.75)
    decay, rate = by_name(groups, model, 'weight_decay'), by_name(groups, model, 'lr')
    assert [decay[key] for key in parameters] == [weight_decay for weight_decay, _ in row['layered']]
    # powers of 0.75 by two ways to multiply
    assert [rate[key] for key in parameters] == pytest.approx([2 * scale for _, scale in row['layered']], rel=1e-12)


def test_vectors_and_what_the_model_names_do_not_decay() -> None:
    model = Net()
    named = {'fc.weight': 0.3, 'fc.bias': 0, 'norm.weight': 0, 'norm.bias': 0, 'position': 0}
    expected = {**named, 'scalar': 0, 'bank.bias': 0}
    groups = param_groups(model, 0.3)
    assert by_name(groups, model, 'weight_decay') == expected
    assert [group['weight_decay'] for group in groups] == [0, 0.3]
    assert by_name(param_groups_weight_decay(model, 0.3), model, 'weight_decay') == expected
    # without the rule for vectors, what the model names is still exempt
    unfiltered = by_name(param_groups(model, 0.3, filter_bias_and_bn=False), model, 'weight_decay')
    assert unfiltered == dict.fromkeys(expected, 0.3) | {'position': 0}
    listed = by_name(param_groups(model, 0.3, no_weight_decay_list=['fc.*']), model, 'weight_decay')
    assert set(listed.values()) == {0}
    # the structure, on which saved states depend, is not a matter of the value
    assert [len(group['params']) for group in param_groups(model)] == [len(group['params']) for group in groups]


def test_fallback_groups() -> None:
    model = Net()
    groups = param_groups(model, 0.3, fallback_list=['fc*'])
    assert {name for name, used in by_name(groups, model, 'use_fallback').items() if used} == {'fc.weight', 'fc.bias'}
    assert by_name(groups, model, 'weight_decay') == by_name(param_groups(model, 0.3), model, 'weight_decay')
    assert all('use_fallback' not in group or group['use_fallback'] for group in groups)
    named = param_groups(model, 0.3, fallback_no_weight_decay=True)
    assert {name for name, used in by_name(named, model, 'use_fallback').items() if used} == {'position'}


def test_depths_have_real_rates() -> None:
    """A step of plain SGD moves each parameter by its own rate."""
    model = Net()
    optimizer = torch.optim.SGD(param_groups(model, lr=0.8, layer_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    moved = {name: (before[name] - p.detach()).mean().item() for name, p in model.named_parameters() if name in before}
    expected = {'fc.weight': 0.4, 'fc.bias': 0.4, 'norm.weight': 0.8, 'norm.bias': 0.8}
    assert moved == pytest.approx({name: expected.get(name, 0.2) for name in moved}, rel=1e-5)  # float32


OURS: list[dict[str, Any]] = [
    dict(sched='cosine', warmup_epochs=3, warmup_lr=1e-3, min_lr=0.01),
    dict(sched='tanh', min_lr=0.01),
    dict(sched='poly', cycle_limit=2),
    dict(sched='step', decay_epochs=3),
    dict(sched='wsd', warmup_epochs=2, noise=0.3),
    dict(sched='plateau', warmup_epochs=2, min_lr=0.1, patience_epochs=1),
]


@pytest.mark.parametrize('options', OURS, ids=lambda options: options['sched'])
def test_our_schedulers_scale_once(options: dict[str, Any]) -> None:
    """The ratio holds at every step, from the first of the warm-up to the lowest rate; and the last depth is alone."""
    optimizer = torch.optim.SGD(param_groups(Net(), lr=0.8, layer_decay=0.5))
    alone = torch.optim.SGD(Net().parameters(), lr=0.8)
    scheduler, total = create_scheduler(optimizer, num_epochs=12, **options)
    single, _ = create_scheduler(alone, num_epochs=12, **options)
    assert scheduler is not None
    assert single is not None
    for epoch in range(1, total + 1):
        rates = [group['lr'] for group in optimizer.param_groups]
        whole = alone.param_groups[0]['lr']
        assert rates == pytest.approx([whole * group['lr_ratio'] for group in optimizer.param_groups], rel=1e-12)
        scheduler.step(epoch, 1.0)
        single.step(epoch, 1.0)


THEIRS: dict[str, Callable[[Optimizer], lr_scheduler.LRScheduler]] = {
    'LambdaLR': lambda o: lr_scheduler.LambdaLR(o, lambda t: (1 - t / 12) ** 0.9),
    'CosineAnnealingLR': lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    'LinearLR': lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    'StepLR': lambda o: lr_scheduler.StepLR(o, 3),
    'OneCycleLR': lambda o: lr_scheduler.OneCycleLR(o, [group['lr'] for group in o.param_groups], 12),
    'SequentialLR': lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.ExponentialLR(o, 0.8)], [4]
    ),
}


@pytest.mark.parametrize('name', THEIRS)
def test_torch_schedulers_keep_the_ratios(name: str, vit: nn.Module) -> None:
    optimizer = AdamW(param_groups(vit, 0.05, lr=1e-3, layer_decay=0.65))
    ratios = [group['lr_ratio'] for group in optimizer.param_groups]
    scheduler = THEIRS[name](optimizer)
    seen = set()
    for _ in range(11):
        top = optimizer.param_groups[-1]['lr']
        seen.add(round(top, 9))
        assert [group['lr'] / top for group in optimizer.param_groups] == pytest.approx(ratios, rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert len(seen) > 3


def test_a_users_lr_scale_works_besides() -> None:
    model = Net()
    groups = param_groups(model, lr=0.8, layer_decay=0.5)
    groups[0]['lr_scale'] = 0.1
    optimizer = torch.optim.SGD(groups)
    scheduler, _ = create_scheduler(optimizer, num_epochs=4, min_lr=0.2)
    assert scheduler is not None
    scheduler.step(2)
    assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([0.5 * 0.25 * 0.1, 0.25, 0.25, 0.5])


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(model: nn.Module) -> nn.Module:
    """FSDP by blocks, as torch's documentation does it."""
    model, mesh = copy.deepcopy(model), init_device_mesh('cpu', (1,))
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
    return model


@pytest.mark.parametrize('wrap', [DataParallel, DistributedDataParallel, AveragedModel, torch.compile, sharded])
@pytest.mark.usefixtures('process_group')
def test_wrapped_models_have_the_same_groups(wrap: Callable[[nn.Module], nn.Module], vit: nn.Module) -> None:
    wrapped = wrap(vit)
    bare, found = (param_groups(model, 0.05, lr=1.0, layer_decay=0.7) for model in (vit, wrapped))
    for key in ('weight_decay', 'lr'):
        assert by_name(bare, vit, key) == by_name(found, unwrap(wrapped), key)
    if wrap not in (AveragedModel, sharded):  # which copy
        assert {id(p) for group in found for p in group['params']} == {id(p) for p in vit.parameters()}


def test_wrapped_parts_have_the_same_groups() -> None:
    model = foveal.create_model('vit_tiny_patch16_224', depth=2, num_classes=10)
    bare = [(len(group['params']), group['lr'], group['weight_decay']) for group in layered(model)]
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block)
    assert [(len(group['params']), group['lr'], group['weight_decay']) for group in layered(model)] == bare


def layered(model: nn.Module) -> list[dict[str, Any]]:
    return param_groups(model, 0.05, lr=1.0, layer_decay=0.5, no_weight_decay_list=['blocks.0.attn.qkv.weight'])


def test_features_only_and_models_inside_models() -> None:
    features = foveal.create_model('swin_tiny_patch4_window7_224', features_only=True)
    groups = param_groups(features, 0.05, lr=1.0, layer_decay=0.5)
    decay = by_name(groups, features, 'weight_decay')
    tables = [name for name in decay if name.endswith('relative_position_bias_table')]
    assert len(tables) == 12
    assert {decay[name] for name in tables} == {0}
    assert max(group['lr'] for group in groups) == 1  # the last block, where no head is

    net = nn.ModuleDict({'backbone': foveal.create_model('test_convnext', num_classes=0), 'decoder': nn.Linear(8, 2)})
    inside, alone = layer_scales(net, 0.5), layer_scales(net['backbone'], 0.5)
    assert inside == {f'backbone.{k}': v / 2 for k, v in alone.items()} | {'decoder.weight': 1, 'decoder.bias': 1}


def test_floor_and_freezing() -> None:
    model = Net()
    groups = param_groups_layer_decay(model, layer_decay=0.5, min_scale=0.4, lr=1.0)
    assert [group['lr'] for group in groups] == [0.4, 0.5, 0.5, 1.0]
    groups = param_groups(model, lr=1.0, layer_decay=0.5, no_opt_scale=0.5)
    assert [group['lr'] for group in groups] == [0.5, 0.5, 1.0]
    left = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert left == {'fc.weight', 'fc.bias', 'norm.weight', 'norm.bias'}


def test_a_tensor_rate_makes_tensor_rates() -> None:
    groups = param_groups(Net(), lr=torch.tensor(0.8), layer_decay=0.5)
    assert [group['lr'].item() for group in groups] == pytest.approx([0.2, 0.4, 0.4, 0.8])
    assert len({id(group['lr']) for group in groups}) == len(groups)


@pytest.mark.parametrize(
    ('model', 'options', 'said'),
    [
        (Net(), {'layer_decay': 0.5}, 'lr must be given with layer_decay'),
        (Net(), {'layer_decay': 0, 'lr': 1.0}, r'layer_decay must be in \(0, 1\], got 0'),
        (Net(), {'layer_decay': 0.5, 'lr': 1.0, 'min_scale': 2}, r'min_scale must be in \[0, 1\], got 2'),
        (nn.Linear(2, 2), {'layer_decay': 0.5, 'lr': 1.0}, r'give Linear a method layer_depths\(\)'),
    ],
)
def test_what_cannot_work_is_refused(model: nn.Module, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        param_groups(model, 0.05, **options)


def test_optimizers_are_made_over_the_groups() -> None:
    model = Net()
    optimizer = create_optimizer(model, 'momentum', 0.8, weight_decay=0.3, momentum=0.7, layer_decay=0.5)
    expected = param_groups(model, 0.3, lr=0.8, layer_decay=0.5)
    for group, like in zip(optimizer.param_groups, expected, strict=True):
        assert {key: group[key] for key in like if key != 'params'} == {k: v for k, v in like.items() if k != 'params'}
        assert [id(parameter) for parameter in group['params']] == [id(parameter) for parameter in like['params']]
    assert {group['momentum'] for group in optimizer.param_groups} == {0.7}
    given = create_optimizer([{'params': [model.fc.weight], 'lr': 0.7}], 'adamw', 0.1, weight_decay=0.2)
    assert [(group['lr'], group['weight_decay']) for group in given.param_groups] == [(0.7, 0.2)]


def test_the_table_counts_everything_once(vit: nn.Module) -> None:
    vit.head.bias.requires_grad_(False)
    optimizer = AdamW(param_groups(vit, 0.05, lr=1e-3, layer_decay=0.5))
    vit.head.bias.requires_grad_(True)
    header, *rows, last = describe_groups(optimizer, vit).splitlines()
    assert header.split() == ['parameters', 'tensors', 'lr', 'weight', 'decay', 'first', 'last']
    cells = [row.split() for row in rows]
    assert len(rows) == len(optimizer.param_groups) == 9
    total = sum(int(row[0].replace(',', '')) for row in cells)
    assert total == sum(parameter.numel() for parameter in vit.parameters()) - 10
    assert cells[0] == ['38,208', '3', '6.25e-05', '0', 'cls_token', 'patch_embed.proj.bias']
    assert cells[-1] == ['1,920', '1', '0.001', '0.05', 'head.weight', 'head.weight']
    assert last == '9 groups; 0 parameters are frozen'


def test_training_shows_its_groups_and_stops(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = write_folder(tmp_path / 'colours', per_class=4), tmp_path / 'run'
    arguments = ['--data', str(data), '--model', 'test_convnext', '--img-size', '32', '--lr', '0.01', '--device', 'cpu']
    arguments += ['--layer-decay', '0.5', '--batch-size', '4', '--output', str(output), '--show-groups']
    assert cli.main(['train', *arguments]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert rows[-1][2:4] == ['0.01', '0.05']
    assert rows[-1][-1] == 'head.fc.weight'
    assert float(rows[0][2]) < 0.01
    assert not output.exists()
    assert cli.main(['train', *arguments, '--opt-options', '{esp: 1}']) == 2
    assert "opt_options: opt 'adamw' has no option 'esp'; did you mean 'eps'?" in capsys.readouterr().err
