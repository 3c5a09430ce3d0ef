"""`foveal data check` finds what was put into a data set; `foveal data pack` loses nothing of it."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from foveal.cli import main
from foveal.data import create_dataset
from foveal.data.check import check
from foveal.data.check_report import report
from foveal.data.images import decode
from foveal.data.pack import PackOptions, pack
from foveal.data.source import Source, open_source

RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / '.cache'))


def write(path: Path, pixels: np.ndarray, **options: Any) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def photos(root: Path) -> dict[str, np.ndarray]:
    """Ten images of two classes, with every fault that a check should find; returns those that can be read."""
    made = {}
    for name in ('train/cat/1.png', 'train/cat/2.png', 'train/cat/3.png', 'train/dog/1.bmp', 'val/cat/1.png'):
        made[name] = write(root / name, noise())
    made['val/dog/1.png'] = write(root / 'val/dog/1.png', noise(50, 40))
    # the same pixels: in the other split and of another format; under another class
    made['val/cat/again.bmp'] = write(root / 'val/cat/again.bmp', made['train/cat/1.png'])
    made['train/dog/again.png'] = write(root / 'train/dog/again.png', made['train/cat/2.png'])
    made['train/dog/2.jpg'] = write(root / 'train/dog/2.jpg', noise(), format='png')
    (root / 'train/dog/cut.png').write_bytes((root / 'train/cat/3.png').read_bytes()[:200])
    (root / 'train/dog/none.jpeg').write_bytes(b'')
    return made


@pytest.mark.parametrize('workers', ['0', '2'])
def test_check_finds_what_is_wrong(tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = photos(tmp_path / 'photos')
    out = tmp_path / 'report'
    status = main(['data', 'check', str(tmp_path / 'photos'), '--output', str(out), '--workers', workers])
    assert status == 1
    said = capsys.readouterr().out
    for part in (
        'dog/cut.png: ',
        'dog/none.jpeg: the file is empty',
        'dog/2.jpg: is PNG',
        'train: 2 of 8 images cannot',
    ):
        assert part in said
    found = json.loads((out / 'check.json').read_text())
    train, val = (found['splits'][name] for name in ('train', 'validation'))
    assert (train['count'], train['readable'], val['count']) == (8, 6, 3)
    assert [entry['name'] for entry in train['unreadable']['listed']] == ['dog/cut.png', 'dog/none.jpeg']
    assert train['misnamed']['listed'] == [{'name': 'dog/2.jpg', 'format': 'PNG'}]
    assert train['formats'] == {'PNG RGB': 5, 'BMP RGB': 1}
    assert (val['width'], val['sizes']) == ({'min': 30, 'median': 30, 'max': 40}, [[30, 20, 2], [40, 50, 1]])
    assert train['balance'] == {'cat': 3, 'dog': 5}
    names = lambda listed: [[f'{e["split"]}/{e["name"]}' for e in group] for group in listed]  # noqa: E731
    leak, conflict = ['train/cat/1.png', 'validation/cat/again.bmp'], ['train/cat/2.png', 'train/dog/again.png']
    assert names(found['duplicates']['listed']) == [leak, conflict]
    assert names(found['leaks']['listed']) == [leak]
    assert names(found['conflicts']['listed']) == [conflict]
    readable = [pixels / 255 for name, pixels in made.items() if name.startswith('train')]
    mean = np.mean([pixels.mean((0, 1)) for pixels in readable], 0)
    square = np.mean([(pixels**2).mean((0, 1)) for pixels in readable], 0)
    # the report is rounded to six digits
    np.testing.assert_allclose(train['mean'], mean, atol=1e-6)
    np.testing.assert_allclose(train['std'], np.sqrt(square - mean**2), atol=1e-6)
    with Image.open(out / 'sheet.png') as sheet:
        pixels = np.asarray(sheet)
    # four rows of classes and two of the same pixels, each image with its own pixels enlarged
    assert pixels.shape == (6 * 100 + 4, 190 + 10 * 100, 3)
    blown = np.asarray(Image.fromarray(made['val/cat/again.bmp']).resize((90, 60), Image.Resampling.NEAREST))
    windows = [pixels[4 + 100 * 4 + 18 :, 190 + 100 * i + 3 :][:60, :90] for i in (0, 1)]
    assert all(np.array_equal(window, blown) for window in windows)


def test_check_of_what_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        write(tmp_path / 'all' / 'ab'[i % 2] / f'{i}.png', noise())
    assert main(['data', 'check', str(tmp_path / 'all'), '--workers', '0']) == 0
    assert 'problem' not in capsys.readouterr().out
    assert main(['data', 'check', str(tmp_path / 'all'), '--splits', 'train,test', '--workers', '0']) == 0
    assert main(['data', 'check', str(tmp_path / 'none')]) == 2
    assert main(['data', 'check', str(tmp_path / 'all'), '--splits', 'extra']) == 2
    assert main(['data', 'chek', str(tmp_path / 'all')]) == 2
    assert "did you mean 'check'" in capsys.readouterr().err


def test_check_of_other_labels_and_of_streams(tmp_path: Path) -> None:
    np.savez(tmp_path / 'n.npz', images=np.stack([noise() for _ in range(4)]), labels=[0.5, 2, 1, 4])
    readers = {'train': open_source(Source(str(tmp_path / 'n.npz')))}
    found = report(check(readers))['splits']['train']
    assert found['numbers'] == {'value': {'min': 0.5, 'mean': 1.875, 'max': 4.0}}
    assert found['formats'] == {'array uint8 3': 4}
    np.savez(tmp_path / 'm.npz', images=np.stack([noise() for _ in range(3)]), labels=[[1, 0, 1], [1, 0, 0], [0, 0, 1]])
    found = report(check({'train': open_source(Source(str(tmp_path / 'm.npz')))}))['splits']['train']
    assert (found['balance'], found['empty_classes']) == ({'0': 2, '1': 0, '2': 2}, ['1'])
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, 'png')
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode='w') as tar:
        for name, content in (
            ('a.png', file.getvalue()),
            ('a.cls', b'1'),
            ('b.cls', b'0'),
            ('c.png', b'x'),
            ('c.cls', b'1'),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    fsspec.filesystem('memory').pipe('/checked/s-0.tar', shard.getvalue())
    stream = open_source(Source('wds/', 'memory://checked', 'train', numbering={'x': 0, 'y': 1}))
    found = report(check({'train': stream}))['splits']['train']
    assert (found['count'], found['readable'], found['balance']) == (3, 1, {'x': 1, 'y': 2})
    assert [entry['name'] for entry in found['unreadable']['listed']] == [
        f'memory://checked/s-0.tar:{i}' for i in (1, 2)
    ]


def many(root: Path, count: int = 23) -> Path:
    for i in range(count):
        write(root / 'train' / 'abc'[i % 3] / f'{i}.jpg', noise(40 + i, 60), quality=90)
        write(root / 'val' / 'abc'[i % 3] / f'{i}.png', noise())
    return root


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_packing_loses_nothing_and_is_the_same_every_time(tmp_path: Path) -> None:
    root = many(tmp_path / 'photos')
    runs = [tmp_path / 'packed0', tmp_path / 'packed2']
    for run, workers in zip(runs, ('0', '2'), strict=True):
        assert main(['data', 'pack', str(root), str(run), '--shard-size', '10', '--workers', workers]) == 0
    assert contents(runs[0]) == contents(runs[1])
    info = json.loads((runs[0] / '_info.json').read_text())
    assert info['splits']['train']['shard_lengths'] == [10, 10, 3]
    assert info['splits']['train']['sha256'][2] == contents(runs[0])['train-000002.tar']
    assert (runs[0] / 'train-000000.tar.index.npz').is_file()
    assert not (runs[0] / '.packing').exists()
    for split in ('train', 'val'):
        source, packed = create_dataset(str(root), split=split), create_dataset(str(runs[0]), split=split)
        assert packed.classes == source.classes
        assert packed.targets == source.targets
        assert [packed.reader.read(i) for i in range(23)] == [source.reader.read(i) for i in range(23)]
    assert not (tmp_path / '.cache').exists()
    # at an address, where the indexes beside the shards are all that is read of them at first
    system = fsspec.filesystem('memory')
    for path in runs[0].iterdir():
        system.pipe(f'/packed/{path.name}', path.read_bytes())
    remote = create_dataset('wds/memory://packed', split='train')
    source = create_dataset(str(root), split='train')
    assert [remote.reader.read(i) for i in range(23)] == [source.reader.read(i) for i in range(23)]
    assert remote.targets == source.targets
    with tarfile.open(runs[0] / 'train-000001.tar') as tar:
        about = tar.extractfile('00000010.json')
        assert about is not None
        assert json.loads(about.read()) == {'filename': create_dataset(str(root), split='train').name(10), 'class': 'b'}
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, '')}


def test_a_stream_is_packed_shard_by_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shards at an address, without an index beside them; stopped at a bad image, and gone on with."""
    root = many(tmp_path / 'photos')
    assert main(['data', 'pack', str(root), str(tmp_path / 'local'), '--shard-size', '10']) == 0
    system = fsspec.filesystem('memory')
    for path in (tmp_path / 'local').iterdir():
        if not path.name.endswith('.npz'):
            system.pipe(f'/unindexed/{path.name}', path.read_bytes())
    address, shard = 'wds/memory://unindexed', '/unindexed/train-000001.tar'
    whole = system.cat_file(shard)
    image = create_dataset(str(root), split='train').reader.read(12)
    system.pipe(shard, whole.replace(image, bytes(len(image))))
    part = tmp_path / 'part'
    assert main(['data', 'pack', address, str(part), '--workers', '0']) == 2
    assert 'cannot pack 00000012' in capsys.readouterr().err
    before = {path.name: path.stat().st_ino for path in part.glob('*.tar')}
    assert list(before) == ['train-000000.tar']
    system.pipe(shard, whole)
    for output, workers in ((part, '0'), (tmp_path / 'again', '2')):
        assert main(['data', 'pack', address, str(output), '--workers', workers]) == 0
    assert before.items() <= {path.name: path.stat().st_ino for path in part.glob('*.tar')}.items()
    assert contents(part) == contents(tmp_path / 'again')
    assert json.loads((part / '_info.json').read_text())['splits']['train']['shard_lengths'] == [10, 10, 3]
    for split in ('train', 'val'):
        source, packed = create_dataset(str(root), split=split), create_dataset(str(part), split=split)
        assert (packed.classes, packed.targets) == (source.classes, source.targets)
        assert [packed.reader.read(i) for i in range(23)] == [source.reader.read(i) for i in range(23)]
    assert main(['data', 'pack', address, str(tmp_path / 'new'), '--seed', '1']) == 2
    assert 'is a stream, which seed cannot shuffle' in capsys.readouterr().err
    assert main(['data', 'pack', address, str(part), '--size', '8']) == 2
    assert 'other data or options' in capsys.readouterr().err


