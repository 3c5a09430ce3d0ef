"""What a run learns from and keeps: losses, teachers, running means, frozen parts, the best epochs."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import foveal
from foveal.cli import main
from foveal.engine import checkpoint, guards, tasks
from foveal.engine import train as training
from foveal.engine.build import build_optimizer
from foveal.engine.config import TrainConfig
from foveal.engine.learning import freeze, hold_frozen_statistics
from foveal.engine.precision import grad_scaler
from foveal.engine.train import train
from tests.runs import broken_and_whole

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def teacher(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run whose model is wider than the student's."""
    output = str(tmp_path_factory.mktemp('teacher') / 'run')
    train(
        TrainConfig(
            data=str(folder), model='test_resnet', img_size=32, epochs=1, batch_size=12, workers=0, device='cpu',
            mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), output=output, threads=1,
        )
    )  # fmt: skip
    return output


def test_running_mean_is_what_is_judged_and_kept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    original = training.update

    def update(run: Any, *rest: Any) -> torch.Tensor:
        loss = original(run, *rest)
        seen.append(run.model.head.fc.weight.detach().clone())
        return loss

    monkeypatch.setattr(training, 'update', update)
    run = train(replace(config, ema=0.9))
    mean = seen[0]
    for weight in seen[1:]:
        mean = 0.9 * mean + 0.1 * weight
    last = checkpoint.load(config.output, 'last')
    # eight float32 roundings
    torch.testing.assert_close(last.extra['ema:head.fc.weight'], mean, rtol=1e-5, atol=1e-8)
    assert torch.equal(last.weights['head.fc.weight'], seen[-1])
    best = checkpoint.load(config.output)
    # the epoch that was best was judged by its running mean: validate finds the same
    assert main(['validate', config.output, '--data', config.data, '--workers', '0', '--threads', '1']) == 0
    assert run.ema is not None
    if best.header['epoch'] == 2:
        assert torch.equal(best.weights['head.fc.weight'], run.ema.model.head.fc.weight)


LEARNING: list[dict[str, Any]] = [
    {'ema': 0.9, 'ema_options': {'warmup': True, 'dtype': 'bfloat16'}},
    {'distill': 'feature'},
    {'opt': 'adamwschedulefree', 'opt_options': {'warmup_steps': 2}, 'sched': 'constant'},
    {'opt': 'lookahead_radam'},
    {'distill': 'logit', 'distill_options': {'temperature': 2.0, 'task_weight': 0.5}, 'mixup': 0.5, 'keep': 2},
]


@pytest.mark.parametrize('options', LEARNING, ids=['ema', 'feature', 'schedule-free', 'lookahead', 'logit'])
def test_resumed_run_equals_an_unbroken_one(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, teacher: str, options: dict[str, Any]
) -> None:
    config = replace(config, **options, teacher=teacher if 'distill' in options else None)
    _, whole = broken_and_whole(config, monkeypatch)
    kinds = {name.partition(':')[0] for name in whole.extra}
    assert ('ema' in kinds, 'task' in kinds) == ('ema' in options, options.get('distill') == 'feature')


def test_the_best_epochs_are_kept(config: TrainConfig) -> None:
    run = train(replace(config, epochs=4, keep=2))
    ranked = sorted(run.history, key=lambda row: (-row['val_top1'], row['epoch']))
    files = sorted(Path(config.output, 'checkpoints').iterdir())
    assert [file.name for file in files] == [
        f'epoch-{epoch:04}.safetensors' for epoch in sorted(row['epoch'] for row in ranked[:2])
    ]
    out = Path(config.output) / 'mean.safetensors'
    assert main(['average', *map(str, files), '--output', str(out), '--greedy', '--data', config.data]) == 0
    assert checkpoint.load(out).header['model'] == 'test_convnext'


@pytest.mark.parametrize(('loss', 'options'), [('bce', {'bce_target_thresh': 0.2}), ('asl', {}), ('poly', {})])
def test_other_losses_learn(config: TrainConfig, loss: str, options: dict[str, Any]) -> None:
    run = train(replace(config, loss=loss, loss_options=options, epochs=4, lr=4e-3))
    assert run.history[-1]['train_loss'] < run.history[0]['train_loss']
    assert run.history[-1]['val_top1'] > 60


