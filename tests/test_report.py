"""The report of a run: it says what the run's files say, needs nothing else, and shows what came from users as text."""

import csv
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from foveal import cli
from foveal.data import UnreadableImageError
from foveal.engine import checkpoint
from foveal.engine.config import TrainConfig
from foveal.engine.judging import ValidateConfig
from foveal.engine.train import train
from foveal.report.charts import Line, chart
from foveal.report.page import write_comparison, write_report
from tests.images import write_folder

torch.set_num_threads(1)

# what a name may hold that a page must not run, and what an attribute must not end at
EVIL = '<img src=x onerror=alert(1)>'
QUOTED = 'a "b" & \'c\''
CLASSES = {EVIL: (40, 60, 200), QUOTED: (40, 180, 60), 'red': (210, 50, 40)}
VOID = {'area', 'base', 'br', 'col', 'embed', 'hr', 'img', 'input', 'link', 'meta', 'source', 'track', 'wbr'}
REFERENCES = {'src', 'href', 'srcset', 'action', 'data', 'poster', 'xlink:href', 'background'}
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), None)


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    data = write_folder(tmp_path_factory.mktemp('data') / 'shapes', per_class=16, **CLASSES)
    return TrainConfig(
        data=str(data), model='test_convnext', img_size=32, epochs=3, warmup_epochs=0.5, batch_size=12, lr=2e-3,
        workers=0, device='cpu', threads=1, ema=0.5, evaluate_plain=True, log_updates=2, metric='val_loss',
        bad_samples='skip', output=str(data.parent / 'run'),
    )  # fmt: skip


@pytest.fixture(scope='module')
def run(config: TrainConfig) -> Path:
    broken = Path(config.data) / 'train' / 'red' / f'{EVIL}.png'
    broken.write_bytes(b'no picture')
    train(config)
    broken.unlink()
    return Path(config.output)