def test_packing_shrinks_and_shuffles(tmp_path: Path) -> None:
    root = many(tmp_path / 'photos')
    source: Any = open_source(Source(str(root), split='train'))
    options = PackOptions(size=32, quality=80, seed=5, shard_size=12)
    pack({'train': source}, tmp_path / 'packed', options)
    packed: Any = open_source(Source(str(tmp_path / 'packed'), split='train'))
    about = [json.loads(tar_member(tmp_path / 'packed', i, 12)) for i in range(23)]
    names = [entry['filename'] for entry in about]
    assert sorted(names) == sorted(source.name(i) for i in range(23))
    assert names != [source.name(i) for i in range(23)]
    for i in range(23):
        original = Image.open(root / 'train' / names[i])
        with Image.open(io.BytesIO(packed.read(i))) as image:
            assert min(image.size) == 32
            assert image.format == 'JPEG'
            assert abs(image.width / image.height - original.width / original.height) < 0.03
        shrunk = np.asarray(original.resize(image.size, Image.Resampling.BICUBIC), np.float64)
        # what quality 80 costs on noise, the worst that there is to compress
        assert np.abs(decode(packed.read(i)) - shrunk).mean() < 16
        assert packed.classes[packed.targets[i]] == names[i].split('/')[0] == about[i]['class']


