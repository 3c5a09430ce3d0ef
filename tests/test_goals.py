"""Several labels an image, and numbers: losses, scores, training, validation and prediction."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from foveal.cli import main
from foveal.data import create_dataset
from foveal.engine import checkpoint
from foveal.engine.config import TrainConfig
from foveal.engine.goals import ManyLabels, Numbers, OneLabel, goal_of, judged_by, restored
from foveal.engine.metrics import METRICS, told
from foveal.engine.regression import NumbersMeter
from foveal.engine.target_stats import count_classes
from foveal.engine.train import train
from foveal.loss import create_regression_loss
from foveal.loss.regression import Standardized
from tests.digits import write_angles, write_pairs
from tests.images import write_folder
from tests.runs import broken_and_whole

CPU = torch.device('cpu')
torch.set_num_threads(1)

# a tenth of a second an epoch of 100 images on one core
SMALL = {'layers': [1, 1, 1, 1], 'channels': [16, 32, 64, 128], 'stem_type': 'deep', 'stem_width': 8}


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp('pairs') / 'pairs.csv')


@pytest.fixture(scope='module')
def angles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_angles(tmp_path_factory.mktemp('angles') / 'angles.csv')


def asked(data: Path, output: Path, **options: Any) -> TrainConfig:
    return TrainConfig(
        data=str(data), model='resnet18', model_options=SMALL, in_chans=1, img_size=32, crop_pct=1.0,
        train_crop_mode='none', hflip=0, epochs=5, batch_size=32, lr=4e-3, workers=0, threads=1, device='cpu',
        output=str(output), **options,
    )  # fmt: skip


@pytest.fixture(scope='module')
def labelling(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns several labels."""
    config = asked(pairs, tmp_path_factory.mktemp('runs') / 'labels', target_format='indices')
    train(config)
    return Path(config.output)


