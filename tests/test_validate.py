"""`foveal validate`, `verify` and `knn`: figures against scikit-learn's, hand-made cases, and small runs."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn.functional import cross_entropy

from foveal import cli, create_model
from foveal.data import Preprocess, create_dataset
from foveal.engine import checkpoint
from foveal.engine.calibration import Calibration, best_temperature
from foveal.engine.distributed import Process
from foveal.engine.evaluate import Meter
from foveal.engine.goals import ManyLabels, OneLabel
from foveal.engine.halving import Halving
from foveal.engine.judge import Judge, forward_of, load_judge
from foveal.engine.judging import ValidateConfig
from foveal.engine.matching import Matching, matching_of
from foveal.engine.probe import Features, knn_votes, linear_probe
from foveal.engine.provenance import data_hash, differing, weights_hash
from foveal.engine.real_labels import RealLabels
from foveal.engine.sources import expand
from foveal.engine.top_losses import TopLosses
from foveal.engine.views import TestTimePool, Views, preprocess_of_views, published_window
from foveal.labels import Label, table
from tests.checkpoints import write_run
from tests.images import COLOURS

torch.set_num_threads(1)
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with a running mean of the weights."""
    return write_run(tmp_path_factory.mktemp('runs') / 'run')


def validate(*arguments: Any, status: int = 0) -> None:
    assert cli.main(['validate', *map(str, arguments), '--workers', '0']) == status


def logits_and_targets(count: int = 300, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Guesses that are often right; one class never occurs, one is never guessed."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, classes - 1, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), targets] += 1.5
    logits[:, 2] -= 50
    return logits, targets


# figures


def test_averages_equal_scikit_learn() -> None:
    logits, targets = logits_and_targets()
    meter = Meter(7, CPU)
    for part in (slice(0, 100), slice(100, 101), slice(101, 300)):
        meter.update(logits[part], targets[part])
    scores, guesses = meter.compute(), logits.argmax(1)
    for average, found in scores.averages().items():
        expected = metrics.precision_recall_fscore_support(targets, guesses, average=average, zero_division=0)
        # sums of a few hundred counts in float64
        assert list(found.values()) == pytest.approx([100 * value for value in expected[:3]], rel=1e-12), average
    rows = scores.per_class([str(i) for i in range(7)])
    expected = metrics.precision_recall_fscore_support(targets, guesses, labels=range(7), zero_division=0)
    for i, row in enumerate(rows):
        for key, values in zip(('precision', 'recall', 'f1'), expected, strict=False):
            # what scikit-learn calls 0 for want of a case is absent here
            assert (row[key] or 0) == pytest.approx(100 * values[i], abs=6e-4), (i, key)
    assert rows[2]['precision'] is None
    assert rows[6]['recall'] is None
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(targets, guesses, labels=range(7)))
    exact = logits.double().numpy()
    losses = np.log(np.exp(exact).sum(1)) - exact[np.arange(300), targets]
    assert scores.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert scores.top5 == pytest.approx(
        100 * metrics.top_k_accuracy_score(targets, logits.softmax(1), k=5, labels=range(7))
    )


def test_no_image_has_no_score() -> None:
    with pytest.raises(ValueError, match='no image to score'):
        Meter(3, CPU).compute()


def test_calibration_equals_scikit_learn() -> None:
    logits, targets = logits_and_targets()
    calibration = Calibration(CPU, bins=10)
    for part in (slice(0, 7), slice(7, 300)):
        calibration.update(logits[part], targets[part])
    found = calibration.compute()
    confidence, guesses = logits.softmax(1).max(1)
    accuracy, predicted = calibration_curve(guesses == targets, confidence, n_bins=10)
    there = found.counts > 0
    np.testing.assert_allclose(found.accuracy[there], accuracy, rtol=1e-12)
    # probabilities are float32
    np.testing.assert_allclose(found.confidence[there], predicted, rtol=1e-6)
    weights = found.counts[there] / 300
    assert found.ece == pytest.approx(100 * (weights * np.abs(accuracy - predicted)).sum(), rel=1e-5)
    assert found.mce == pytest.approx(100 * np.abs(accuracy - predicted).max(), rel=1e-5)
    assert found.temperature is None


