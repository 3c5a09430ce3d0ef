"""Every source of images gives the images and labels that were put into it."""

import csv
import gzip
import io
import json
import os
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from foveal.data import UnreadableImageError, create_dataset, read_class_map
from foveal.data.images import decode
from foveal.data.labels import Encoder, MultiLabel
from foveal.data.rasters import read_raster
from foveal.data.readers.names import Names
from foveal.data.readers.shard_spec import expand_braces
from foveal.data.source import Source, open_source

RNG = np.random.default_rng(4)
CLASSES = ('cat', 'dog', 'owl')
IMAGES = RNG.integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
LABELS = [0, 0, 1, 1, 2, 2]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'png')
    return file.getvalue()


FILES = [png(image) for image in IMAGES]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / '.cache'))
    monkeypatch.setenv('HF_HOME', str(tmp_path / '.hf'))


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w', format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def by_class(prefix: str = '') -> dict[str, bytes]:
    return {f'{prefix}{CLASSES[label]}/{i}.png': FILES[i] for i, label in enumerate(LABELS)}


def holds_all(data: Any, names: list[str] | None = None) -> None:
    """The six images, in order, with their labels."""
    assert data.classes == list(CLASSES)
    assert data.targets == LABELS
    for i in range(6):
        np.testing.assert_array_equal(data[i][0].permute(1, 2, 0), IMAGES[i])
    assert names is None or [data.name(i) for i in range(6)] == names


def write_folder(root: Path, only: range = range(6)) -> Path:
    for i in only:
        folder = root / CLASSES[LABELS[i]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{i}.png').write_bytes(FILES[i])
    return root


def test_a_reader_is_small_in_a_workers_memory(tmp_path: Path) -> None:
    names = [f'class{i % 1000:04}/n{i:08}_img.JPEG' for i in range(100_000)]
    kept = Names(names)
    assert len(pickle.dumps(kept)) < 1.4 * sum(map(len, names))
    assert [kept[i] for i in (0, 99_999)] == [names[0], names[-1]]
    odd = ['a\udcff.png', 'ä/ß.png', '']
    assert list(Names(odd)) == odd
    for index in (-1, 3):
        with pytest.raises(IndexError):
            Names(odd)[index]
    reader = create_dataset(str(write_folder(tmp_path / 'photos'))).reader
    assert not [value for value in vars(reader).values() if isinstance(value, list) and len(value) > 3]
    copied = pickle.loads(pickle.dumps(reader))
    assert copied.read(3) == reader.read(3) == FILES[3]


@pytest.mark.parametrize('format', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize('prefix', ['', './', 'a/very/long/name' * 8 + '/'])
def test_a_tar_is_read_in_place(tmp_path: Path, format: int, prefix: str) -> None:
    if format == tarfile.USTAR_FORMAT:
        prefix = prefix[-90:]
    tar = write_tar(
        tmp_path / 'photos.tar', by_class(prefix) | {'readme.txt': b'hello', 'cat/.hidden.png': b''}, format
    )
    data = create_dataset(str(tar))
    holds_all(data)
    with tarfile.open(tar) as opened:
        for i in range(6):
            member = opened.extractfile(data.name(i) if './' not in prefix else './' + data.name(i))
            assert member is not None
            assert member.read() == data.reader.read(i)


def test_tars_in_folders_and_in_tars(tmp_path: Path) -> None:
    groups = {name: {f'{i}.png': FILES[i] for i in range(6) if CLASSES[LABELS[i]] == name} for name in CLASSES}
    for name, members in groups.items():
        write_tar(tmp_path / 'tars' / f'{name}.tar', members)
    holds_all(
        create_dataset(str(tmp_path / 'tars')), [f'{CLASSES[label]}.tar/{i}.png' for i, label in enumerate(LABELS)]
    )
    inner = {f'all/{path.name}': path.read_bytes() for path in (tmp_path / 'tars').iterdir()}
    holds_all(create_dataset(str(write_tar(tmp_path / 'nested.tar', inner))))
    # an inner tar without its end marks
    inner = {
        name: content.rstrip(b'\0') + b'\0' * (-len(content.rstrip(b'\0')) % 512) for name, content in inner.items()
    }
    holds_all(create_dataset(str(write_tar(tmp_path / 'cut.tar', inner))))


def test_tars_are_read_without_the_call_that_windows_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, 'pread')
    holds_all(create_dataset(str(write_tar(tmp_path / 'photos.tar', by_class()))))
    inner = {'cat.tar': write_tar(tmp_path / 'one.tar', by_class()).read_bytes()}
    assert len(create_dataset(str(write_tar(tmp_path / 'nested.tar', inner)))) == 6
    shards = {f'{i}.png': FILES[i] for i in range(6)} | {f'{i}.cls': str(LABELS[i]).encode() for i in range(6)}
    write_tar(tmp_path / 'shards' / 'train-0.tar', dict(sorted(shards.items())))
    data = create_dataset('wds/', tmp_path / 'shards', split='train')
    assert [data.reader.read(i) for i in range(6)] == FILES
    assert data.targets == LABELS


def test_splits_in_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / 'train.tar', by_class())
    write_tar(tmp_path / 'VAL.tar', {'cat/9.png': FILES[0]})
    holds_all(create_dataset(root=tmp_path, split='training'))
    assert len(create_dataset(root=tmp_path, split='validation')) == 1
    one = write_tar(tmp_path / 'one' / 'set.tar', by_class('set/train/') | {'set/val/owl/9.png': FILES[0]})
    holds_all(create_dataset(str(one), split='train'))
    assert create_dataset(str(one), split='valid', class_map=CLASSES).targets == [2]
    (tmp_path / 'one' / 'set.tar').rename(tmp_path / 'alone.tar')
    alone = write_tar(tmp_path / 'alone.tar', by_class('set/train/'))
    with pytest.raises(FileNotFoundError, match='no validation split, only train'):
        create_dataset(str(alone), split='validation')


