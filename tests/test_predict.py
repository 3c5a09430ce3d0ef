"""`foveal predict`: rows, files that can be gone on with, and maps."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor, nn

from foveal import cli, create_model
from foveal.engine import checkpoint, sinks
from foveal.engine.images import find_images
from foveal.engine.maps import attention_rollout, grad_cam, overlay
from foveal.engine.predict import Guess, Prediction, names_of
from foveal.engine.records import Record
from foveal.engine.sinks import LineSink, whole_rows
from foveal.labels import table
from tests.checkpoints import write_run

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    return write_run(tmp_path_factory.mktemp('runs') / 'run')


def predict(*arguments: Any, status: int = 0) -> None:
    assert cli.main(['predict', *map(str, arguments)]) == status


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# rows


def test_every_format_says_the_same(run: Path, folder: Path, tmp_path: Path) -> None:
    images, model = folder / 'val', checkpoint.load_model(str(run))
    files = sorted(str(path) for path in images.rglob('*.png'))
    asked = ['--embeddings', '--all-scores', '--topk', '2', '--include-index', '--batch-size', '5']
    for ending in ('csv', 'json', 'jsonl', 'parquet'):
        predict(run, images, *asked, '--output', tmp_path / f'out.{ending}')
    assert len(os.listdir(tmp_path)) == 4, 'nothing of the parts is left'
    table_ = parquet.read_table(tmp_path / 'out.parquet').to_pylist()
    documents = json.loads((tmp_path / 'out.json').read_text())
    assert documents == lines(tmp_path / 'out.jsonl')
    with (tmp_path / 'out.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['file'] for row in table_] == [row['file'] for row in rows] == files
    # by hand, image by image
    from foveal.data import create_transform
    from foveal.data.images import Picture

    transform = create_transform(**model.preprocess)
    for row, document, cells in zip(table_, documents, rows, strict=True):
        picture = Picture(Path(row['file']).read_bytes(), 3)
        image = transform(picture, np.random.default_rng(0))[None]
        with torch.no_grad():
            features = model.model.forward_features(image)
            seen = model.model.forward_head(features, pre_logits=True)[0]
            chances = model.model(image)[0].softmax(0)
        # batches of another size round otherwise
        np.testing.assert_allclose(row['embedding'], seen, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(row['scores'], chances, rtol=1e-3, atol=1e-5)
        best = chances.argsort(descending=True)
        assert [row['index1'], row['index2']] == best[:2].tolist()
        assert row['label1'] == model.classes[best[0]] == cells['label1'] == document['predictions'][0]['label']
        assert row['probability1'] == pytest.approx(chances[best[0]].item(), rel=1e-3)
        assert float(cells['probability1']) == pytest.approx(row['probability1'], abs=1e-6)
        np.testing.assert_allclose(document['embedding'], row['embedding'], rtol=1e-6)
        assert float(cells['embedding3']) == pytest.approx(row['embedding'][3], rel=1e-6)
        assert float(cells['score2']) == pytest.approx(row['scores'][2], rel=1e-6)


def test_logits_and_several_labels(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = folder / 'val' / 'red' / '0.png'

    def said(*options: str) -> dict[str, float]:
        capsys.readouterr()
        predict(run, image, '--format', 'jsonl', '--topk', '3', *options)
        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        score = 'logit' if 'logit' in options else 'probability'
        return {guess['label']: guess[score] for guess in row['predictions']}

    logits, chances, each = said('--scores', 'logit'), said(), said('--multi-label')
    values = torch.tensor(list(logits.values()))
    # rows are rounded to six places
    assert list(chances.values()) == pytest.approx(values.softmax(0).tolist(), abs=2e-6)
    assert list(each.values()) == pytest.approx(values.sigmoid().tolist(), abs=2e-6)
    assert said('--threshold', '0.999999') == {}
    assert len(said('--multi-label', '--threshold', f'{sorted(each.values())[1] - 1e-4}')) == 2


def test_what_classes_are_called() -> None:
    labels = table('imagenet-1k')[:2]
    assert names_of(labels, 2, 'name') == ['n01440764', 'n01443537']
    assert names_of(labels, 2, 'description') == ['tench', 'goldfish']
    assert names_of(labels, 2, 'detailed')[0] == 'n01440764: tench'
    assert names_of(labels, 2, 'index') == names_of(None, 2, 'name') == ['0', '1']
    with pytest.raises(ValueError, match='label_type must be one of name, description, detailed, index'):
        names_of(labels, 2, 'names')


def test_images_are_found_in_order(tmp_path: Path) -> None:
    for name in ('b/10.png', 'b/9.png', 'a.jpg', 'b/note.txt', 'b/c/1.PNG'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    found = [os.path.relpath(path, tmp_path) for path in find_images([str(tmp_path)])]
    assert found == ['a.jpg', 'b/9.png', 'b/10.png', 'b/c/1.PNG']
    found = [os.path.relpath(path, tmp_path) for path in find_images([str(tmp_path / 'b' / '*.png')])]
    assert found == ['b/9.png', 'b/10.png']
    with pytest.raises(FileNotFoundError, match=r'\*\.gif fits no file'):
        list(find_images([str(tmp_path / '*.gif')]))


def test_data_sets_are_sources_too(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / 'a.npz', images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.arange(3))
    predict(run, tmp_path / 'a.npz', '--format', 'csv', '--topk', '1')
    assert len(capsys.readouterr().out.splitlines()) == 4
    predict(run, tmp_path / 'a.npz', folder, status=2)
    assert 'give a data set alone' in capsys.readouterr().err


@pytest.mark.parametrize('workers', [0, 2])
def test_images_that_cannot_be_read_are_rows(run: Path, folder: Path, tmp_path: Path, workers: int) -> None:
    """Among the others, in a batch of their own, and last."""
    bad = {0, 4, 5, 11}
    for i, path in enumerate(sorted((folder / 'val').rglob('*.png'))):
        (tmp_path / f'{i}.png').write_bytes(b'no image' if i in bad else path.read_bytes())
    output = tmp_path / 'out.jsonl'
    arguments = [run, tmp_path, '--output', output, '--batch-size', '2', '--workers', workers]
    predict(*arguments, status=2)
    predict(*arguments, '--bad-samples', 'skip')
    rows = lines(output)
    assert [row['file'] for row in rows] == [str(tmp_path / f'{i}.png') for i in range(12)]
    assert {i for i, row in enumerate(rows) if 'error' in row} == bad
    assert 'cannot identify its format' in rows[4]['error']
    predict(*arguments, '--bad-samples', 'skip', '--bad-limit', '3', status=2)


# files that can be gone on with


@pytest.mark.parametrize('ending', ['csv', 'jsonl', 'json', 'parquet'])
def test_a_stopped_run_goes_on(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """After every number of batches, with half a row at the end: the same file as of one run."""
    monkeypatch.setattr(sinks, 'PART_ROWS', 2)
    arguments = [run, folder / 'val', '--topk', '1', '--batch-size', '3']
    whole, output = tmp_path / f'whole.{ending}', tmp_path / f'out.{ending}'
    predict(*arguments, '--output', whole)
    kind = sinks.ParquetSink if ending == 'parquet' else LineSink
    write = kind.write
    for stop in range(4):
        made = []

        def dying(self: Any, rows: Any, stop: int = stop, made: list[Any] = made) -> None:
            if len(made) == stop:
                raise OSError(28, 'No space left on device')
            made.append(None)
            write(self, rows)

        with monkeypatch.context() as patch:
            patch.setattr(kind, 'write', dying)
            predict(*arguments, '--output', output, status=2)
        assert not output.exists()
        part = Path(f'{output}.part')
        if part.is_file():
            with part.open('ab') as file:
                file.write(b'{"file": "ha' if ending != 'csv' else b'"ha\nlf')
        if stop:
            predict(*arguments, '--output', output, status=2)  # nobody said what to do with the rows
        predict(*arguments, '--output', output, '--topk', '2', '--resume', status=2)  # other rows
        predict(*arguments, '--output', output, '--resume', '--batch-size', '5')
        if ending == 'parquet':
            assert parquet.read_table(output).equals(parquet.read_table(whole))
        else:
            assert output.read_bytes() == whole.read_bytes()
        predict(*arguments, '--output', output, '--resume')  # nothing is left
        assert len(os.listdir(tmp_path)) == 2
        output.unlink()


def test_other_images_are_not_gone_on_with(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'out.csv'
    predict(run, folder / 'val', '--output', output)
    os.rename(output, f'{output}.part')
    asked = tmp_path / 'out.csv.part.json'
    from foveal.commands.predict import OF_ROWS
    from foveal.engine.judging import PredictConfig

    config = PredictConfig(source=str(run), images=[str(folder / 'train')])
    asked.write_text(json.dumps({name: getattr(config, name) for name in OF_ROWS} | {'format': 'csv'}))
    predict(run, folder / 'train', '--output', output, '--resume', status=2)
    assert 'other images' in capsys.readouterr().err


def test_a_killed_run_goes_on(run: Path, folder: Path, tmp_path: Path) -> None:
    """Killed in the middle of writing, by a process that cannot tidy up."""
    output = tmp_path / 'out.csv'
    arguments = ['predict', str(run), str(folder / 'train'), '--output', str(output), '--batch-size', '4']
    script = (
        'import os, sys\n'
        'from foveal import cli\n'
        'from foveal.engine.sinks import LineSink\n'
        'write, calls = LineSink.write, []\n'
        'def dying(self, rows):\n'
        '    calls.append(1)\n'
        '    write(self, rows)\n'
        '    if len(calls) == 5: os.truncate(self.part, os.path.getsize(self.part) - 7); os._exit(9)\n'
        'LineSink.write = dying\n'
        'sys.exit(cli.main(sys.argv[1:]))\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent.parent)}
    assert subprocess.run([sys.executable, '-c', script, *arguments], env=environment, check=False).returncode == 9
    predict(*arguments[1:], '--resume')
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row['file'] for row in rows}) == 48


def test_rows_go_over_lines_where_names_do(tmp_path: Path) -> None:
    path = tmp_path / 'rows'
    path.write_bytes(b'a,b\n"x\ny",1\nz,2\n"hal')
    with path.open('rb') as file:
        assert list(whole_rows(file, is_csv=True)) == [b'a,b\n', b'"x\ny",1\n', b'z,2\n']


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A file's name may be any bytes."""
    name = os.fsdecode(b'caf\xe9,"\n.png')
    record = Record(1, 'probability', True, 0, 0, True)
    rows = [Prediction(name, [Guess('red', 2, 0.5)]), Prediction('b', [], error='broken')]
    for ending in ('csv', 'jsonl'):
        sink = LineSink(str(tmp_path / f'out.{ending}'), ending, record, {})
        assert sink.begin(False)
        sink.write(rows[:1])
        again = LineSink(str(tmp_path / f'out.{ending}'), ending, record, {})
        assert again.begin(True)
        assert (again.done, again.last) == (1, name)
        again.write(rows[1:])
        again.finish()
        assert os.fsencode('caf') in (tmp_path / f'out.{ending}').read_bytes()
    with (tmp_path / 'out.csv').open(errors='surrogateescape', newline='') as file:
        found = list(csv.DictReader(file))
    assert found[0] == {'file': name, 'label1': 'red', 'index1': '2', 'probability1': '0.500000', 'error': ''}
    assert found[1] == {'file': 'b', 'label1': '', 'index1': '', 'probability1': '', 'error': 'broken'}