def test_calibration_by_hand() -> None:
    """Two images at a confidence of 0.8, one right; one at 0.6, right: 2/3 * 0.3 + 1/3 * 0.4."""
    chances = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    calibration = Calibration(CPU, bins=4)
    calibration.update(chances.log(), torch.tensor([0, 1, 1]))
    found = calibration.compute()
    assert found.counts.tolist() == [0, 0, 1, 2]
    assert found.ece == pytest.approx(100 * (2 * 0.3 + 0.4) / 3, rel=1e-6)


def test_the_temperature_is_the_best() -> None:
    logits, targets = logits_and_targets()
    logits[:, 2] += 50
    found = best_temperature(3 * logits, targets)
    assert found == pytest.approx(3 * best_temperature(logits, targets), rel=1e-6)

    def loss(temperature: float) -> float:
        return cross_entropy(3 * logits.double() / temperature, targets).item()

    grid = np.exp(np.linspace(-3, 3, 2001))
    assert found == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=0.004)  # the grid's step is 0.003
    assert loss(found) <= min(loss(0.999 * found), loss(1.001 * found))
    # always right: the colder, the better
    assert best_temperature(10 * torch.eye(4), torch.arange(4)) == pytest.approx(0.01)
    calibration = Calibration(CPU, fit=True)
    calibration.update(3 * logits, targets)
    result = calibration.compute()
    assert (result.temperature, result.loss) == (found, pytest.approx(loss(found)))


def test_top_losses_are_the_largest() -> None:
    logits, targets = logits_and_targets()
    losses = cross_entropy(logits, targets, reduction='none')
    worst = TopLosses(keep=5)
    addresses = torch.stack([torch.zeros(300), torch.arange(300) * 2, torch.zeros(300)], 1).long()
    for part in (slice(0, 200), slice(200, 300)):
        worst.update(logits[part], targets[part], addresses[part])
    rows = worst.compute()
    order = losses.argsort(descending=True)[:5]
    assert [row.index for row in rows] == (2 * order).tolist()
    assert [row.loss for row in rows] == pytest.approx(losses[order].tolist())
    assert rows[0].truth_probability == pytest.approx(logits[order[0]].softmax(0)[targets[order[0]]].item())
    assert rows[0].guess == logits[order[0]].argmax()


# which outputs are meant


def judge(*names: str) -> Judge:
    labels = [Label(name, f'a {name}') for name in names] or None
    return Judge(nn.Identity(), Preprocess(), labels, {name: i for i, name in enumerate(names)})


def test_classes_are_matched_by_name() -> None:
    logits = torch.tensor([[1.0, 2, 3, 4]])
    known = judge('cat', 'cup', 'fox', 'hen')
    same = matching_of(known, 4, ['cat', 'cup', 'fox', 'hen'], 'm', 'd')
    assert same == Matching(['cat', 'cup', 'fox', 'hen'])
    # fewer classes in another order: all outputs are scored
    some = matching_of(known, 4, ['hen', 'cup'], 'm', 'd')
    assert some.classes == ['cat', 'cup', 'fox', 'hen']
    assert some.targets(torch.tensor([0, 1, -1])).tolist() == [3, 1, -1]
    # only those that the data have
    present = matching_of(known, 4, ['hen', 'cup'], 'm', 'd', 'present')
    assert present.classes == ['cup', 'hen']
    assert present.logits(logits).tolist() == [[2, 4]]
    assert present.targets(torch.tensor([0, 1, 0])).tolist() == [1, 0, 1]
    # several labels an image
    assert present.targets(torch.tensor([[1.0, 0], [1, 1]])).tolist() == [[0, 1], [1, 1]]