def test_views_of_the_same_images_learn_to_agree(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, loss='jsd', aug_splits=3, aa='augmix-m3', smoothing=0.0)
    seen: list[torch.Tensor] = []
    forward = tasks.Task.forward

    def look(task: tasks.Task, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.extend([images, targets])
        return forward(task, images, targets)

    monkeypatch.setattr(tasks.Task, 'forward', look)
    run = train(config)
    assert run.history[-1]['train_loss'] < run.history[0]['train_loss']
    images, targets = seen[0].unflatten(0, (3, 12)), seen[1].view(3, 12)
    assert (targets == targets[0]).all()
    # an operation may leave an image as it is
    assert (images[0] != images[1]).any((1, 2, 3)).sum() > 6
    # memory for less than half of the 36: parts of whole images
    torch.testing.assert_close(
        torch.cat([part.unflatten(0, (3, -1)) for part in guards.parts(seen[0], 17, 3)], 1), images, rtol=0, atol=0
    )


def test_views_have_norms_of_their_own(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the state of the run, and not in the weights that are judged."""
    options = {'model': 'test_resnet', 'loss': 'jsd', 'aug_splits': 3, 'aa': 'augmix-m3', 'split_bn': True, 'ema': 0.9}
    _, whole = broken_and_whole(replace(config, **options, smoothing=0.0), monkeypatch)
    tensors = [whole.weights[f'bn1.{part}running_mean'] for part in ('', 'aux_bn.0.', 'aux_bn.1.')]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(tensors, 2))
    plain = foveal.create_model('test_resnet', num_classes=len(whole.header['classes']))
    assert checkpoint.load(config.output).weights.keys() == plain.state_dict().keys()
    for source in (config.output, str(whole.path)):
        assert checkpoint.load_model(source).model.state_dict().keys() == plain.state_dict().keys()
    out = Path(config.output) / 'clean.safetensors'
    assert main(['clean', str(whole.path), '--output', str(out), '--hash', 'false']) == 0
    plain.load_state_dict(checkpoint.load(out).weights)
    assert torch.equal(plain.bn1.running_mean, tensors[0])
    assert main(['validate', config.output, '--data', config.data, '--ema', '--device', 'cpu', '--workers', '0']) == 0


def test_frozen_parts_stay(config: TrainConfig) -> None:
    config = replace(config, model='test_resnet', freeze=['conv1*', 'bn1*', 'layer1.*'], clip_grad=0.1, clip_mode='agc')
    run = train(config)
    torch.manual_seed(config.seed)
    before = foveal.create_model('test_resnet', num_classes=len(run.classes)).state_dict()
    for name, tensor in run.model.state_dict().items():
        frozen = name.startswith(('conv1', 'bn1', 'layer1.'))
        counter = name.endswith('num_batches_tracked')
        assert torch.equal(tensor, before[name]) == frozen, name if not counter else ''


def test_frozen_statistics_are_those_of_frozen_norms() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    freeze(model, ['0.*'])
    hold_frozen_statistics(model.train())
    assert [module.training for module in model] == [False, True]


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'loss': 'bec'}, "loss 'bec' is unknown; did you mean 'bce'"),
        ({'loss': 'jsd'}, 'loss jsd compares views of an image: give aug_splits, such as 3, got 0'),
        ({'aug_splits': 2, 'mixup': 0.2}, 'aug_splits shows views of the same images'),
        ({'split_bn': True}, 'split_bn is for views of an image: give aug_splits, such as 3, got 0'),
        (
            {'split_bn': True, 'aug_splits': 2, 'sync_bn': True},
            'split_bn and sync_bn are batch norms of different kinds',
        ),
        ({'split_bn': True, 'aug_splits': 2, 'model': 'test_vit'}, 'has no batch norms to split'),
        ({'val_interval': 0}, 'val_interval must be at least 1, got 0'),
        ({'val_batch_size': 0}, 'val_batch_size must be at least 1, got 0'),
        ({'val_interval': 2, 'sched': 'plateau'}, 'plateau follows the score of every epoch.*must be 1, got 2'),
        ({'loss_options': {'bce_treshold': 1}}, "loss_options has no option 'bce_treshold'"),
        ({'loss': 'asl', 'mixup': 0.2}, 'asl wants class indices: no mixing'),
        ({'clip_mode': 'agx'}, "clip_mode must be one of norm, value, agc, got 'agx'"),
        ({'ema': 1.5}, r'ema must be in \[0, 1\), got 1.5'),
        ({'ema': 0.9, 'ema_options': {'warm_up': True}}, "ema_options has no option 'warm_up'; did you mean 'warmup'"),
        ({'freeze': ['stems*']}, r"freeze 'stems\*' names no parameter"),
        ({'freeze': ['*']}, 'leaves nothing to learn'),
        ({'teacher': 'no/where'}, 'checkpoint no/where does not exist'),
        ({'distill': 'logits'}, "distill must be one of logit, feature, token, got 'logits'"),
        ({'keep': -1}, 'keep must be at least 0, got -1'),
    ],
)
def test_what_cannot_be_is_refused(config: TrainConfig, options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, OSError), match=said):
        train(replace(config, **options))


def test_token_distillation_wants_a_second_classifier(config: TrainConfig, teacher: str) -> None:
    with pytest.raises(ValueError, match='ConvNeXt has no classifier to distil into'):
        train(replace(config, teacher=teacher, distill='token'))
    with pytest.raises(ValueError, match="distill_options has no option 'kind'; legal are distill_weight, task_weight"):
        train(replace(config, teacher=teacher, distill_options={'kind': 'hard'}, output=config.output + '2'))


def test_momentum_is_sound_after_a_first_gradient_that_overflows() -> None:
    model = nn.Linear(64, 64, bias=False)
    start = model.weight.detach().clone()
    config = TrainConfig(precision='fp16', opt='sgd', lr=0.5, weight_decay=0.0)
    optimizer, scaler = build_optimizer(config, model), grad_scaler(torch.device('cpu'), 'fp16')
    for factor in (torch.inf, 1.0, 1.0):
        # what a momentum that nobody sets would hold: most of these are free again when the step asks for memory
        [torch.full_like(start, 1e3) for _ in range(64)].clear()
        scaler.scale(model.weight.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    # momenta 1 and 1.9 under Nesterov's rule: steps of 1.9 and 2.71
    assert torch.allclose(model.weight, start - 0.5 * (1.9 + 2.71))


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_low_precision_learns_and_resumes(config: TrainConfig, tmp_path: Path, precision: str) -> None:
    """float16 scales its loss, and what the scale has become goes on with the run."""
    config = replace(config, precision=precision, clip_grad=1.0)
    unbroken = replace(config, output=str(tmp_path / 'unbroken'))
    run = train(unbroken)
    assert run.history[-1]['train_loss'] < run.history[0]['train_loss']
    assert run.scaler.is_enabled() == (precision == 'fp16')
    stopped = train(replace(config, save_updates=3))
    assert stopped.scaler.state_dict() == run.scaler.state_dict()
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_compiled_run_equals_an_eager_one(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward as traced graphs. Inductor's kernels for them would take half a minute."""
    modes, original = [], nn.Module.compile

    def traced(self: nn.Module, mode: str) -> None:
        modes.append(mode)
        original(self, backend='aot_eager')

    monkeypatch.setattr(nn.Module, 'compile', traced)
    config = replace(config, epochs=1)
    eager, compiled = train(config), train(replace(config, compile='default', output=str(tmp_path / 'compiled')))
    torch._dynamo.reset()
    assert modes == ['default']
    # the traced backward pass adds float32 gradients in another order
    for a, b in zip(eager.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_second_order_optimizers_get_their_graph(config: TrainConfig) -> None:
    run = train(replace(config, opt='adahessian', lr=0.05, epochs=1))
    assert run.history[0]['train_loss'] < 1.2