# maps


def test_grad_cam_equals_its_formula() -> None:
    """Of a model with mean pooling and a linear classifier, a channel's weight is its class's: CAM itself."""
    torch.manual_seed(0)
    model = create_model('test_resnet', num_classes=5).eval()
    images, classes = torch.randn(2, 3, 64, 96), torch.tensor([3, 1])
    found = grad_cam(model, images, classes)
    assert found.shape == (2, 64, 96)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        maps = model.forward_features(images)
        weights = model.get_classifier().weight[classes]
    expected = torch.einsum('bc,bchw->bhw', weights, maps).relu()
    expected = nn.functional.interpolate(expected[:, None], (64, 96), mode='bilinear')[:, 0]
    expected /= expected.amax((1, 2), keepdim=True).clamp(min=1e-12)
    assert expected.max() == 1
    # float32 gradients through the pooling, a quotient of two small sums
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('name', ['test_convnext', 'test_vit', 'test_efficientnet', 'deit_tiny_distilled_patch16_224',
                                  'swin_tiny_patch4_window7_224', 'hrnet_w18_small', 'mixer_s32_224'])  # fmt: skip
def test_maps_of_every_kind_of_model(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=4).eval()
    size = model.input_shape[1:]
    found = grad_cam(model, torch.randn(1, 3, *size), torch.tensor([2]))
    assert found.shape == (1, *size)
    assert found.min() >= 0
    assert found.max() == pytest.approx(1, abs=1e-5)