def test_folders_of_numbers_are_outputs() -> None:
    """As ImageNet-V2's, which sort as text."""
    found = matching_of(judge('cat', 'cup', 'fox'), 3, ['0', '2'], 'm', 'd')
    assert found.targets(torch.tensor([0, 1])).tolist() == [0, 2]
    bare = matching_of(judge(), 12, sorted(map(str, range(12))), 'm', 'd')
    assert bare.targets(torch.tensor([2])).tolist() == [10]
    assert bare.classes[10] == '10'


def test_subsets_of_imagenet_go_by_wordnet_ids() -> None:
    """The folders of ImageNet-A and -R are WordNet ids; of 200 classes here three."""
    names = [label.name for label in table('imagenet-1k')]
    wanted = [names[6], names[11], names[932]]
    found = matching_of(judge(*names), 1000, wanted, 'm', 'imagenet-a', 'present')
    assert found.columns is not None
    assert found.columns.tolist() == [6, 11, 932]


def test_a_part_of_imagenet_names_the_valid_classes() -> None:
    """Of the folders of ImageNet's validation set, or of a part of ImageNet-A: 200 classes compete all the same."""
    names = [label.name for label in table('imagenet-1k')]
    for folders, kept in ((names, 200), ([names[6], names[7], names[11]], 2)):
        found = matching_of(judge(*names), 1000, folders, 'm', 'd', 'imagenet-a')
        assert found.columns is not None
        assert len(found.columns) == len(found.classes) == 200
        targets = found.targets(torch.arange(len(folders)))
        assert int((targets >= 0).sum()) == kept
        assert [found.classes[i] for i in targets if i >= 0][:2] == [names[6], names[11]]
    larger = matching_of(judge(*reversed(names)), 1000, names, 'm', 'd', 'imagenet-r')
    assert larger.classes == [label.name for label in reversed(table('imagenet-r'))], 'in the order of the outputs'
    for known in (judge(*names[:6]), judge()):
        with pytest.raises(ValueError, match='imagenet-a: 200 of its 200 classes, such as n01498041, are not among'):
            matching_of(known, 6, names[:6], 'm', 'd', 'imagenet-a')


def test_a_file_names_the_valid_classes(tmp_path: Path) -> None:
    known, path = judge('cat', 'cup', 'fox', 'hen'), tmp_path / 'valid.txt'
    path.write_text('hen\n0\n')
    found = matching_of(known, 4, ['cat', 'cup', 'fox', 'hen'], 'm', 'd', str(path))
    assert found.classes == ['cat', 'hen']
    assert found.targets(torch.tensor([0, 1, 3])).tolist() == [0, -1, 1]
    for text, said in (('dog\n', "'dog' is no class of the model"), ('4\n', "'4' is no class"), ('', 'names no class')):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            matching_of(known, 4, ['cat', 'cup', 'fox', 'hen'], 'm', 'd', str(path))
    with pytest.raises(FileNotFoundError, match='valid_labels must be present, imagenet-a or imagenet-r, or a file'):
        matching_of(known, 4, ['cat'], 'm', 'd', 'presents')


def test_classes_that_do_not_belong_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"classes \['cop'\] that are not among the classes: cat, cup.*did you mean 'cup'"
    ):
        matching_of(judge('cat', 'cup'), 2, ['cat', 'cop'], 'm', 'd')
    with pytest.raises(ValueError, match='m tells 3 classes apart, d has 2'):
        matching_of(judge(), 3, ['a', 'b'], 'm', 'd')


