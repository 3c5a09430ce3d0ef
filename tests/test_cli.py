"""The command line: what is given and what is said."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from foveal import cli
from foveal.engine import checkpoint
from tests.images import write_folder

torch.set_num_threads(1)
TRAIN = [
    '--model',
    'test_convnext',
    '--img-size',
    '32',
    '--epochs',
    '2',
    '--warmup-epochs',
    '0.5',
    '--batch-size',
    '12',
]
TRAIN += ['--lr', '2e-3', '--workers', '0', '--device', 'cpu', '--threads', '1']
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run's folder."""
    output = tmp_path_factory.mktemp('runs') / 'run'
    assert cli.main(['train', '--data', str(folder), *TRAIN, '--output', str(output)]) == 0
    return output


def says(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command prints that must succeed."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_validate_measures_what_training_measured(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run / 'metrics.csv').open() as file:
        trained = list(csv.DictReader(file))[-1]
    report = tmp_path / 'scores.json'
    out = says(capsys, 'validate', run / 'last.safetensors', '--data', folder, '--per-class', '--output', report)
    scores = json.loads(report.read_text())
    assert scores['count'] == 12
    assert scores['top1'] == pytest.approx(float(trained['val_top1']))
    assert scores['loss'] == pytest.approx(float(trained['val_loss']), rel=1e-5)
    assert scores['preprocess']['input_size'] == [3, 32, 32]
    assert [row['class'] for row in scores['per_class']] == ['blue', 'green', 'red']
    assert '12 images: top-1' in out
    assert 'recall %' in out
    # another size is a wish, not the checkpoint's
    says(capsys, 'validate', run, '--data', folder, '--img-size', '48', '--output', report)
    assert json.loads(report.read_text())['preprocess']['input_size'] == [3, 48, 48]


def test_a_class_without_images_keeps_its_number(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink(folder / 'val' / 'red', tmp_path / 'red')
    says(capsys, 'validate', run, '--data', tmp_path, '--output', tmp_path / 'scores.json')
    rows = json.loads((tmp_path / 'scores.json').read_text())['per_class']
    assert [(row['class'], row['count']) for row in rows] == [('blue', 0), ('green', 0), ('red', 4)]


def test_predict_names_what_it_sees(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [folder / 'val' / 'red' / '0.png', folder / 'val' / 'blue']
    common = ['predict', run, *inputs, '--topk', '2']
    table = says(capsys, *common)
    assert len(table.splitlines()) == 5
    assert 'red' in table.splitlines()[0]
    rows = list(csv.reader(says(capsys, *common, '--format', 'csv').splitlines()))
    assert rows[0] == ['file', 'label1', 'probability1', 'label2', 'probability2']
    assert [row[0] for row in rows[1:]] == [str(inputs[0]), *(str(inputs[1] / f'{i}.png') for i in range(4))]
    assert [row[1] for row in rows[1:]] == ['red'] + ['blue'] * 4
    assert float(rows[1][2]) > float(rows[1][4]) > 0
    file, sheet = tmp_path / 'guesses.json', tmp_path / 'sheet.png'
    assert says(capsys, *common, '--topk', '9', '--format', 'json', '--output', file, '--sheet', sheet) == ''
    guesses = json.loads(file.read_text())
    assert [guess['predictions'][0]['label'] for guess in guesses] == ['red'] + ['blue'] * 4
    assert sum(guess['probability'] for guess in guesses[0]['predictions']) == pytest.approx(1, abs=1e-4)
    with Image.open(sheet) as image:
        assert min(image.size) > 300
        assert len(image.convert('RGB').getcolors(1 << 20)) > 100


def test_a_named_model_takes_a_weights_file(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best weights of a run are a plain safetensors file that create_model loads."""
    (tmp_path / 'names.txt').write_text('blue\ngreen\nred\n')
    options = ['--checkpoint', run / 'best.safetensors', '--model-options.num_classes', '3', '--img-size', '32']
    options += ['--class-map', tmp_path / 'names.txt']
    out = says(capsys, 'predict', 'test_convnext', folder / 'val' / 'green', '--topk', '1', '--format', 'csv', *options)
    assert [line.split(',')[1] for line in out.splitlines()[1:]] == ['green'] * 4
    assert '12 images' in says(capsys, 'validate', 'test_convnext', '--data', folder, *options)


def test_a_yaml_file_holds_options_and_flags_win(run: Path, tmp_path: Path, folder: Path) -> None:
    config = run / 'config.yaml'
    again = tmp_path / 'again'
    assert cli.main(['train', '--config', str(config), '--output', str(again), '--epochs=1', '--no-download']) == 0
    first, second = (yaml.safe_load((path / 'config.yaml').read_text()) for path in (run, again))
    assert {key for key in first if first[key] != second[key]} == {'output', 'epochs'}
    assert first['data'] == str(folder)
    header = checkpoint.load(again).header
    assert header['classes'] == ['blue', 'green', 'red'] == json.loads((again / 'classes.json').read_text())


def test_resuming_by_folder_alone_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = says(capsys, 'train', '--resume', run)
    assert 'going on after 2 epochs' in out
    assert 'best top-1' in out


# what is given -> what is said; {data} is a good folder, {run} a trained run, {tmp} an empty folder
WRONG = [
    ('fly', 'invalid choice'),
    ('train', 'data is missing: give --data FOLDER'),
    ('train --data {tmp}/none', "/none' does not exist"),
    ('train --data {tmp}', 'holds no images'),
    ('train --data {data}/train/red', 'images but no class folders'),
    ('train --data {data} --bach-size 3', "train has no option --bach-size; did you mean 'batch_size'"),
    ('train --data {data} --batch-size x', 'Expected a'),
    ('train --data {data} --batch-size 0', 'batch_size must be at least 1, got 0'),
    ('train --data {data} --model-options 3', 'model_options'),
    ('train --data {data} --model resnet51', "unknown model 'resnet51'"),
    ('train --config {tmp}/none.yaml', 'none.yaml does not exist'),
    ('train --config {data}/train/red/0.png', '0.png is not YAML'),
    ('train --data {data} --output {run}', 'already holds a run'),
    ('train --data {data} --output /proc/none', 'cannot write to output /proc/none'),
    ('train --resume {tmp}', 'holds no last.safetensors'),
    ('validate {run}', 'data is missing'),
    ('validate {tmp}/none --data {data}', 'none does not exist'),
    ('validate {tmp} --data {data}', 'holds no best.safetensors or last.safetensors'),
    ('validate {data}/train/red/0.png --data {data}', '0.png is damaged or no checkpoint'),
    ('validate resnet50 --data {data}', 'needs --pretrained or --checkpoint'),
    ('validate {run} --data {data} --split extra', 'has no extra split, only train, val'),
    ('validate {run} --data {data} --output {tmp}/no/scores.json', 'folder {tmp}/no does not exist'),
    ('validate {run} --data {data} --precision int8', 'precision must be one of fp32, tf32, medium, bf16'),
    ('predict {run}', 'required'),
    ('predict {run} {tmp}/none.png', 'image {tmp}/none.png does not exist'),
    ('predict {run} {tmp}', 'holds no images'),
    ('predict {run} {run}/config.yaml', 'cannot read image {run}/config.yaml'),
    ('predict {run} {data} --format xml', "format must be one of table, csv, json, jsonl, parquet, got 'xml'"),
    ('predict {run} {data} --topk 0', 'topk must be at least 1, got 0'),
    ('predict {run} {data} --sheet {tmp}/no/sheet.png', 'folder {tmp}/no does not exist'),
]


@pytest.mark.parametrize(('given', 'said'), WRONG)
def test_mistakes_are_named(
    given: str, said: str, run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {'data': str(folder), 'run': str(run), 'tmp': str(tmp_path)}
    capsys.readouterr()
    assert cli.main([word.format(**places) for word in given.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith('foveal: ')
    assert said.format(**places) in error
    assert 'Traceback' not in error
    assert not list(tmp_path.iterdir())


def test_other_classes_than_the_models_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_folder(tmp_path / 'other', per_class=4, red=(210, 50, 40), pink=(250, 150, 200))
    assert cli.main(['validate', str(run), '--data', str(other)]) == 2
    assert "class folders ['pink'] that are not among the classes: blue, green, red" in capsys.readouterr().err
    options = ['--checkpoint', str(run / 'best.safetensors'), '--model-options.num_classes', '3']
    assert cli.main(['validate', 'test_convnext', '--data', str(other), *options]) == 2
    assert 'tells 3 classes apart' in capsys.readouterr().err


def test_unknown_keys_of_a_file_name_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'run.yaml'
    for text, said in (
        ('batchsize: 3\n', "train has no option 'batchsize'; did you mean 'batch_size'"),
        ('- 3\n', 'must hold lines of option: value'),
        ('a: [\n', 'is not YAML'),
        ('epochs: many\n', 'Expected a'),
    ):
        path.write_text(text)
        assert cli.main(['train', '--config', str(path)]) == 2
        assert said in capsys.readouterr().err


def test_a_traceback_is_there_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FOVEAL_TRACEBACK', '1')
    with pytest.raises(ValueError, match='data is missing'):
        cli.main(['train'])


@pytest.mark.parametrize('arguments', [['--help'], ['train', '--help'], ['--version'], ['models', 'convnext_a*']])
def test_help_and_search_do_not_import_torch(arguments: list[str]) -> None:
    script = (
        'import sys\nfrom foveal import cli\n'
        'try:\n    status = cli.main(sys.argv[1:])\nexcept SystemExit as end:\n    status = end.code or 0\n'
        'heavy = {"torch", "torchvision", "numpy", "PIL", "matplotlib", "safetensors"} & set(sys.modules)\n'
        'sys.exit(status or (f"imported {heavy}" if heavy else 0))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 5


def test_every_flag_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('train', 'validate', 'predict'):
        with pytest.raises(SystemExit):
            cli.main([name, '--help'])
        text = capsys.readouterr().out
        _, options = text.split('options:', 1)
        for block in options.split('\n  --')[1:]:
            assert len(block.split()) > 5, block


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (['--milestones', '10,20'], [10, 20]),
        (['--milestones=10'], [10]),
        (['--milestones', '[10, 20]'], [10, 20]),
        (['--freeze', 'stem*,*.1', '--milestones', '3'], [3]),
    ],
)
def test_lists_are_given_with_commas(given: list[str], expected: list[int]) -> None:
    values = cli.build_parser().parse_args(['train', *cli.spelled_out('train', given)]).train
    assert values.milestones == expected
    assert values.freeze == (['stem*', '*.1'] if '--freeze' in given else [])