class Page(HTMLParser):
    """Parses a page strictly: every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: dict[str, list[list[str]]] = {}
        self.values: dict[str, list[list[str | None]]] = {}
        self.table, self.text = '', ''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f'{tag} has an attribute twice'
        self.elements.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'table':
            self.table = given.get('id') or f'table {len(self.cells)}'
            self.cells[self.table], self.values[self.table] = [], []
        if tag == 'tr':
            self.cells[self.table].append([])
            self.values[self.table].append([])
        if tag in ('td', 'th'):
            self.cells[self.table][-1].append('')
            self.values[self.table][-1].append(given.get('data-value'))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f'</{tag}> closes nothing'
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if 'script' not in self.open and 'style' not in self.open:
            self.text += data
        if {'td', 'th'} & set(self.open):
            self.cells[self.table][-1][-1] += data

    def with_head(self, *titles: str) -> str:
        """The name of the table that begins with these headings."""
        return next(name for name, rows in self.cells.items() if tuple(rows[0][: len(titles)]) == titles)


def parsed(path: Path) -> Page:
    """A page, found to be whole, to need nothing else, and to tell who cannot see it the same."""
    text = path.read_text(encoding='utf-8')
    page = Page(text)
    for tag, given in page.elements:
        for name in REFERENCES & given.keys():
            value = given[name] or ''
            assert value.startswith('data:'), f'{tag} refers to {value}'
        assert not [name for name in given if name.startswith('on')], f'{tag} holds script'
        if tag == 'img':
            assert given.get('alt')
        if tag == 'svg':
            assert given.get('role') == 'img'
            assert given.get('aria-label')
        if tag == 'th':
            assert given.get('scope') in ('row', 'col')
        if about := given.get('aria-labelledby'):
            assert about in [other.get('id') for _, other in page.elements]
    ids = Counter(given['id'] for _, given in page.elements if given.get('id'))
    assert set(ids.values()) <= {1}
    assert not re.search(r'@import|url\(|https?://(?!www\.w3\.org/)|fetch\(|XMLHttpRequest', text)
    assert [given['lang'] for tag, given in page.elements if tag == 'html'] == ['en']
    assert page.cells
    assert all(page.cells.values())
    return page


def rows_of(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_its_numbers_are_those_of_the_files(run: Path, config: TrainConfig) -> None:
    page = parsed(run / 'report.html')
    history = rows_of(run / 'metrics.csv')
    assert [[float(x) for x in row if x] for row in page.values['epochs'][1:]] == [[*row.values()] for row in history]
    assert {'plain_loss', 'plain_top1'} <= history[0].keys()
    best = min(history, key=lambda row: row['val_loss'])
    assert f'{best["val_loss"]:.4f}epoch {best["epoch"]:.0f}' in page.text.replace('\n', '')
    options = {row[0]: row[1:] for row in page.cells[page.with_head('option', 'value', 'default')][1:]}
    assert options['lr'] == ['0.002', '0.001']
    assert options['metric'] == ['val_loss', '-']
    assert 'mixup' not in options
    every = {row[0]: row[1] for row in page.cells[page.with_head('option', 'value')][1:]}
    assert set(options) < set(yaml.safe_load((run / 'config.yaml').read_text()))
    assert every['data'] == config.data
    sessions = page.cells[page.with_head('started', 'ended')][1:]
    assert [row[2:4] for row in sessions] == [['finished', '0, 0']]


def test_its_classes_are_those_of_the_best_weights(run: Path, config: TrainConfig) -> None:
    from foveal.engine.distributed import Process
    from foveal.engine.validate import Validator

    page = parsed(run / 'report.html')
    measured = ValidateConfig(source=str(run), data=config.data, device='cpu', workers=0)
    found = Validator(measured, Process(0, 1, torch.device('cpu')))(str(run))
    counts = [[int(cell or 0) for cell in row[1:]] for row in page.cells[page.with_head('', *CLASSES)][1:]]
    assert counts == found.scores.confusion.tolist()
    assert np.sum(counts) == 12
    classes = page.cells[page.with_head('class', 'images', 'recall %')][1:]
    for row, expected in zip(classes, found.result['per_class'], strict=True):
        assert row[0] == expected['class']
        assert [float(x) for x in row[1:3]] == pytest.approx([expected['count'], expected['recall']], abs=0.005)
    worst = json.loads((run / 'evaluation.json').read_text())['worst']
    expected = [(row['name'], row['truth'], row['guess']) for row in found.result['top_losses']]
    assert [(row['name'], row['truth'], row['guess']) for row in worst] == expected
    pictures = [given for tag, given in page.elements if tag == 'img']
    assert [given['src'] for given in pictures] == [row['picture'] for row in worst]


def test_confusions_stand_in_the_row_of_the_truth(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / 'run')
    content = json.loads((copy / 'evaluation.json').read_text())
    content['confusion'] = [[0, 0, 3], [0, 2, 1], [1, 1, 4], [2, 1, 2], [2, 2, 6]]
    (copy / 'evaluation.json').write_text(json.dumps(content))
    page = parsed(write_report(copy))
    matrix = [row[1:] for row in page.cells[page.with_head('', *CLASSES)][1:]]
    assert matrix == [['3', '', '1'], ['', '4', ''], ['', '2', '6']]
    pairs = page.cells[page.with_head('true class', 'guess', 'images')][1:]
    assert pairs == [['red', QUOTED, '2', '25.0'], [EVIL, 'red', '1', '25.0']]


def test_what_users_name_is_text(run: Path) -> None:
    page = parsed(run / 'report.html')
    assert page.text.count(EVIL) >= 3
    assert QUOTED in page.text
    assert 'x' not in [given.get('src') for _, given in page.elements]
    assert any(QUOTED in (given.get('alt') or '') for _, given in page.elements)
    bad = page.cells[page.with_head('set', 'image', 'reason', 'times')][1:]
    assert [row[0] for row in bad] == ['train']
    assert EVIL in bad[0][1]


def test_it_is_made_again_from_the_folder_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(run, tmp_path / run.name)
    (copy / 'report.html').unlink()
    assert cli.main(['report', str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy / 'report.html')
    assert (copy / 'report.html').read_bytes() == (run / 'report.html').read_bytes()
    # a run that was killed has its checkpoints, configuration and what it measured
    for name in ('evaluation.json', 'provenance.json', 'best.safetensors', 'bad_samples.json', 'updates.csv'):
        (copy / name).unlink()
    lines = (copy / 'metrics.csv').read_text().splitlines(keepends=True)
    (copy / 'metrics.csv').write_text(''.join(lines[:-1]) + lines[-1][:10])
    page = parsed(write_report(copy))
    assert 'unfinished' in page.text
    assert len(page.cells['epochs']) == 3
    (copy / 'metrics.csv').unlink()
    assert 'No epoch is done yet' in parsed(write_report(copy)).text


def test_a_run_that_fails_says_why(config: TrainConfig, tmp_path: Path) -> None:
    data = shutil.copytree(config.data, tmp_path / 'shapes')
    (data / 'val' / 'red' / f'{EVIL}.png').write_bytes(b'no picture')
    output = tmp_path / 'run'
    with pytest.raises(UnreadableImageError):
        train(replace(config, data=str(data), bad_samples='raise', output=str(output)))
    page = parsed(output / 'report.html')
    assert 'failed' in page.text
    assert f'{EVIL}.png' in page.text
    assert 'UnreadableImageError' in page.text


def test_a_report_that_cannot_be_written_does_not_hide_the_run(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        del path, text
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('foveal.report.page.write_text', full)
    train(replace(config, epochs=1, warmup_epochs=0, output=str(tmp_path / 'run')))
    assert 'no report: OSError' in capsys.readouterr().out
    assert checkpoint.load(tmp_path / 'run').header['epoch'] == 1


def test_runs_beside_each_other(config: TrainConfig, run: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    train(replace(config, lr=1e-3, epochs=2, ema=0, evaluate_plain=False, metric='', output=str(other)))
    page = parsed(write_comparison([run, other], tmp_path / 'comparison.html'))
    table = page.with_head('run', 'model', 'state')
    assert [row[0] for row in page.cells[table][1:]] == ['run', 'other']
    column = page.cells[table][0].index('validation loss')
    histories = [rows_of(folder / 'metrics.csv') for folder in (run, other)]
    best = min(histories[0], key=lambda row: row['val_loss']), max(histories[1], key=lambda row: row['val_top1'])
    assert [float(row[column] or 'nan') for row in page.values[table][1:]] == [row['val_loss'] for row in best]
    differing = {row[0]: row[1:] for row in page.cells[page.with_head('option', 'run', 'other')][1:]}
    assert differing['lr'] == ['0.002', '0.001']
    assert not {'batch_size', 'output'} & differing.keys()
    assert {row[0] for row in page.cells[page.with_head('class', 'run', 'other')][1:]} == set(CLASSES)


def test_a_chart_goes_through_its_points() -> None:
    drawn = chart('Loss', [Line('a', [1, 2, 3], [4.0, float('nan'), 2.0]), Line('b', [2], [3.0])], ' %')
    assert drawn is not None
    ticks = {float(text): y for y, text in drawn.yticks}
    first, last = (tuple(map(float, point.split(','))) for point in drawn.lines[0][1][1:].split('L'))
    assert (first[1], last[1]) == (ticks[4], ticks[2])
    assert first[0] < float(drawn.lines[1][1][1:].split(',')[0]) < last[0]
    assert [text for *_, text in drawn.bands] == ['epoch 1\na: 4 %', 'epoch 2\nb: 3 %', 'epoch 3\na: 2 %']
    assert drawn.summary.startswith('a: from 4 to 2 %, between 2 and 4; b: from 3 to 3')
    assert chart('Loss', [Line('a', [1], [float('nan')])]) is None
    long = chart('Loss', [Line('a', list(range(100_000)), [float(i) for i in range(100_000)])])
    assert long is not None
    assert len(long.bands) <= 402
    assert long.bands[-1][-1].startswith('epoch 99999')


def test_many_classes_are_a_picture(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / 'run')
    count = 60
    content = json.loads((copy / 'evaluation.json').read_text())
    content['per_class'] = [
        {'class': f'class {i}', 'count': 3, 'recall': 66.7, 'precision': None, 'f1': 50.0} for i in range(count)
    ]
    content['confusion'] = [[i, i, 2] for i in range(count - 1)] + [
        [i, (i + 1) % (count - 1), 1] for i in range(count - 1)
    ]
    (copy / 'evaluation.json').write_text(json.dumps(content))
    page = parsed(write_report(copy))
    # the one that neither occurred nor was named is left out
    picture = next(given for _, given in page.elements if given.get('class') == 'heat')
    assert picture['width'] == picture['height'] == '59'
    pairs = page.cells[page.with_head('true class', 'guess', 'images')][1:]
    assert len(pairs) == 20
    assert pairs[0] == ['class 0', 'class 1', '1', '33.3']


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('report {tmp}', 'no config.yaml'),
        ('report {run} --output {tmp}/none/report.html', 'does not exist'),
        ('report {run} {tmp}/nothing', "nothing is no run's folder"),
    ],
)
def test_mistakes_are_named(
    given: str, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(given.format(run=run, tmp=tmp_path).split()) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_file_is_named(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / 'run')
    (copy / 'evaluation.json').write_text('{')
    with pytest.raises(ValueError, match=r'evaluation\.json is damaged'):
        write_report(copy)


@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium: apt-get install chromium')
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    """Runs where Chromium is found: the page opens from a file without an error, sorts, and fits a telephone."""
    page = (run / 'report.html').read_text(encoding='utf-8')
    look = """<script>
      const button = document.querySelector('#epochs th button');
      button.click(); button.click();
      document.title = JSON.stringify({
        epochs: [...document.querySelectorAll('#epochs tbody tr')].map(row => row.cells[0].textContent),
        sorted: document.querySelector('#epochs th').getAttribute('aria-sort'),
        wide: document.documentElement.scrollWidth, room: innerWidth,
        drawn: [...document.images].every(image => image.naturalWidth > 0),
      });
      parent.postMessage(document.title, '*');
    </script></body>"""
    (tmp_path / 'page.html').write_text(page.replace('</body>', look), encoding='utf-8')
    # a window has a least width, a frame has none
    (tmp_path / 'frame.html').write_text("""<body><script>
      addEventListener('message', event => { document.title = event.data; });
    </script><iframe src="page.html" width="400" height="3000"></iframe></body>""")
    asked = ['--headless=new', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path / "profile"}',
             '--enable-logging=stderr', '--virtual-time-budget=3000', '--dump-dom']  # fmt: skip
    result = subprocess.run(
        [str(CHROMIUM), *asked, (tmp_path / 'frame.html').as_uri()], capture_output=True, text=True, timeout=120
    )
    assert 'CONSOLE' not in result.stderr
    title = re.search(r'<title>(.*?)</title>', result.stdout)
    assert title is not None
    seen = json.loads(title[1])
    assert seen['epochs'] == ['3', '2', '1']
    assert seen['sorted'] == 'descending'
    assert seen['room'] == 400
    assert seen['wide'] <= 400
    assert seen['drawn']