def test_all_labels_of_an_image_count(tmp_path: Path) -> None:
    """ReaL: right is any of the labels; images without one do not count."""
    root = tmp_path / 'val'
    for i in range(1, 5):
        (root / 'n0').mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(root / 'n0' / f'ILSVRC2012_val_{i:08d}.JPEG')
    dataset = create_dataset(root=str(tmp_path))
    path = tmp_path / 'real.json'
    path.write_text(json.dumps([[0, 2], [], [1], [3]]))
    logits = torch.eye(8)[[2, 0, 1, 7]]
    logits[3, 3] = 0.5
    addresses = torch.tensor([[0, i, 0] for i in range(4)])
    real = RealLabels(str(path), dataset, CPU)
    real.update(logits[:2], addresses[:2])
    real.update(logits[2:], addresses[2:])
    # the fourth guesses 7, then 3
    assert real.compute() == pytest.approx({'real_count': 3, 'real_top1': 200 / 3, 'real_top5': 100})
    path.write_text(json.dumps({'ILSVRC2012_val_00000001.JPEG': [2]}))
    real = RealLabels(str(path), dataset, CPU)
    with pytest.raises(ValueError, match='has no labels of ILSVRC2012_val_00000002'):
        real.update(logits, addresses)
    path.write_text('[[1], 2]')
    with pytest.raises(ValueError, match='must hold a list of class indices for each image'):
        RealLabels(str(path), dataset, CPU)


# around the model


class Brightness(nn.Module):
    """Logits that depend on where the image is bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[:, 0, 0, 0], images[:, 0, -1, -1]], 1)


def test_views_are_averaged_as_probabilities() -> None:
    images = torch.arange(36.0).view(1, 1, 6, 6) / 5
    crops = [(y, x) for y in (0, 2) for x in (0, 2)] + [(1, 1)]
    for kind, flip in (('five', False), ('ten', True)):
        views = [images[..., y : y + 4, x : x + 4] for y, x in crops]
        views += [view.flip(-1) for view in views] if flip else []
        expected = torch.stack([Brightness()(view).softmax(1) for view in views]).mean(0)
        found = Views(Brightness(), kind, (4, 4), OneLabel([]).mean)(images)
        torch.testing.assert_close(found.softmax(1), expected)
    several = Views(Brightness(), 'flip', (6, 6), ManyLabels([]).mean)(images)
    expected = (Brightness()(images).sigmoid() + Brightness()(images.flip(-1)).sigmoid()) / 2
    torch.testing.assert_close(several.sigmoid(), expected)


def test_crops_need_room() -> None:
    preprocess = Preprocess(input_size=(3, 224, 224), crop_pct=0.875)
    assert preprocess_of_views(preprocess, 'ten').input_size == (3, 256, 256)
    assert preprocess_of_views(preprocess, 'flip') is preprocess
    with pytest.raises(ValueError, match='leaves no room for 224x224; give a smaller crop_pct'):
        preprocess_of_views(Preprocess(crop_pct=1.0), 'five')


@pytest.mark.parametrize('name', ['test_resnet', 'test_convnext', 'test_efficientnet'])
def test_pooling_classifies_every_window(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).eval()
    size = model.pretrained_cfg.input_size[1]
    window = published_window(model)
    with torch.no_grad():
        small, large = torch.randn(2, 3, size, size), torch.randn(1, 3, size + 64, size + 32)
        # nothing to slide over: as the model itself. Sums in another order
        torch.testing.assert_close(TestTimePool(model, window)(small), model(small), atol=1e-5, rtol=1e-4)
        features = model.forward_features(large)
        high, wide = (have - want + 1 for have, want in zip(features.shape[2:], window, strict=True))
        assert high * wide > 1
        logits = torch.stack(
            [
                model.forward_head(features[:, :, y : y + window[0], x : x + window[1]])
                for y in range(high)
                for x in range(wide)
            ]
        )
        expected = (logits.mean(0) + logits.amax(0)) / 2
        torch.testing.assert_close(TestTimePool(model, window)(large), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match='VisionTransformer has tokens'):
        TestTimePool(create_model('test_vit'), window)


class Small(nn.Module):
    """Memory for three images."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return images * 2


def test_a_batch_too_large_is_halved() -> None:
    model = Small()
    halving = Halving(model)
    images = torch.arange(10.0)[:, None]
    with pytest.warns(UserWarning, match='out of memory at (10 images; going on with 5|5 images; going on with 2)'):
        found = halving(images)
    assert torch.equal(found, 2 * images)
    assert model.sizes == [10, 5, 2, 2, 2, 2, 2]
    model.sizes.clear()
    assert torch.equal(halving(images[:3]), 2 * images[:3])
    assert model.sizes == [2, 1], 'what did fit is remembered'

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    model.forward = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match='shapes'):
        halving(images)