def tar_member(folder: Path, number: int, size: int) -> bytes:
    with tarfile.open(folder / f'train-{number // size:06}.tar') as tar:
        file = tar.extractfile(f'{number:08}.json')
        assert file is not None
        return file.read()


@pytest.mark.parametrize('task', ['labels', 'numbers'])
def test_packing_keeps_other_labels_and_deep_pixels(tmp_path: Path, task: str) -> None:
    images = RNG.integers(0, 65536, (5, 6, 7, 4), dtype=np.uint16)
    labels = {'labels': np.eye(5, 3, dtype=int), 'numbers': RNG.normal(size=(5, 2)).astype(np.float32)}[task]
    np.savez(tmp_path / 'x.npz', images=images, labels=labels)
    options = {'target_format': 'numbers'} if task == 'numbers' else {}
    source: Any = open_source(Source(str(tmp_path / 'x.npz'), **options))
    pack({'train': source}, tmp_path / 'packed', PackOptions(channels=4))
    packed: Any = open_source(Source(str(tmp_path / 'packed'), split='train'))
    assert packed.task == task
    np.testing.assert_array_equal(np.stack(list(packed.targets)), labels)
    for i in range(5):
        np.testing.assert_array_equal(decode(packed.read(i), 4), images[i])


def test_packing_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = many(tmp_path / 'photos')
    arguments = ['--shard-size', '5', '--workers', '0']
    assert main(['data', 'pack', str(root), str(tmp_path / 'whole'), *arguments]) == 0
    bad = root / 'train' / 'c' / '2.jpg'
    good = bad.read_bytes()
    bad.write_bytes(good[:500])
    part = str(tmp_path / 'part')
    assert main(['data', 'pack', str(root), part, *arguments]) == 2
    assert 'cannot pack c/2.jpg' in capsys.readouterr().err
    before = {path.name: path.stat().st_ino for path in Path(part).glob('*.tar')}
    assert len(before) == 3  # classes a and b, and the beginning of c, came before
    # left by a run that was killed while it wrote
    (tmp_path / 'part' / '.train-000004.tar.x1y2.tar').write_bytes(b'half')
    (tmp_path / 'part' / 'train-000003.tar').write_bytes(b'half')
    bad.write_bytes(good)
    assert main(['data', 'pack', str(root), part, *arguments]) == 0
    after = {path.name: path.stat().st_ino for path in Path(part).glob('*.tar')}
    assert before.items() <= after.items()
    assert contents(tmp_path / 'part') == contents(tmp_path / 'whole')
    assert main(['data', 'pack', str(root), part, *arguments]) == 0
    capsys.readouterr()
    for options, said in ((['--seed', '1'], 'other data or options'), (['--splits', 'train'], 'other data or options')):
        assert main(['data', 'pack', str(root), part, *arguments, *options]) == 2
        assert said in capsys.readouterr().err
    shard = tmp_path / 'part' / 'train-000001.tar'
    shard.write_bytes(shard.read_bytes().replace(b'ustar', b'usta_', 1))
    assert main(['data', 'pack', str(root), part, *arguments]) == 2
    assert 'train-000001.tar of train does not hold what was written' in capsys.readouterr().err