def test_an_index_is_kept_and_made_again_when_the_tar_changes(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / 'photos.tar', by_class())
    holds_all(create_dataset(str(tar)))
    (index,) = (tmp_path / '.cache' / 'foveal' / 'index').iterdir()
    before = index.read_bytes()
    holds_all(create_dataset(str(tar)))
    assert index.read_bytes() == before
    write_tar(tar, {'dog/1.png': FILES[2]})
    assert create_dataset(str(tar)).classes == ['dog']
    assert index.read_bytes() != before
    index.write_bytes(b'damaged')
    assert create_dataset(str(tar)).classes == ['dog']
    # NumPy would have to unpickle an array of objects
    np.savez(index, about=np.array([{}], dtype=object))
    assert create_dataset(str(tar)).classes == ['dog']


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo('cat/link.png')
    info.type, info.linkname = kind, '/etc/passwd'
    return info


@pytest.mark.parametrize(
    ('name', 'kind', 'said'),
    [
        ('../outside/1.png', tarfile.REGTYPE, 'names a path outside'),
        ('/etc/1.png', tarfile.REGTYPE, 'names a path outside'),
        ('cat/../../1.png', tarfile.REGTYPE, 'names a path outside'),
        ('cat/1.png', tarfile.SYMTYPE, 'is a link'),
        ('cat/1.png', tarfile.LNKTYPE, 'is a link'),
        ('cat/1.png', tarfile.FIFOTYPE, 'a device'),
    ],
)
def test_tars_cannot_lead_outside(tmp_path: Path, name: str, kind: bytes, said: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, '/etc/passwd'
    with tarfile.open(tmp_path / 'bad.tar', 'w') as tar:
        tar.addfile(info)
    for spec in ('bad.tar', 'wds/'):
        with pytest.raises(ValueError, match=said):
            create_dataset(str(tmp_path / spec) if spec != 'wds/' else spec, tmp_path, split='bad.tar')


def test_tars_that_cannot_be_read(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / 'whole.tar', by_class()).read_bytes()
    for name, content, said in (
        ('cut.tar', whole[: 6144 - 450], 'cannot be read as a tar|cut off'),
        ('none.tar', b'this is no tar' * 100, 'cannot be read as a tar'),
        ('packed.tar', gzip.compress(whole), 'unpack it first'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said):
            create_dataset(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match='holds no images'):
        create_dataset(str(write_tar(tmp_path / 'empty.tar', {'cat/1.gif': b''})))
    data = create_dataset(str(tmp_path / 'whole.tar'))
    (tmp_path / 'whole.tar').write_bytes(whole[:700])
    with pytest.raises(UnreadableImageError, match=r'owl/5\.png of .*whole\.tar'):
        data.reader.read(5)


def write_csv(path: Path, rows: list[list[Any]], delimiter: str = ',') -> Path:
    with path.open('w', newline='') as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize('kind', ['csv', 'semicolon', 'tsv', 'parquet', 'absolute'])
def test_tables_of_paths_and_labels(tmp_path: Path, kind: str) -> None:
    photos = write_folder(tmp_path / 'photos')
    paths = [f'{CLASSES[label]}/{i}.png' for i, label in enumerate(LABELS)]
    names = [CLASSES[label] for label in LABELS]
    if kind == 'parquet':
        import pyarrow as pa
        from pyarrow import parquet

        table = tmp_path / 'table.parquet'
        parquet.write_table(pa.table({'path': paths, 'label': names}), table)
    else:
        if kind == 'absolute':
            paths = [str(photos / path) for path in paths]
        ending, delimiter = {'semicolon': ('csv', ';'), 'tsv': ('tsv', '\t')}.get(kind, ('csv', ','))
        rows = [['Path', 'label'], *map(list, zip(paths, names, strict=True))]
        table = write_csv(tmp_path / f'table.{ending}', rows, delimiter)
    holds_all(create_dataset(str(table), None if kind == 'absolute' else photos), paths)


def table(tmp_path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    write_folder(tmp_path)
    body = [[f'{CLASSES[LABELS[i]]}/{i}.png', *row] for i, row in enumerate(rows)]
    return write_csv(tmp_path / 'table.csv', [['file', *header], *body])


def test_labels_of_a_table(tmp_path: Path) -> None:
    several = create_dataset(
        str(table(tmp_path, ['tags'], [['b;a'], ['a'], ['c'], ['c|b'], ['a b'], ['']])),
        target_key='tags',
        target_format='indices',
    )
    assert several.classes == ['a', 'b', 'c']
    expected = [[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(several.targets, expected)
    assert several.reader.task == 'labels'
    assert several[0][1].dtype == np.float32
    flags = create_dataset(str(table(tmp_path, ['a', 'b', 'c'], expected)), target_key='a,b,c')
    np.testing.assert_array_equal(flags.targets, expected)
    assert flags.classes == ['a', 'b', 'c']
    values = [[0.5], [-2], [3.25], [1e3], [0], [7]]
    measured = create_dataset(str(table(tmp_path, ['age'], values)), target_key='age')
    assert (measured.reader.task, measured.classes) == ('numbers', ['age'])
    np.testing.assert_array_equal(measured.targets, np.array(values, np.float32))
    both = create_dataset(
        str(table(tmp_path, ['x', 'y'], [[i, i * i] for i in range(6)])), target_key='x,y', target_format='numbers'
    )
    np.testing.assert_array_equal(both.targets, [[i, i * i] for i in range(6)])
    whole = create_dataset(str(table(tmp_path, ['label'], [[10], [9], [9], [2], [10], [2]])))
    assert (whole.classes, whole.targets) == (['2', '9', '10'], [2, 1, 1, 0, 2, 0])
    mapped = create_dataset(str(table(tmp_path, ['label'], [[0], [1], [1], [0], [1], [0]])), class_map=['no', 'yes'])
    assert (mapped.classes, mapped.targets) == (['no', 'yes'], [0, 1, 1, 0, 1, 0])


def test_splits_of_a_table(tmp_path: Path) -> None:
    path = str(table(tmp_path, ['label', 'split'], [[i % 2, 'train' if i < 4 else 'Val'] for i in range(6)]))
    assert create_dataset(path, split='train').targets == [0, 1, 0, 1]
    assert create_dataset(path, split='validation').targets == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"no rows of the split test, only of \['Val', 'train'\]"):
        create_dataset(path, split='test')
    assert len(create_dataset(path, search_split=False)) == 6
    (tmp_path / 'table.csv').rename(tmp_path / 'train.csv')
    assert create_dataset(root=tmp_path, split='train').targets == [0, 1, 0, 1]


def test_unlabelled_images_serve_for_anything_but_training(tmp_path: Path) -> None:
    path = str(table(tmp_path, ['label'], [['a'], ['b'], [''], ['a'], ['b'], ['']]))
    assert create_dataset(path).targets == [0, 1, -1, 0, 1, -1]
    with pytest.raises(ValueError, match=r'2 of 6 training images have no label, such as dog/2\.png'):
        create_dataset(path, is_training=True)


@pytest.mark.parametrize(
    ('content', 'options', 'said'),
    [
        ('file,label\na.png,x\n', {'target_key': 'lable'}, "no column target_key='lable'; did you mean 'label'"),
        ('file,label\na.png,x\n', {'input_key': 'fil'}, "no column input_key='fil'; did you mean 'file'"),
        ('photo,label\na.png,x\n', {}, r"has the columns 'photo', 'label'; which is it\? give input_key"),
        ('file,kind\na.png,x\n', {}, 'give target_key'),
        ('file,label\na.png,x,y\n', {}, 'line 2: 3 cells, but 2 columns'),
        ('file,file\na.png,x\n', {}, 'a row of different names'),
        ('', {}, 'a row of different names'),
        ('file,label\n', {}, 'has no rows'),
        ('file,label\n,x\n', {}, "column 'file' of row 1 is empty"),
        ('file,label\na.png,x\n', {'class_map': ['y']}, r"classes \['x'\] that are not among the classes: y"),
        ('file,label\na.png,7\n', {'class_map': ['y', 'z']}, "'7' of a.png is out of range: .* 2 classes, 0 to 1"),
        ('file,a,b\na.png,1,0\nb.png,2,0\n', {'target_key': 'a,b'}, "label of b.png is .* target_format='numbers'"),
        ('file,a\na.png,x\n', {'target_key': 'a', 'target_format': 'numbers'}, "label of a.png is 'x', not a number"),
        ('file,a\na.png,1\n', {'target_key': 'a', 'target_format': 'multihott'}, "did you mean 'multihot'"),
        ('file,label\na.png,1.5\n', {'class_map': ['y']}, 'labels are numbers .* class_map is for classes'),
        ('file,label\na.png,x\n', {'num_samples': 3}, 'num_samples is 3, but .* has 1'),
        ('file,label\na.png,x\n', {'input_img_mode': 'RGBA'}, "input_img_mode must be L or RGB, got 'RGBA'"),
        ('file,label\na.png,x\n', {'repeats': -1}, 'repeats must be at least 0'),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_opened_say_why(tmp_path: Path, content: str, options: dict, said: str) -> None:
    (tmp_path / 'table.csv').write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        create_dataset(str(tmp_path / 'table.csv'), **options)


def test_parquet_of_images_points_to_hfds(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(
        pa.table({'image': [{'bytes': FILES[0], 'path': 'a.png'}], 'label': [0]}), tmp_path / 'a.parquet'
    )
    with pytest.raises(ValueError, match=r'open it as hfds/.*a\.parquet'):
        create_dataset(str(tmp_path / 'a.parquet'))
    assert create_dataset(f'hfds/{tmp_path}/a.parquet', split='train').reader.read(0) == FILES[0]


def test_numpy_archives(tmp_path: Path) -> None:
    grey, deep = IMAGES[..., 0], IMAGES.astype(np.uint16) * 256
    np.savez(tmp_path / 'plain.npz', images=IMAGES, labels=LABELS)
    np.savez(tmp_path / 'keras.npz', x_train=grey, y_train=LABELS, x_test=grey[:2], y_test=LABELS[:2])
    np.savez(
        tmp_path / 'med.npz',
        train_images=deep,
        train_labels=np.eye(6)[:, :4],
        val_images=deep[:1],
        val_labels=np.eye(6)[:1, :4],
    )
    np.savez(tmp_path / 'own.npz', pictures=IMAGES, ages=np.arange(6) / 4)
    plain = create_dataset(str(tmp_path / 'plain.npz'), class_map=CLASSES)
    holds_all(plain, [str(i) for i in range(6)])
    assert create_dataset(str(tmp_path / 'keras.npz'), split='train').targets == LABELS
    assert len(create_dataset(str(tmp_path / 'keras.npz'), split='validation')) == 2
    several = create_dataset(str(tmp_path / 'med.npz'), split='train')
    assert several.reader.read(1).dtype == np.uint16
    assert several.reader.task == 'labels'
    np.testing.assert_array_equal(several.targets, np.eye(6)[:, :4])
    own = create_dataset(str(tmp_path / 'own.npz'), input_key='pictures', target_key='ages')
    np.testing.assert_array_equal(np.ravel(own.targets), np.arange(6) / 4)
    with pytest.raises(ValueError, match=r'has the arrays pictures, ages; which is it\? give input_key'):
        create_dataset(str(tmp_path / 'own.npz'))
    with pytest.raises(ValueError, match="no array input_key='picture'; did you mean 'pictures'"):
        create_dataset(str(tmp_path / 'own.npz'), input_key='picture')
    np.savez(tmp_path / 'objects.npz', images=np.array([{}], dtype=object), labels=[0])
    with pytest.raises(ValueError, match='allow_pickle'):
        create_dataset(str(tmp_path / 'objects.npz'))
    np.savez(tmp_path / 'wide.npz', images=IMAGES.astype(np.float64), labels=LABELS)
    with pytest.raises(ValueError, match='images must be uint8, uint16 or float32'):
        create_dataset(str(tmp_path / 'wide.npz'))


def test_class_maps(tmp_path: Path) -> None:
    numbering = {'b': 0, 'a': 1}
    files = {'m.txt': 'b\na\n', 'l.json': '["b", "a"]', 'o.json': '{"a": 1, "b": 0}', 'i.json': '{"0": "b", "1": "a"}'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        assert read_class_map(tmp_path / name) == numbering
    assert read_class_map(numbering) == read_class_map(['b', 'a']) == numbering
    (tmp_path / 'm.pkl').write_bytes(pickle.dumps(numbering))
    for name, content, said in (
        ('m.pkl', None, 'is a pickle'),
        ('x.json', '{"a"', 'cannot be read'),
        ('y.json', '3', 'must hold a list'),
        ('z.json', '{"a": -1}', "gives 'a' the index -1"),
        ('w.json', '{"a": "x"}', "gives 'a' the index 'x'"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=said):
            read_class_map(tmp_path / name)
    folder = write_folder(tmp_path / 'photos')
    part = create_dataset(str(folder), class_map={'owl': 7, 'dog': 2, 'cat': 2})
    assert part.targets == [2, 2, 2, 2, 7, 7]
    assert part.classes == ['0', '1', 'dog', '3', '4', '5', '6', 'owl']


def test_input_key_chooses_the_files_of_folders(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / 'photos')
    Image.fromarray(IMAGES[0]).save(folder / 'cat' / '0.gif')
    assert len(create_dataset(str(folder))) == 6
    assert len(create_dataset(str(folder), input_key='gif')) == 1
    assert len(create_dataset(str(folder), input_key='gif;PNG')) == 7


def test_repeats_give_training_samples_of_their_own(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path / 'photos'))
    data = create_dataset(folder, is_training=True, repeats=3)
    assert len(data) == 18
    assert data.targets == LABELS * 3
    assert len(create_dataset(folder, repeats=3)) == 6


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
@pytest.mark.parametrize('channels', [2, 3, 5, 13])
def test_many_channels_are_read_as_they_are(tmp_path: Path, channels: int, dtype: str) -> None:
    pixels = (RNG.random((12, 10, channels)) * 250).astype(dtype)
    file = io.BytesIO()
    np.save(file, pixels)
    np.testing.assert_array_equal(decode(file.getvalue(), channels), pixels)
    for planar in ('contig', 'separate'):
        for big in (False, True):
            stored = pixels if planar == 'contig' else pixels.transpose(2, 0, 1)
            path = tmp_path / f'{planar}{big}.tif'
            options = dict(planarconfig=planar, photometric='minisblack', compression='zlib')
            tifffile.imwrite(path, stored, bigtiff=big, byteorder='>' if big else '<', **options)
            np.testing.assert_array_equal(decode(path.read_bytes(), channels), pixels)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'F'])
def test_tiff_that_pillow_knows_is_pillows(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (5, 4)).save(file, 'tiff')
    assert read_raster(file.getvalue()) is None


def test_rasters_that_are_not_to_be_trusted() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object))
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(claim, {'shape': (1 << 20, 1 << 20), 'fortran_order': False, 'descr': '|u1'})
    for content, said in ((file.getvalue(), 'type object'), (claim.getvalue(), 'too few or many')):
        with pytest.raises(ValueError, match=said):
            read_raster(content)
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, np.zeros((40, 30, 6), np.uint16), photometric='minisblack', compression='zlib')
    for length in range(8, len(tiff.getvalue()), 7):
        with pytest.raises(UnreadableImageError):
            decode(tiff.getvalue()[:length], 6)


def shards(root: Path, ending: str = 'cls', label: Any = lambda i: str(LABELS[i]), extra: dict | None = None) -> Path:
    """Two shards of training images and one for validation."""
    for name, part in (('train-0000', range(4)), ('train-0001', range(4, 6)), ('val-0000', range(1))):
        members = {}
        for i in part:
            members[f's/{i:04}.png'] = FILES[i]
            members[f's/{i:04}.{ending}'] = label(i).encode()
            members |= {f's/{i:04}.{key}': value for key, value in (extra or {}).items()}
        write_tar(root / f'{name}.tar', members)
    return root


def webdataset_reads(shard: Path) -> list[dict[str, Any]]:
    """The samples of a shard, by the package webdataset."""
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with shard.open('rb') as file:
        return list(
            group_by_keys(
                [{**member, '__url__': str(shard)} for member in tar_file_iterator(file) if 'fname' in member]
            )
        )


def test_shards_are_read_in_any_order(tmp_path: Path) -> None:
    shards(tmp_path / 'wds')
    data = create_dataset('wds/', tmp_path / 'wds', 'train', class_map=CLASSES)
    holds_all(data, [f's/{i:04}' for i in range(6)])
    pattern = str(tmp_path / 'wds' / 'train-{0000..0001}.tar')
    independent = [
        sample for shard in (0, 1) for sample in webdataset_reads(tmp_path / 'wds' / f'train-000{shard}.tar')
    ]
    assert [sample['__key__'] for sample in independent] == [data.name(i) for i in range(6)]
    assert [sample['png'] for sample in independent] == [data.reader.read(i) for i in range(6)]
    assert [int(sample['cls']) for sample in independent] == data.targets
    for spec, split in (
        (f'WDS/{tmp_path}/wds', 'train'),
        (f'wds/{tmp_path}/wds', 'train-{0000..0001}.tar'),
        (f'wds/{tmp_path}/wds', 'train-0000.tar::train-0001.tar'),
        (f'wds/{tmp_path}/wds', 'train-0000.tar|4::train-0001.tar|2'),
        (f'wds/{pattern}', 'train'),
    ):
        holds_all(create_dataset(spec, split=split, class_map=CLASSES))
    assert len(create_dataset('wds/', tmp_path / 'wds')) == 1
    with pytest.raises(ValueError, match='should have 7 samples, its shards hold 6'):
        create_dataset('wds/', tmp_path / 'wds', 'train-{0000..0001}.tar|7')
    with pytest.raises(FileNotFoundError, match=r'train-0002\.tar does not exist'):
        create_dataset('wds/', tmp_path / 'wds', 'train-{0000..0002}.tar')
    with pytest.raises(FileNotFoundError, match="no shards of the split 'extra', only of train, validation"):
        create_dataset('wds/', tmp_path / 'wds', 'extra')
    with pytest.raises(ValueError, match='would run a command'):
        create_dataset('wds/', tmp_path / 'wds', 'pipe:cat train-0000.tar')


def test_shards_with_an_info_file(tmp_path: Path) -> None:
    shards(tmp_path, 'json', lambda i: json.dumps({'a': {'label': LABELS[i]}, 'fur': int(LABELS[i] < 2)}))
    info = {
        'classes': list(CLASSES),
        'target_key': 'json/a/label',
        'splits': {
            'train': {'filenames': ['train-{0000..0001}.tar'], 'num_samples': 6},
            'validation': {'filenames': ['val-0000.tar'], 'num_samples': 1},
        },
    }
    (tmp_path / '_info.json').write_text(json.dumps(info))
    holds_all(create_dataset('wds/', tmp_path, 'train'))
    holds_all(create_dataset(str(tmp_path), split='training'))
    several = create_dataset('wds/', tmp_path, 'train', target_key='json/fur,json/a/label', target_format='numbers')
    np.testing.assert_array_equal(several.targets, [[1, 0], [1, 0], [1, 1], [1, 1], [0, 2], [0, 2]])
    with pytest.raises(ValueError, match="has no 'furr'; did you mean 'fur'"):
        create_dataset('wds/', tmp_path, 'train', target_key='json/furr')
    with pytest.raises(FileNotFoundError, match='no test split, only train, validation'):
        create_dataset('wds/', tmp_path, 'test')
    for name in ('../secret.tar', '/etc/secret.tar', 's3://elsewhere/x.tar', 'pipe:touch x.tar'):
        info['splits']['train']['filenames'] = [name]
        (tmp_path / '_info.json').write_text(json.dumps(info))
        with pytest.raises(ValueError, match='lies outside of'):
            create_dataset('wds/', tmp_path, 'train')
    for content in ('[]', '{"splits": 3}', '{"splits": {"train": {}}}', '{'):
        (tmp_path / '_info.json').write_text(content)
        with pytest.raises(ValueError, match=r'_info\.json'):
            create_dataset('wds/', tmp_path, 'train')


class Trap:
    """What runs when a pickle of it is loaded."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ('a pickle was loaded',))


def test_pickles_in_shards_are_never_loaded(tmp_path: Path) -> None:
    trap = pickle.dumps(Trap())
    shards(tmp_path, extra={'pyd': trap, 'pkl': trap, 'pth': trap})
    holds_all(create_dataset('wds/', tmp_path, 'train', class_map=CLASSES))
    for options in ({'target_key': 'pyd'}, {'input_key': 'pkl'}, {'target_key': 'cls,pth'}):
        with pytest.raises(ValueError, match='are pickles, which can run any code'):
            create_dataset('wds/', tmp_path, 'train', **options)
    with pytest.raises(ValueError, match="'clss' is no label; did you mean 'cls'"):
        create_dataset('wds/', tmp_path, 'train', target_key='clss')


def test_shards_of_other_labels(tmp_path: Path) -> None:
    shards(tmp_path, 'txt', lambda i: CLASSES[LABELS[i]])
    holds_all(create_dataset('wds/', tmp_path, 'train', target_key='txt'))
    shards(tmp_path, 'json', lambda i: json.dumps({'tags': [LABELS[i], 3]}))
    several = create_dataset('wds/', tmp_path, 'train', target_key='json/tags')
    np.testing.assert_array_equal(np.stack(several.targets).sum(0), [2, 2, 2, 6])
    shards(tmp_path, 'cls', lambda i: str(3 * LABELS[i]))
    with pytest.raises(ValueError, match=r'the label 3 of s/0002 is out of range: there are 3 classes, 0 to 2'):
        create_dataset('wds/', tmp_path, 'train', class_map=CLASSES)
    write_tar(tmp_path / 'test-0.tar', {'a.cls': b'0', 'b.cls': b'1', 'b.png': FILES[0]})
    missing = create_dataset('wds/', tmp_path, 'test')
    with pytest.raises(UnreadableImageError):
        missing[0]
    assert missing[1][1] == 1


def in_memory(root: Path, name: str, endings: tuple[str, ...] = ('.tar',)) -> str:
    """Copies files to a place that is no path."""
    import fsspec

    system = fsspec.filesystem('memory')
    for path in root.iterdir():
        if path.name.endswith(endings):
            system.pipe(f'/{name}/{path.name}', path.read_bytes())
    return f'memory://{name}'


def test_remote_shards_are_streamed(tmp_path: Path) -> None:
    place = in_memory(shards(tmp_path), 'plain')
    reader: Any = open_source(Source('wds/', place, 'train', numbering=read_class_map(CLASSES)))
    assert reader.shards == [f'{place}/train-0000.tar', f'{place}/train-0001.tar']
    assert (reader.classes, reader.task, reader.count) == (list(CLASSES), 'class', None)
    samples = [sample for shard in (0, 1) for sample in reader.iterate(shard)]
    assert [sample.name for sample in samples] == [f's/{i:04}' for i in range(6)]
    assert [sample.image for sample in samples] == FILES
    assert [sample.target for sample in samples] == LABELS
    assert list(pickle.loads(pickle.dumps(reader)).iterate(0, 2)) == samples[2:4]
    with pytest.raises(ValueError, match='does not say what its classes are; give class_map'):
        open_source(Source('wds/', place, 'train'))
    few = open_source(Source('wds/', place, 'train', numbering={'a': 0}))
    with pytest.raises(ValueError, match='label 1 of s/0002 is out of range'):
        list(few.iterate(0))


def test_remote_shards_with_an_index_are_read_in_any_order(tmp_path: Path) -> None:
    from foveal.data.readers.tar_index import ANY_TIME, tar_index

    shards(tmp_path)
    for tar in tmp_path.glob('*.tar'):
        tar_index(str(tar)).save(Path(f'{tar}.index.npz'), tar.stat().st_size, ANY_TIME)
    place = in_memory(tmp_path, 'indexed', ('.tar', '.npz'))
    holds_all(create_dataset('wds/', place, 'train', class_map=CLASSES))


def test_braces_are_those_of_the_shell() -> None:
    from braceexpand import braceexpand

    for pattern in ('a-{000..012}.tar', 'a{8..11}b', '{a,b}-{00..02}.tar', 'plain.tar', 'x{07..10}', '{a,}b'):
        assert expand_braces(pattern) == list(braceexpand(pattern))
    for pattern in ('a{0..1', 'a}', '{a{1..2}}', '{5..2}'):
        with pytest.raises(ValueError, match=r'braces|downwards'):
            expand_braces(pattern)


def hf_data(label: str = 'names') -> Any:
    import datasets

    features = {
        'names': datasets.ClassLabel(names=list(CLASSES)),
        'text': datasets.Value('string'),
        'many': datasets.List(datasets.ClassLabel(names=list(CLASSES))),
        'age': datasets.Value('float32'),
    }
    values = {
        'names': LABELS,
        'text': [CLASSES[label] for label in LABELS],
        'many': [[label, 2] for label in LABELS],
        'age': [i / 4 for i in range(6)],
    }
    rows = {'image': [{'bytes': content, 'path': None} for content in FILES], 'label': values[label]}
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features({'image': datasets.Image(), 'label': features[label]})
    )


def test_hugging_face_data_sets_from_files(tmp_path: Path) -> None:
    hf_data().to_parquet(tmp_path / 'set.parquet')
    holds_all(create_dataset(f'hfds/{tmp_path}/set.parquet', split='train', seed=0))
    (tmp_path / 'set' / 'data').mkdir(parents=True)
    hf_data().to_parquet(tmp_path / 'set' / 'data' / 'train-00000-of-00001.parquet')
    hf_data().select(range(2)).to_parquet(tmp_path / 'set' / 'data' / 'test-00000-of-00001.parquet')
    data = create_dataset(f'hfds/{tmp_path}/set', tmp_path / 'cache', 'train')
    holds_all(data)
    assert pickle.loads(pickle.dumps(data.reader)).read(5) == FILES[5]
    assert len(create_dataset(f'HFDS/{tmp_path}/set', tmp_path / 'cache')) == 2
    assert create_dataset(f'hfds/{tmp_path}/set', tmp_path / 'cache', 'train[1:3]').targets == LABELS[1:3]
    hf_data().save_to_disk(tmp_path / 'saved')
    holds_all(create_dataset(f'hfds/{tmp_path}/saved', split='train'))
    other = create_dataset(f'hfds/{tmp_path}/saved', class_map={'owl': 0, 'cat': 1, 'dog': 2})
    assert other.targets == [1, 1, 2, 2, 0, 0]
    with pytest.raises(ValueError, match=r"\['cat'\] that are not among the classes: owl, dog"):
        create_dataset(f'hfds/{tmp_path}/saved', class_map=['owl', 'dog'])
    with pytest.raises(ValueError, match="no column target_key='labell'; did you mean 'label'"):
        create_dataset(f'hfds/{tmp_path}/saved', target_key='labell')


@pytest.mark.parametrize('kind', ['text', 'many', 'age'])
def test_labels_of_hugging_face_data_sets(tmp_path: Path, kind: str) -> None:
    hf_data(kind).save_to_disk(tmp_path / 'saved')
    data = create_dataset(f'hfds/{tmp_path}/saved')
    if kind == 'text':
        holds_all(data)
    elif kind == 'many':
        np.testing.assert_array_equal(data.targets, np.maximum(np.eye(3)[LABELS], [0, 0, 1]))
    else:
        np.testing.assert_array_equal(np.ravel(data.targets), np.arange(6) / 4)


def test_hugging_face_streams(tmp_path: Path) -> None:
    for shard in range(2):
        hf_data().select(range(3 * shard, 3 * shard + 3)).to_parquet(tmp_path / f'train-0000{shard}-of-00002.parquet')
    reader: Any = open_source(Source(f'hfids/{tmp_path}', tmp_path / 'cache', 'train', num_samples=6))
    assert (reader.classes, reader.count, len(reader.shards)) == (list(CLASSES), 6, 2)
    samples = [sample for shard in (0, 1) for sample in pickle.loads(pickle.dumps(reader)).iterate(shard)]
    assert [sample.image for sample in samples] == FILES
    assert [sample.target for sample in samples] == LABELS
    assert next(reader.iterate(1, 2)) == samples[5]
    with pytest.raises(ValueError, match='is a stream, which has no slice'):
        open_source(Source(f'hfids/{tmp_path}', None, 'train[:2]'))


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'name': 'wds/'}, 'wds/ needs the folder or address'),
        ({'name': 'hfds/'}, 'needs the name of a data set'),
        ({}, 'no data: give the path'),
        ({'name': 'torch/places'}, "unknown; did you mean 'places365'"),
        ({'name': 'torch/places365', 'root': 'none'}, 'torch/places365 is not in none'),
        ({'name': 'torch/imagenet', 'root': 'none'}, 'torch/imagenet is not in none'),
        ({'name': 'torch/inat', 'root': 'none', 'split': 'family/2021_train'}, 'torch/inat is not in none'),
        ({'name': 'torch/inat', 'root': 'none', 'split': 'famly/2021_train'}, "'famly'; did you mean 'family'"),
        ({'name': 'torch/qmnist', 'root': 'none'}, 'torch/qmnist is not in none'),
    ],
)  # fmt: skip
def test_sources_that_are_not_there_say_so(options: dict, said: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        create_dataset(**options)


def test_a_path_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    write_folder(tmp_path / 'photos')
    with pytest.raises(FileNotFoundError, match=r"photo' does not exist; did you mean 'photos'"):
        create_dataset(str(tmp_path / 'photo'))
    (tmp_path / 'notes.md').write_text('')
    with pytest.raises(ValueError, match='no source of images'):
        create_dataset(str(tmp_path / 'notes.md'))


def test_rows_of_several_labels_are_their_indices() -> None:
    rows = MultiLabel([[2, 0], [], [1]], 3)
    np.testing.assert_array_equal(list(rows), [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    many = Encoder('x', target_format='indices').encode([['a', 'b'], None, ['c']])
    assert (many.classes, many.task) == (['a', 'b', 'c'], 'labels')
    np.testing.assert_array_equal(list(many.targets), [[1, 1, 0], [0, 0, 0], [0, 0, 1]])


def test_order_and_numbers_are_those_of_published_checkpoints(tmp_path: Path) -> None:
    """Names and indices measured on timm 1.0.31, for a folder and for a tar of it."""
    expected = [('Alpha', 0), ('b/c1', 1), ('b/c10', 2), ('n2', 3), ('n10', 4)]
    members = {
        f'{name}/im{i}.png': FILES[0] for name in ('n10', 'b/c10', 'Alpha', 'n2', 'b/c1') for i in (10, 2, 11, 1)
    }
    for name, content in members.items():
        (tmp_path / 'photos' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'photos' / name).write_bytes(content)
    tar = write_tar(tmp_path / 'photos.tar', members)
    for data in (create_dataset(str(tmp_path / 'photos')), create_dataset(str(tar))):
        got = [(data.name(i), data.targets[i]) for i in range(len(data))]
        assert got == [(f'{name}/im{i}.png', target) for name, target in expected for i in (1, 2, 10, 11)]


def test_more_tars_than_a_process_keeps_open(tmp_path: Path) -> None:
    from foveal.data.readers.places import OPEN_FILES

    for i in range(OPEN_FILES + 3):
        write_tar(tmp_path / 'many' / f'{i:04}.tar', {f'{CLASSES[i % 3]}/{i}.png': FILES[i % 6]})
    data: Any = create_dataset(str(tmp_path / 'many'))
    for i in (*range(len(data)), 0, 5):
        assert data.reader.read(i) == FILES[i % 6]
    assert len(data.reader.files.opened) == OPEN_FILES


def test_plain_folders_of_idx_files(tmp_path: Path) -> None:
    for name, array in (('images-idx3', IMAGES[..., 0]), ('labels-idx1', np.array(LABELS, np.uint8))):
        header = b'\0\0\x08' + bytes([array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape)
        (tmp_path / f'train-{name}-ubyte').write_bytes(header + array.tobytes())
    data = create_dataset(str(tmp_path), split='train', class_map=CLASSES)
    assert (data.targets, data.classes) == (LABELS, list(CLASSES))
    np.testing.assert_array_equal(data.reader.read(4), IMAGES[4, ..., 0])
    assert create_dataset(str(tmp_path / 'train-images-idx3-ubyte')).targets == LABELS
    with pytest.raises(FileNotFoundError, match='holds no images'):
        create_dataset(str(tmp_path), split='test')


def test_torchvisions_sets_of_files(tmp_path: Path) -> None:
    import torch

    species = (
        '00000_Animalia_Chordata_Aves_Strigiformes_Strigidae_Bubo_bubo',
        '00001_Plantae_Tracheophyta_Magnoliopsida_Rosales_Rosaceae_Rosa_canina',
    )
    for i, name in enumerate(species):
        folder = tmp_path / 'inat' / '2021_train' / name
        folder.mkdir(parents=True)
        (folder / 'a.jpg').write_bytes(FILES[i])
    full: Any = create_dataset('torch/inaturalist', tmp_path / 'inat', 'train')
    assert (full.classes, full.targets) == (list(species), [0, 1])
    assert full.reader.read(1) == FILES[1]
    kingdom = create_dataset('torch/inat', tmp_path / 'inat', 'kingdom/2021_train')
    assert (kingdom.classes, kingdom.targets) == (['Animalia', 'Plantae'], [0, 1])
    for i, name in enumerate(('n01', 'n02')):
        (tmp_path / 'in' / 'val' / name).mkdir(parents=True)
        (tmp_path / 'in' / 'val' / name / 'x.JPEG').write_bytes(FILES[i])
    torch.save(({'n01': ('tench', 'Tinca tinca'), 'n02': ('goldfish',)}, []), tmp_path / 'in' / 'meta.bin')
    imagenet: Any = create_dataset('torch/ImageNet', tmp_path / 'in')
    assert (imagenet.classes, imagenet.targets) == (['tench, Tinca tinca', 'goldfish'], [0, 1])
    assert imagenet.reader.read(0) == FILES[0]


@pytest.mark.parametrize(
    ('package', 'options', 'said'),
    [
        ('datasets', {'name': 'hfds/x'}, r'x needs datasets: pip install "foveal\[data\]"'),
        ('pyarrow', {'name': 'a.parquet'}, r'a\.parquet needs pyarrow: pip install "foveal\[data\]"'),
        ('fsspec', {'name': 'wds/s3://x/y.tar'}, r'needs fsspec: pip install "foveal\[data\]"'),
        ('tensorflow_datasets', {'name': 'tfds/x'}, 'tfds/x needs tensorflow-datasets and tensorflow'),
    ],
)
def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, options: dict, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('a.parquet').write_bytes(b'')
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=said):
        create_dataset(**options)