def test_a_map_lies_where_the_class_is() -> None:
    """No training is needed: the classifier looks at the channel that one lit corner raises."""
    torch.manual_seed(0)
    model = create_model('test_resnet', num_classes=2).eval()
    with torch.no_grad():
        image = torch.zeros(1, 3, 128, 128)
        image[..., :32, 96:] = 3
        maps = model.forward_features(image) - model.forward_features(torch.zeros(1, 3, 128, 128))
        channel = maps[0].amax((1, 2)).argmax()
        model.get_classifier().weight.zero_()[1, channel] = 1
    found = grad_cam(model, image, torch.tensor([1]))[0]
    y, x = divmod(int(found.argmax()), 128)
    assert y < 80
    assert x > 48


def test_a_level_that_nothing_depends_on_is_refused() -> None:
    model = create_model('test_vit', num_classes=2).eval()
    images = torch.randn(1, 3, *model.input_shape[1:])
    with pytest.raises(ValueError, match='do not depend on the map of level -1; take one before it'):
        grad_cam(model, images, torch.tensor([0]), level=-1)
    with pytest.raises(ValueError, match='indices'):
        grad_cam(model, images, torch.tensor([0]), level=99)


def rollout_by_hand(model: Any, images: Tensor) -> Tensor:
    """Attention of every block in float64, from its weights alone."""
    x = model.embed(images)
    total = torch.eye(x.shape[1], dtype=torch.float64)
    for block in model.blocks:
        attn = block.attn
        inside = block.norm1(x).double()
        qkv = inside @ attn.qkv.weight.double().T + attn.qkv.bias.double()
        q, k, _ = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * attn.head_dim**-0.5, -1).mean(1)
        mixed = weights + torch.eye(weights.shape[-1], dtype=torch.float64)
        total = mixed / mixed.sum(-1, keepdim=True) @ total
        x = block(x)
    return total