@pytest.fixture(scope='module')
def measuring(angles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns a number."""
    config = asked(angles, tmp_path_factory.mktemp('runs') / 'numbers', target_key='angle')
    train(config)
    return Path(config.output)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# numbers


def test_scores_of_numbers_equal_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, std = (1000.0, -3.0), (2.0, 0.5)
    truths = torch.randn(50, 2, generator=generator) * torch.tensor(std) + torch.tensor(mean)
    outputs = torch.randn(50, 2, generator=generator) * 0.3 + (truths - torch.tensor(mean)) / torch.tensor(std)
    meter = NumbersMeter(mean, std, CPU)
    for part in (slice(0, 20), slice(20, 21), slice(21, 50)):
        meter.update(outputs[part], truths[part])
    scores = meter.compute()
    told = Numbers(['a', 'b'], mean, std).read(outputs.double()).numpy()
    expected = {
        'count': 50,
        'loss': metrics.mean_squared_error((truths.double() - torch.tensor(mean)) / torch.tensor(std), outputs),
        'mae': metrics.mean_absolute_error(truths, told),
        'rmse': metrics.root_mean_squared_error(truths, told),
        'r2': metrics.r2_score(truths, told),
    }
    # targets near 1000 in float32 have four digits behind the point
    assert scores.to_dict() == pytest.approx(expected, rel=1e-4)
    each = metrics.r2_score(truths, told, multioutput='raw_values')
    assert [row['r2'] for row in scores.per_class(['a', 'b'])] == pytest.approx(each, rel=1e-4)


def test_numbers_that_are_all_the_same() -> None:
    meter = NumbersMeter((0.1,), (1.0,), CPU)
    meter.update(torch.zeros(3, 1), torch.full((3, 1), 0.7))
    scores = meter.compute()
    assert (scores.r2, scores.per_class(['a'])[0]['r2']) == (0, None)
    assert scores.mae == pytest.approx(0.6, rel=1e-6)
    with pytest.raises(ValueError, match='there is no image to score'):
        NumbersMeter((0.0,), (1.0,), CPU).compute()


@pytest.mark.parametrize('kind', ['mse', 'l1', 'huber'])
def test_losses_of_numbers_are_those_of_the_formulas_in_any_unit(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    outputs, truths = torch.randn(2, 40, 3, generator=generator).double()
    error = (outputs - truths).abs()
    expected = {
        'mse': error.square().mean(),
        'l1': error.mean(),
        'huber': torch.where(error < 0.5, 0.5 * error.square(), 0.5 * (error - 0.25)).mean(),
    }[kind]
    made = create_regression_loss(kind, huber_delta=0.5)
    torch.testing.assert_close(made(outputs, truths), expected)
    mean, std = (5.0, -2.0, 0.0), (1000.0, 0.01, 1.0)
    scaled = Standardized(made, mean, std).double()(outputs, truths * torch.tensor(std) + torch.tensor(mean))
    torch.testing.assert_close(scaled, expected, rtol=1e-6, atol=0)  # 0.01 in float32


def test_views_of_a_number_are_averaged() -> None:
    views = [torch.tensor([[1.0]]), torch.tensor([[2.0]])]
    assert Numbers(['a'], (10.0,), (2.0,)).mean(views).item() == 1.5


def test_a_number_is_learnt(measuring: Path) -> None:
    history = rows(measuring / 'metrics.csv')
    assert {'val_loss', 'val_mae', 'val_rmse', 'val_r2'} <= history[-1].keys()
    # who says the same of every image reaches 0
    best = max(history, key=lambda row: float(row['val_r2']))
    assert float(best['val_r2']) > 0.8
    header = checkpoint.load(measuring).header
    assert header['metrics']['epoch'] == int(best['epoch'])
    assert header['classes'] == ['angle']
    # 120 degrees, evenly
    assert header['task']['std'] == pytest.approx([120 / 12**0.5], rel=0.05)


def test_a_number_is_validated_and_predicted(measuring: Path, angles: Path, tmp_path: Path) -> None:
    result, out = tmp_path / 'result.json', tmp_path / 'out'
    arguments = ['--data', str(angles), '--target-key', 'angle', '--workers', '0', '--output', str(result)]
    assert main(['validate', str(measuring), *arguments, '--report', str(tmp_path / 'report')]) == 0
    found = json.loads(result.read_text())
    best = checkpoint.load(measuring).header['metrics']
    assert {name: found[name] for name in ('mae', 'rmse', 'r2')} == pytest.approx(
        {name: best[f'val_{name}'] for name in ('mae', 'rmse', 'r2')}, rel=1e-4
    )
    truths = {row['path']: float(row['angle']) for row in rows(angles) if row['split'] == 'val'}
    images = [str(angles.parent / name) for name in truths]
    for ending in ('csv', 'json', 'parquet'):
        assert main(['predict', str(measuring), *images, '--output', f'{out}.{ending}']) == 0
    told = np.array([float(row['angle']) for row in rows(tmp_path / 'out.csv')])
    assert np.abs(told - list(truths.values())).mean() == pytest.approx(found['mae'], rel=1e-4)
    listed = json.loads((tmp_path / 'out.json').read_text())
    assert [row['numbers']['angle'] for row in listed] == pytest.approx(told.tolist(), rel=1e-6)
    from pyarrow import parquet

    assert parquet.read_table(f'{out}.parquet')['angle'].to_pylist() == pytest.approx(told.tolist(), rel=1e-6)


def test_classes_and_numbers_are_not_mixed_up(
    measuring: Path, labelling: Path, pairs: Path, angles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / 'colours', per_class=4)
    for arguments, said in (
        (['validate', measuring, '--data', folder], 'tells numbers, the targets of'),
        (['validate', labelling, '--data', angles, '--target-key', 'angle'], 'are not among the classes'),
        (['predict', measuring, pairs.parent / 'pairs0.png', '--threshold', '0.5'], 'threshold is for classes'),
        (['validate', labelling, '--data', pairs, '--calibration'], 'calibration is for data with one label'),
    ):
        assert main([*map(str, arguments), *(['--workers', '0'] if arguments[0] == 'validate' else [])]) == 2
        assert said in capsys.readouterr().err


# several labels


def test_several_labels_are_learnt(labelling: Path, pairs: Path, tmp_path: Path) -> None:
    history = rows(labelling / 'metrics.csv')
    assert {'val_map', 'val_micro_f1', 'val_macro_f1', 'val_sample_f1'} <= history[-1].keys()
    # each digit is in a fifth of the images: who says the same of every image reaches an average precision of 20 %
    best = max(history, key=lambda row: float(row['val_map']))
    assert float(best['val_map']) > 70
    saved = checkpoint.load(labelling)
    assert saved.header['metrics']['epoch'] == int(best['epoch'])
    assert saved.header['task'] == {'kind': 'labels', 'threshold': 0.5, 'target_format': 'indices'}
    # the run tells how the labels are to be read
    result = tmp_path / 'result.json'
    assert main(['validate', str(labelling), '--data', str(pairs), '--workers', '0', '--output', str(result)]) == 0
    found = json.loads(result.read_text())
    assert found['map'] == pytest.approx(float(best['val_map']), rel=1e-5)
    assert main(['verify', str(result)]) == 0


def test_several_labels_are_predicted(labelling: Path, pairs: Path, tmp_path: Path) -> None:
    image, out = pairs.parent / 'pairs410.png', tmp_path / 'out.json'
    assert main(['predict', str(labelling), str(image), '--output', str(out), '--all-scores']) == 0
    scores = json.loads(out.read_text())[0]['scores']
    loaded = checkpoint.load_model(str(labelling))
    data = create_dataset(str(pairs), split='val', target_format='indices', channels=1)
    pixels = next(data[i][0] for i in range(len(data)) if data.name(i) == 'pairs410.png')
    mean, std = (torch.tensor(x)[:, None, None] for x in (loaded.preprocess.mean, loaded.preprocess.std))
    with torch.no_grad():
        logits = loaded.model((pixels / 255 - mean)[None] / std)
    # 32 pixels stay 32
    assert scores == pytest.approx(logits.sigmoid()[0].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    'options',
    [
        {'loss': 'asl', 'smoothing': 0.1, 'pos_weight': 2.0},
        {'loss': 'bce', 'pos_weight': 'neg_pos', 'weight_options': {'max_weight': 3.0}},
        {'loss': 'poly', 'loss_options': {'poly_gamma': 1.0}},
        {'loss': 'twoway'},
        {'loss': 'zlpr'},
        {'loss': 'db'},
    ],
    ids=lambda options: options['loss'],
)
def test_every_loss_of_several_labels_learns(pairs: Path, options: dict[str, Any]) -> None:
    data = create_dataset(str(pairs), split='train', is_training=True, target_format='indices')
    config = asked(pairs, pairs, **options)
    goal = goal_of(config, data)
    loss = goal.loss(goal.decided(config), mixed=False)
    # the best logits of 64 images, found by the loss alone
    targets = torch.stack([torch.from_numpy(target) for target in data.targets[:64]])  # type: ignore[arg-type]
    logits = torch.zeros_like(targets).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        loss(logits, targets).backward()
        optimizer.step()
    meter = goal.meter(CPU)
    meter.update(logits.detach(), targets)
    assert meter.compute().to_dict()['map'] > 99


@pytest.mark.parametrize(
    ('target', 'options'),
    [
        ('labels', {'loss': 'asl', 'mixup': 0.3, 'ema': 0.9}),
        ('angle', {'loss': 'huber', 'mixup': 0.3, 'loss_options': {'huber_delta': 0.3}}),
    ],
)
def test_resumed_run_equals_an_unbroken_one(
    pairs: Path, angles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, options: dict[str, Any]
) -> None:
    data = {'labels': pairs, 'angle': angles}[target]
    options |= {'target_key': target, 'target_format': 'indices' if target == 'labels' else None}
    config = replace(asked(data, tmp_path / 'run', **options), epochs=1, batch_size=80)
    broken, whole = broken_and_whole(config, monkeypatch)
    assert broken.header['task'] == whole.header['task']


def test_a_mean_of_checkpoints_knows_its_goal(measuring: Path, tmp_path: Path) -> None:
    inputs = [str(measuring / f'{name}.safetensors') for name in ('best', 'last')]
    out = tmp_path / 'soup.safetensors'
    assert main(['average', *inputs, '--output', str(out)]) == 0
    assert isinstance(restored(checkpoint.load(out).header), Numbers)


# weights of classes


def test_classes_are_counted_where_they_are_trained_on(pairs: Path, tmp_path: Path) -> None:
    data = create_dataset(str(pairs), split='train', is_training=True, target_format='indices', repeats=2)
    counts, images = count_classes(data)  # type: ignore[arg-type]
    labels = [row['labels'].split(';') for row in rows(pairs) if row['split'] == 'train']
    assert images == len(labels) == 400
    assert counts.tolist() == [sum(str(digit) in each for each in labels) for digit in range(10)]
    folder = write_folder(tmp_path / 'colours', per_class=8)
    held = create_dataset(str(folder / 'train'), split='train', val_fraction=0.25)
    assert [x.tolist() if isinstance(x, Tensor) else x for x in count_classes(held)] == [[6, 6, 6], 18]  # type: ignore[arg-type]


def test_weights_of_classes_weigh_the_loss(tmp_path: Path) -> None:
    (tmp_path / 'weights.json').write_text('[1, 2, 6]')
    goal = OneLabel(['a', 'b', 'c'], (torch.tensor([60.0, 30.0, 10.0]), 100))
    config = TrainConfig(data='x', loss='ce', smoothing=0.0)
    logits, targets = torch.randn(9, 3), torch.arange(9) % 3
    logs = -logits.log_softmax(1)[range(9), targets]
    for given in ('inv_freq', '1,2,6', [1.0, 2.0, 6.0], str(tmp_path / 'weights.json')):
        weights = torch.tensor([1.0, 2.0, 6.0])[targets]
        found = goal.loss(replace(config, class_weight=given), mixed=False)(logits, targets)
        torch.testing.assert_close(found, (logs * weights).sum() / weights.sum())
    several = ManyLabels(goal.classes, goal.stats).loss(replace(config, loss='bce', pos_weight='neg_pos'), mixed=False)
    assert several.pos_weight.tolist() == pytest.approx([40 / 60, 70 / 30, 9])  # type: ignore[union-attr, operator]


# what cannot be


@pytest.mark.parametrize(
    ('data', 'options', 'said'),
    [
        ('pairs', {'loss': 'ce'}, 'loss ce is not for several labels an image.*use one of bce, asl, poly, twoway'),
        ('pairs', {'loss': 'mse'}, 'loss mse is not for several labels an image'),
        ('pairs', {'loss': 'twoway', 'mixup': 0.2}, 'twoway wants targets of 0 and 1'),
        ('pairs', {'loss': 'zlpr', 'smoothing': 0.1}, 'zlpr wants targets of 0 and 1'),
        ('pairs', {'pos_weight': 'inv_freq'}, 'inv_freq gives a class_weight, not a pos_weight'),
        ('pairs', {'pos_weight': '1,2'}, 'pos_weight has 2 numbers, .* has 10 classes'),
        ('pairs', {'class_weight': '0'}, 'class_weight must be numbers from 0 on, some above it'),
        (
            'pairs',
            {'class_weight': 'blanced'},
            "legal are|did you mean|one of neg_pos, inv_freq, effective_num, got 'blan",
        ),
        ('pairs', {'loss': 'poly', 'class_weight': 2.0}, 'class_weight is of ce, bce and multi-label asl, not of poly'),
        ('pairs', {'weight_options': {'powr': 1}}, "weight_options has no option 'powr'; did you mean 'power'"),
        ('pairs', {'class_stats': 'none.json'}, 'none.json does not exist'),
        ('pairs', {'teacher': 'resnet18', 'distill': 'logit'}, 'distill logit is for one label an image'),
        ('pairs', {'threshold': 1.0}, r'threshold must be in \(0, 1\), got 1.0'),
        ('angles', {'loss': 'ce'}, 'loss ce is not for numbers.*use one of mse, l1, huber'),
        ('angles', {'smoothing': 0.1}, 'smoothing is for classes'),
        ('angles', {'class_weight': '1'}, 'class_weight is for classes'),
        ('angles', {'loss_options': {'huber_delta': 0}}, 'huber_delta must be above 0, got 0'),
        ('angles', {'loss_options': {'hubr_delta': 1}}, "loss_options has no option 'hubr_delta'"),
        ('angles', {'metric': 'val_top1'}, 'val_top1'),
        ('folder', {'loss': 'twoway'}, 'loss twoway is not for one label an image'),
        ('folder', {'loss': 'asl', 'mixup': 0.2}, 'asl wants class indices: no mixing'),
        ('folder', {'pos_weight': 2.0}, 'pos_weight is of bce and multi-label asl, not of ce'),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    pairs: Path, angles: Path, tmp_path: Path, data: str, options: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {
        'pairs': {'target_format': 'indices'}, 'angles': {'target_key': 'angle'}, 'folder': {},
    }[data]  # fmt: skip
    where = {'pairs': pairs, 'angles': angles}.get(data) or write_folder(tmp_path / 'colours', per_class=16)
    with pytest.raises((ValueError, OSError), match=said):
        train(asked(where, tmp_path / 'run', **given, **options))
    assert not (tmp_path / 'run' / 'metrics.csv').exists()


def test_numbers_that_teach_nothing_are_refused(angles: Path, tmp_path: Path) -> None:
    text = angles.read_text().splitlines()
    for value, said in (('nan', 'the number of .*angles1.png is .nan., not finite'), ('1.5', 'angle is 1.5 for all')):
        changed = [text[0]]
        for i, line in enumerate(text[1:]):
            name, _, split = line.split(',')
            number = value if value != 'nan' or i == 1 else '2.5'
            changed.append(f'{angles.parent / name},{number},{split}')
        (tmp_path / 'bad.csv').write_text('\n'.join(changed))
        with pytest.raises(ValueError, match=said):
            train(asked(tmp_path / 'bad.csv', tmp_path / 'run', target_key='angle'))


# names


def test_old_checkpoints_have_one_label_an_image() -> None:
    assert restored({'classes': ['a', 'b']}) == OneLabel(['a', 'b'])
    kept = Numbers(['a'], (1.0,), (2.0,))
    assert restored({'classes': ['a'], 'task': json.loads(json.dumps(kept.to_dict()))}) == kept


def test_a_model_of_one_label_may_be_asked_for_several() -> None:
    assert judged_by(OneLabel(['a']), 'labels', ['a', 'b']) == ManyLabels(['a', 'b'], threshold=0.5)
    own = ManyLabels(['a', 'b'], threshold=0.3)
    assert judged_by(own, 'labels', ['b']) == ManyLabels(['b'], threshold=0.3)
    assert judged_by(own, 'labels', ['b'], 0.9) == ManyLabels(['b'], threshold=0.9)


def test_scores_have_names_and_a_direction() -> None:
    for goal in (OneLabel, ManyLabels, Numbers):
        assert set(goal.scores) <= METRICS.keys()
        assert not METRICS[goal.metric].lower
    assert [told('top1', 93.254), told('mae', 0.12345), told('map', 5, 1)] == [
        'top-1 93.25 %',
        'MAE 0.1235',
        'mAP 5.0 %',
    ]