# the command


def test_a_report_has_everything(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, report = tmp_path / 'result.json', tmp_path / 'report'
    validate(run / 'last.safetensors', '--data', folder, '--output', output, '--report', report, '--calibration')
    said = capsys.readouterr().out
    assert '12 images: top-1' in said
    assert 'temperature' in said
    result = json.loads(output.read_text())
    assert result['count'] == 12
    assert len(result['weights_hash']) == len(result['data_hash']) == 64
    assert result['versions']['torch'] == torch.__version__
    assert result['images_per_second'] > 0
    assert result['peak_memory_mb'] > 10
    assert sum(row['count'] for row in result['calibration']['bins']) == 12
    assert len(result['top_losses']) == 12
    assert result['top_losses'][0]['loss'] == max(row['loss'] for row in result['top_losses'])
    assert sorted(os.listdir(report)) == ['confusion.png', 'per_class.csv', 'reliability.png', 'top_losses.png']
    with (report / 'per_class.csv').open() as file:
        assert [row['class'] for row in csv.DictReader(file)] == sorted(COLOURS)
    for picture in report.glob('*.png'):
        with Image.open(picture) as image:
            assert min(image.size) > 300
            assert len(image.convert('RGB').getcolors(1 << 20)) > 20
    # the first of a figure's ways to be wrong: the model's own accuracy by hand
    model = create_model('test_convnext', num_classes=3)
    model.load_state_dict(checkpoint.load(run / 'last.safetensors').weights)
    assert result['weights_hash'] == weights_hash(model)
    assert result['params'] == sum(p.numel() for p in model.parameters())


def test_the_running_mean_is_another_model(run: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / 'result.json'
    validate(run, '--data', folder, '--ema', '--output', output)
    saved = checkpoint.load(run, 'last')
    model = create_model('test_convnext', num_classes=3)
    model.load_state_dict({k.removeprefix('ema:'): v for k, v in saved.extra.items() if k.startswith('ema:')})
    ema = json.loads(output.read_text())
    assert ema['weights_hash'] == weights_hash(model)
    validate(run / 'last.safetensors', '--data', folder, '--output', output)
    assert json.loads(output.read_text())['weights_hash'] != ema['weights_hash']
    validate(run / 'best.safetensors', '--data', folder, '--ema', status=2)


def test_many_models_one_of_which_fails(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'bad.safetensors').write_bytes(b'no')
    shutil.copy(run / 'best.safetensors', tmp_path / 'good.safetensors')
    (tmp_path / 'list.txt').write_text(f'# models\n{tmp_path}/*.safetensors\n{run}\n')
    output = tmp_path / 'results.csv'
    arguments = [tmp_path / 'list.txt', '--data', folder, '--output', output]
    validate(*arguments, status=1)
    said = capsys.readouterr().out
    assert '[1/3]' in said
    assert 'bad.safetensors: error:' in said
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert {Path(row['source']).name for row in rows[:2]} == {'good.safetensors', 'run'}
    assert 'is damaged or no checkpoint' in rows[2]['error']
    assert float(rows[0]['top1']) >= float(rows[1]['top1'])
    assert rows[0]['input_size'] == '3x32x32'

    # a second run does what is missing only
    from foveal.engine.validate import Validator

    asked = []
    measure = Validator.__call__

    def noting(self: Validator, source: str) -> Any:
        asked.append(source)
        return measure(self, source)

    monkeypatch.setattr(Validator, '__call__', noting)
    os.remove(tmp_path / 'bad.safetensors')
    shutil.copy(run / 'best.safetensors', tmp_path / 'new.safetensors')
    validate(*arguments)
    assert [Path(source).name for source in asked] == ['new.safetensors']
    with output.open() as file:
        assert len(list(csv.DictReader(file))) == 3
    # other options are another measurement
    asked.clear()
    validate(*arguments, '--img-size', '48')
    assert len(asked) == 3


def test_which_models_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert expand('resnet50', True) == (['resnet50'], False)
    assert expand('resnet50, vit_tiny_patch16_224', True)[0] == ['resnet50', 'vit_tiny_patch16_224']
    names, several = expand('resnet1*', True, exclude='*gluon*,resnet101*')
    assert several
    assert 'resnet18.a1_in1k' in names
    assert not [name for name in names if 'gluon' in name or 'resnet101' in name]
    assert not [name for name in expand('vit_small_*', True)[0] if name.endswith('.dino')], 'no classifier'
    assert len(expand('all', False)[0]) > 500
    with pytest.raises(ValueError, match='means no model'):
        expand('resnat*', True)
    monkeypatch.chdir(tmp_path)
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    assert expand('?', False) == (['a', 'b'], True)


def test_subsets_and_images_without_label(run: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / 'result.json'
    (tmp_path / 'valid.txt').write_text('red\nblue\n')
    validate(run, '--data', folder, '--valid-labels', tmp_path / 'valid.txt', '--output', output)
    result = json.loads(output.read_text())
    assert (result['count'], result['left_out']) == (8, 4)
    assert [row['class'] for row in result['per_class']] == ['blue', 'red']
    # a table with a label missing
    rows = [f'val/{name}/{i}.png,{name}' for name in COLOURS for i in range(2)] + ['val/red/2.png,']
    (folder / 'some.csv').write_text('\n'.join(['path,label', *rows]) + '\n')
    validate(run, '--data', folder / 'some.csv', '--output', output)
    result = json.loads(output.read_text())
    assert (result['count'], result['left_out']) == (6, 1)


def test_several_labels_an_image(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f'val/{name}/{i}.png,{name}' for name in COLOURS for i in range(4)]
    rows[0] = 'val/blue/0.png,blue;red'
    (folder / 'tags.csv').write_text('\n'.join(['path,label', *rows]) + '\n')
    output = tmp_path / 'result.json'
    arguments = [run, '--data', folder / 'tags.csv', '--target-format', 'indices', '--output', output]
    validate(*arguments, '--tta', 'flip')
    assert 'mAP' in capsys.readouterr().out
    result = json.loads(output.read_text())
    assert result['count'] == 12
    assert [row['class'] for row in result['per_class']] == sorted(COLOURS)
    model = checkpoint.load_model(str(run)).model
    assert not model.training
    validate(*arguments, '--calibration', status=2)
    assert 'calibration is for data with one label an image' in capsys.readouterr().err


def test_options_change_what_they_say(run: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / 'result.json'
    losses = {}
    for name, options in {
        'plain': [],
        'batches': ['--batch-size', '5'],
        'channels_last': ['--channels-last'],
        'flip': ['--tta', 'flip'],
        'ten': ['--tta', 'ten'],
        'pool': ['--test-pool', '--img-size', '256'],
        'bf16': ['--precision', 'bf16'],
        'border': ['--crop-border-pixels', '4'],
    }.items():
        validate(run, '--data', folder, '--output', output, *options)
        losses[name] = json.loads(output.read_text())['loss']
    # sums in another order
    assert losses['batches'] == pytest.approx(losses['plain'], rel=1e-5)
    assert losses['channels_last'] == pytest.approx(losses['plain'], rel=1e-4)
    # 8 bits of mantissa
    assert losses['bf16'] == pytest.approx(losses['plain'], rel=0.05)
    for name in ('flip', 'ten', 'pool', 'bf16', 'border'):
        assert losses[name] != losses['plain'], name


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--tta', 'twelve'], "tta must be one of flip, five, ten, got 'twelve'"),
        (['--batch-size', '0'], 'batch_size must be at least 1, got 0'),
        (['--devices', '2', '--device', 'cpu'], 'devices=2, but there are 1 of cpu'),
        (['--output', 'scores.txt'], 'output must end in .json or .csv'),
        (['--use-test-size'], 'use_test_size is for published weights'),
        (['--real-labels', 'none.json'], 'real_labels file none.json does not exist'),
        (['--threshold', '2', '--target-format', 'indices'], 'threshold must be in'),
    ],
)
def test_mistakes_are_named(
    run: Path, folder: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / 'labels.csv'
    data.write_text('path,label\nval/red/0.png,red\nval/red/1.png,blue\nval/red/1.png,green\n')
    validate(run, '--data', data, *options, status=2)
    assert said in capsys.readouterr().err


def test_two_processes_find_what_one_finds(run: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ['validate', str(run), '--data', str(folder), '--workers', '0', '--calibration', '--device', 'cpu']
    one, two = tmp_path / 'one.json', tmp_path / 'two.json'
    assert cli.main([*arguments, '--output', str(one)]) == 0
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    command += ['-m', 'foveal.cli', *arguments, '--output', str(two)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('12 images: top-1') == 1
    alone, shared = (json.loads(path.read_text()) for path in (one, two))
    for key in ('count', 'top1', 'averages', 'per_class', 'weights_hash', 'data_hash'):
        assert shared[key] == alone[key], key
    # sums in another order
    assert [row['loss'] for row in shared['top_losses']] == pytest.approx([row['loss'] for row in alone['top_losses']])
    for key in ('loss', 'ece'):
        assert shared[key] == pytest.approx(alone[key], rel=1e-5), key
    assert shared['calibration']['temperature'] == pytest.approx(alone['calibration']['temperature'], rel=1e-5)


@pytest.mark.parametrize(('name', 'options', 'size'), [
    ('resnet18.a1_in1k', {'use_test_size': True}, (288, 288)),
    ('resnet18.a1_in1k', {}, (224, 224)),
    ('test_vit', {'img_size': 192}, (192, 192)),
])  # fmt: skip
def test_the_model_takes_the_size_that_is_asked(
    name: str, options: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / 'weights.safetensors'
    save_file(create_model(name).state_dict(), path)
    config = ValidateConfig(source=name, checkpoint=str(path), workers=0, **options)
    judge = load_judge(config, name, Process(0, 1, CPU))
    assert judge.preprocess.input_size == (3, *size)
    assert judge.labels == list(table('imagenet-1k'))
    with torch.inference_mode():
        assert forward_of(judge, config)(torch.zeros(1, 3, *size)).shape == (1, 1000)


# a result that can be checked


def test_verify_says_what_differs(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = tmp_path / 'data', tmp_path / 'model.safetensors'
    shutil.copytree(folder, data)
    shutil.copy(run / 'best.safetensors', model)
    output = tmp_path / 'result.json'
    validate(model, '--data', data, '--output', output)

    def verify(*options: str) -> tuple[int, str]:
        capsys.readouterr()
        status = cli.main(['verify', str(output), '--workers', '0', *options])
        return status, capsys.readouterr().out

    assert verify('--batch-size', '7') == (0, f'{model} on {data}: the same (6 figures)\n')
    # another version is said, but is no failure
    result = json.loads(output.read_text())
    result['versions']['torch'] = '0.1'
    output.write_text(json.dumps(result))
    status, said = verify()
    assert status == 0
    assert f'version torch: 0.1 there, {torch.__version__} here' in said
    # an image of the same size under the same name
    Image.new('RGB', (40, 32), 'red').save(data / 'val' / 'blue' / '0.png')
    status, said = verify()
    assert status == 1
    assert 'data hash' in said
    assert 'figure loss' in said
    assert 'weights' not in said
    shutil.copy(folder / 'val' / 'blue' / '0.png', data / 'val' / 'blue' / '0.png')
    result['loss'] += 0.01
    result['preprocess']['crop_pct'] = 0.5
    output.write_text(json.dumps(result))
    saved = checkpoint.load(model)
    saved.weights['head.fc.bias'] += 1e-7
    checkpoint.write(model, saved.weights, saved.header, {})
    status, said = verify()
    assert status == 1
    for expected in ('figure loss', 'weights hash', 'preprocessing crop_pct: 0.5 there, 0.95 here'):
        assert expected in said, expected
    assert 'data hash' not in said


def test_verify_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'result.json'
    for text, said in ((None, 'does not exist'), ('{', 'is no file of results'), ('{"source": "a"}', 'does not hold')):
        if text:
            path.write_text(text)
        assert cli.main(['verify', str(path)]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(['verify', str(tmp_path / 'result.csv')]) == 2


def test_hashes_see_every_change(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / 'data')
    before = data_hash(create_dataset(root=str(tmp_path / 'data')))
    assert before == data_hash(create_dataset(root=str(folder))), 'where it lies does not matter'
    assert before == data_hash(create_dataset(root=str(folder)), workers=2)
    os.rename(tmp_path / 'data/val/red/0.png', tmp_path / 'data/val/red/9.png')
    assert data_hash(create_dataset(root=str(tmp_path / 'data'))) != before
    model = nn.Linear(2, 2)
    old = weights_hash(model)
    with torch.no_grad():
        model.bias[0] = torch.nextafter(model.bias[0], torch.tensor(9.0))
    assert weights_hash(model) != old


def test_differences_of_numbers_are_relative() -> None:
    assert not differing({'a': 100.0, 'b': 'x'}, {'a': 100.009, 'b': 'x'}, 1e-4)
    assert differing({'a': 100.0, 'b': 'x'}, {'a': 100.02, 'c': 1}, 1e-4) == [
        'a: 100.0 there, 100.02 here', 'b: x there, None here', 'c: None there, 1 here',
    ]  # fmt: skip


# frozen features


def features() -> tuple[Features, Features]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 8, generator=generator)
    targets = torch.randint(0, 4, (240,), generator=generator)
    vectors = centres[targets] + torch.randn(240, 8, generator=generator)
    return Features(vectors[:160], targets[:160]), Features(vectors[160:], targets[160:])


def test_neighbours_vote_as_in_scikit_learn() -> None:
    train_set, test_set = features()
    votes = knn_votes(train_set, test_set.vectors, 4, neighbours=9, temperature=0.07)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    peer = KNeighborsClassifier(9, weights=weights, metric='cosine', algorithm='brute')
    peer.fit(train_set.vectors, train_set.targets)
    # float32 here; exp(1 / 0.07) enlarges its rounding by 14
    shares = votes / votes.sum(1, keepdim=True)
    np.testing.assert_allclose(shares, peer.predict_proba(test_set.vectors), atol=2e-5)
    assert knn_votes(train_set, test_set.vectors, 4, neighbours=999, temperature=1).shape == (80, 4)


def test_a_linear_probe_separates_what_a_line_separates() -> None:
    train_set, test_set = features()
    found = linear_probe(train_set, test_set, 5, strength=1.0, iterations=200)
    bayes = 100 * (torch.cdist(test_set.vectors, torch.stack([
        train_set.vectors[train_set.targets == i].mean(0) for i in range(4)
    ])).argmin(1) == test_set.targets).float().mean().item()  # fmt: skip
    # nearest mean is the best rule for these clouds; 80 images: one is 1.25 %
    assert found['top1'] == pytest.approx(bayes, abs=7.5)
    assert found['top5'] == 100


def test_knn_command(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / 'knn.json'
    arguments = ['knn', str(run), '--data', str(folder), '--workers', '0', '--linear', '--output', str(output)]
    assert cli.main(arguments) == 0
    result = json.loads(output.read_text())
    assert (result['train'], result['count']) == (48, 12)
    # the classes are colours: any features tell them apart
    assert result['knn']['top1'] >= 90
    assert result['linear']['top1'] >= 90
    assert 'knn: top-1' in capsys.readouterr().out
    assert cli.main([*arguments, '--neighbours', '0']) == 2