@pytest.mark.parametrize('name', ['test_vit', 'deit_tiny_distilled_patch16_224'])
def test_rollout_equals_its_formula(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=2).eval()
    # new weights attend to all alike
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(20)
    images = torch.randn(2, 3, *model.input_shape[1:])
    found = attention_rollout(model, images)
    with torch.no_grad():
        expected = rollout_by_hand(model, images)[:, 0, model.num_prefix_tokens :]
    side = int(expected.shape[1] ** 0.5)
    expected = nn.functional.interpolate(expected.view(2, 1, side, side), found.shape[1:], mode='bilinear')[:, 0]
    expected /= expected.amax((1, 2), keepdim=True)
    # float32 against float64
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-3)
    assert found.std() > 0.01


@pytest.mark.parametrize('name', ['test_resnet', 'swin_tiny_patch4_window7_224', 'vit_dpwee_patch16_reg1_gap_256'])
def test_rollout_refuses_what_does_not_attend_plainly(name: str) -> None:
    with torch.device('meta'):
        model = create_model(name)
    with pytest.raises(ValueError, match='attention maps need a plain vision transformer'):
        attention_rollout(model, torch.zeros(1, 3, 224, 224))


def test_pictures_of_maps(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(run, folder / 'val' / 'red', '--cam', tmp_path / 'cam', '--cam-class', 'green', '--format', 'csv')
    assert sorted(os.listdir(tmp_path / 'cam')) == [f'{i:06d}-{i}.png' for i in range(4)]
    with Image.open(tmp_path / 'cam' / '000002-2.png') as image, Image.open(folder / 'val/red/2.png') as original:
        assert image.size == (64, 32)
        left = np.asarray(image)[:, :32].astype(int)
        # the model's view is the middle of the image
        assert np.abs(left.mean((0, 1)) - np.asarray(original).mean((0, 1))).max() < 12
    predict(run, folder / 'val' / 'red', '--attention', tmp_path / 'attention', status=2)
    assert 'need a plain vision transformer' in capsys.readouterr().err
    predict(run, folder / 'val' / 'red', '--cam', tmp_path / 'cam', '--cam-class', 'greem', status=2)
    assert "did you mean 'green'" in capsys.readouterr().err


def test_pictures_of_attention(folder: Path, tmp_path: Path) -> None:
    """At another size than the model was made for."""
    run = write_run(tmp_path / 'run', 'test_vit', img_size=64)
    predict(run, folder / 'val' / 'red', '--attention', tmp_path / 'maps', '--tta', 'flip', '--batch-size', '3')
    assert sorted(os.listdir(tmp_path / 'maps')) == [f'{i:06d}-{i}.png' for i in range(4)]
    with Image.open(tmp_path / 'maps' / '000003-3.png') as image:
        assert image.size == (128, 64)
        assert np.asarray(image)[:, 64:].std() > 5


def test_an_overlay_is_hot_where_the_map_is() -> None:
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    picture = np.asarray(overlay(np.full((4, 4, 3), 128, np.uint8), heat)).astype(int)
    assert (picture[:, :4] == 128).all()
    assert picture[0, 4, 0] > picture[0, 4, 2], 'red'
    assert picture[3, 7, 2] >= picture[3, 7, 0], 'blue'


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--topk', '0'], 'topk must be at least 1, got 0; 0 is for embeddings'),
        (['--format', 'parquet'], 'format=parquet needs an output'),
        (['--resume'], 'resume goes on with an output'),
        (['--output', 'rows.xlsx'], 'output must end in .csv, .json, .jsonl or .parquet'),
        (['--scores', 'odds'], "scores must be one of probability, logit, got 'odds'"),
        (['--threshold', '2'], r'threshold must be in [0, 1], got 2'),
        (['--embeddings', '--tta', 'flip'], 'embeddings are of one view'),
        (['--label-type', 'names'], 'label_type must be one of'),
    ],
)
def test_mistakes_are_named(
    run: Path, folder: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(run, folder / 'val', *options, status=2)
    assert said in capsys.readouterr().err