def test_packing_lists_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = many(tmp_path / 'photos')
    (root / 'train' / 'b' / '4.jpg').write_bytes(b'')
    assert main(['data', 'pack', str(root), str(tmp_path / 'out'), '--skip-bad', '--splits', 'train']) == 0
    assert 'train: 22 samples in 1 shards, verified, 1 left out' in capsys.readouterr().out
    info = json.loads((tmp_path / 'out' / '_info.json').read_text())
    assert info['splits']['train']['left_out'] == [{'name': 'b/4.jpg', 'reason': 'the file is empty'}]
    assert len(create_dataset(str(tmp_path / 'out'), split='train')) == 22
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('')
    for output, options, said in (
        ('full', [], 'is not empty'),
        ('new', ['--shard-size', '0'], 'shard_size must be at least 1'),
        ('new', ['--quality', '0'], 'quality must be in 1 to 100'),
        ('new', ['--size', '0'], 'size must be at least 1'),
        ('new', ['--size', '8', '--in-chans', '4'], 'size is for images of 1 or 3 channels'),
        ('new', ['--workers', '-1'], 'workers must be at least 0'),
    ):
        assert main(['data', 'pack', str(root), str(tmp_path / output), *options]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize('command', ['check', 'pack'])
def test_ctrl_c_ends_the_work_without_a_traceback(tmp_path: Path, command: str) -> None:
    root = many(tmp_path / 'photos', 40)
    # one image that takes long enough to be interrupted at: a pipe that nobody writes to
    os.mkfifo(root / 'train' / 'a' / 'zzz.png')
    output = [str(tmp_path / 'out'), '--shard-size', '10'] if command == 'pack' else []
    # where the tests run in the background, SIGINT is ignored, and a child inherits that
    code = 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); '
    arguments = ['data', command, str(root), *output, '--workers', '1']
    code += f'from foveal.cli import main; sys.exit(main({arguments}))'
    process = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True)
    pipe = os.open(root / 'train' / 'a' / 'zzz.png', os.O_WRONLY)  # waits until it is being read
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    os.close(pipe)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'Traceback' not in said
    if command == 'pack':
        (root / 'train' / 'a' / 'zzz.png').unlink()
        assert not list((tmp_path / 'out').glob('.*.tar'))
