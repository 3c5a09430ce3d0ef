"""Which samples come in which batch, bit for bit."""

import gc
import io
import json
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from foveal.data import ImageDataset, Loader, UnreadableImageError, create_dataset, create_loader, create_transform
from foveal.data.bad import BadSample, BadSamples, write_bad_samples
from foveal.data.dataset import Key
from foveal.data.images import Picture, decode
from foveal.data.jpeg import open_jpeg
from foveal.data.memory import Recycled
from foveal.data.readers import ArrayReader, StreamSample
from foveal.data.sample import sample_rng
from foveal.data.sampler import BatchSampler
from foveal.data.schedule import SizeSchedule
from foveal.data.stream import StreamDataset
from foveal.data.transforms import normalize_batch

RNG = np.random.default_rng(7)
AUGMENT: dict[str, Any] = {'auto_augment': 'rand-m9-n2', 're_prob': 0.5, 're_mode': 'pixel'}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth image with edges and noise, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (7 + 3 * c) + seed) * np.cos(y / (5 + 2 * c)) * 90 + 128 for c in range(3)]
    image = np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3))
    image[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'jpeg', **{'quality': 92, **options})
    return file.getvalue()


def write_photos(root: Path, count: int = 22, classes: int = 3) -> Path:
    for i in range(count):
        folder = root / f'c{i % classes}'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{i:03d}.jpg').write_bytes(jpeg(photo(70 + i, 100 - i, i)))
    return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp('photos') / 'train')


def make(folder: Path, batch_size: int = 4, **options: Any) -> Loader:
    options = {'is_training': True, 'seed': 3, 'num_workers': 0, **AUGMENT, **options}
    return create_loader(create_dataset(root=folder, split='train'), 32, batch_size, **options)


def tensors(loader: Loader, epoch: int = 0, start: int = 0) -> list[tuple[torch.Tensor, ...]]:
    loader.set_epoch(epoch, start)
    return [(batch.images, batch.targets, batch.addresses) for batch in loader]


def same(a: list, b: list) -> bool:
    pairs = [(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


def joined(parts: list[list[tuple[torch.Tensor, ...]]]) -> list[tuple[torch.Tensor, ...]]:
    """The ranks' batches put together."""
    return [tuple(torch.cat(pair) for pair in zip(*batch, strict=True)) for batch in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'num_aug_repeats': 2.5, 'channels_last': True},
        {'num_aug_splits': 2, 're_split': True},
        {'input_size_choices': [24, 32, 40], 'batch_size_choices': [5, 3, 2], 'num_batches': 5},
        {'is_training': False, 'crop_pct': 0.9},
    ],
    ids=['plain', 'repeats', 'splits', 'sizes', 'evaluation'],
)
@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_batches_are_the_same_for_any_number_of_workers_and_after_any_stop(folder: Path, options: dict) -> None:
    expected = tensors(make(folder, **options), epoch=1)
    assert len(expected) >= 5
    for workers in (1, 2, 3):
        loader = make(folder, num_workers=workers, **options)
        assert same(tensors(loader, epoch=1), expected)
        # a stop in the middle, with batches under way, and another epoch do not disturb
        loader.set_epoch(0)
        next(iter(loader))
        assert same(tensors(loader, epoch=1, start=2), expected[2:])
    for start in range(len(expected)):
        assert same(tensors(make(folder, **options), epoch=1, start=start), expected[start:])
    if options.get('is_training', True):
        assert not torch.equal(tensors(make(folder, **options), epoch=2)[0][0], expected[0][0])


def test_a_state_of_a_few_numbers_continues_the_epoch(folder: Path) -> None:
    expected = tensors(make(folder), epoch=2)
    loader = make(folder, num_workers=2)
    loader.set_epoch(2)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    other = make(folder, num_workers=1)
    other.load_state_dict(state)
    assert same([(b.images, b.targets, b.addresses) for b in other], expected[3:])
    # two processes of 2 go on where one of 4 stopped
    halves = [make(folder, 2, rank=rank, world_size=2) for rank in (0, 1)]
    for half in halves:
        half.load_state_dict(state)
    assert same(joined([[(b.images, b.targets, b.addresses) for b in half] for half in halves]), expected[3:])
    with pytest.raises(ValueError, match='global_batch=4, here it is 8'):
        make(folder, 8).load_state_dict(state)


def test_ranks_share_every_batch(folder: Path) -> None:
    whole = tensors(make(folder, 6))
    assert same(joined([tensors(make(folder, 3, rank=r, world_size=2)) for r in (0, 1)]), whole)
    assert same(joined([tensors(make(folder, 2, rank=r, world_size=3)) for r in (0, 1, 2)]), whole)


def test_repeats_are_augmented_otherwise_and_lie_on_different_ranks(folder: Path) -> None:
    whole = tensors(make(folder, 6, num_aug_repeats=3))
    assert len(whole) == 3
    for images, _, addresses in whole:
        assert addresses[:, 2].tolist() == [0, 1, 2, 0, 1, 2]
        assert addresses[:, 1].unique(return_counts=True)[1].tolist() == [3, 3]
        assert not torch.equal(images[0], images[1])
    ranks = [tensors(make(folder, 2, rank=r, world_size=3, num_aug_repeats=3)) for r in range(3)]
    for batch, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        assert all(part[2][:, 1].unique().numel() == 2 for part in parts)
        interleaved = torch.stack([part[0] for part in parts], 1).flatten(0, 1)
        assert torch.equal(interleaved, batch[0])


@pytest.mark.parametrize(('repeats', 'ratio'), [(1, 1.0), (3, 1.0), (2.5, 0.5), (1.5, 2.0)])
def test_repeats_come_as_often_as_asked(repeats: float, ratio: float) -> None:
    sampler = BatchSampler(1000, 10, True, 0, repeats=repeats, selected_ratio=ratio)
    addresses = np.concatenate([batch.addresses for batch in sampler])
    assert len(addresses) == 1000 / ratio
    assert len({tuple(row) for row in addresses}) == len(addresses)
    _, counts = np.unique(addresses[:, 1], return_counts=True)
    # an epoch of 1000 / ratio samples, of which each comes so often; the last one may be cut short
    assert abs(len(counts) - 1000 / ratio / repeats) <= 1 or repeats * ratio < 1
    assert counts.max() <= np.ceil(repeats) * np.ceil(1 / ratio / repeats)


def test_splits_are_clean_first_and_share_crop_and_target(folder: Path) -> None:
    loader = make(folder, num_aug_splits=3, re_prob=1.0, re_split=True)
    plain = make(folder, auto_augment=None, color_jitter=0, re_prob=0)
    for (images, targets, addresses), (clean, labels, _) in zip(tensors(loader), tensors(plain), strict=True):
        assert torch.equal(images[:4], clean)
        assert torch.equal(targets, labels.repeat(3))
        assert not torch.equal(images[4:8], images[8:])
        assert addresses[:, 2].tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize('world_size', [1, 2, 3, 7])
@pytest.mark.parametrize('count', [1, 5, 30])
def test_evaluation_counts_every_sample_once(count: int, world_size: int) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        sampler = BatchSampler(count, 4, is_training=False, seed=0, rank=rank, world_size=world_size)
        mine = list(sampler)
        assert len(mine) == len(sampler) == sampler.batches
        assert all(len(batch.addresses) == 4 for batch in mine[:-1])
        seen += [index for batch in mine for index in batch.addresses[:, 1]]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize('world_size', [1, 2, 3])
@pytest.mark.parametrize('count', [8, 23, 24, 25])
def test_without_drop_last_the_ranks_make_as_many_batches_as_large(count: int, world_size: int) -> None:
    ranks = [list(BatchSampler(count, 4, True, 0, rank, world_size, drop_last=False)) for rank in range(world_size)]
    sizes = {tuple(len(batch.addresses) for batch in rank) for rank in ranks}
    assert len(sizes) == 1
    indices = [index for rank in ranks for batch in rank for index in batch.addresses[:, 1]]
    assert len(set(indices)) == len(indices) == count - count % world_size


def test_an_epoch_of_so_many_batches_goes_through_the_data_again() -> None:
    batches = list(BatchSampler(10, 4, True, 0, num_batches=6))
    addresses = np.concatenate([batch.addresses for batch in batches])
    assert addresses[:, 2].tolist() == [0] * 10 + [1] * 10 + [2] * 4
    assert sorted(addresses[:10, 1]) == sorted(addresses[10:20, 1]) == list(range(10))


def test_batch_sizes_follow_the_schedule_on_every_rank() -> None:
    schedule = SizeSchedule([8, 4, 2], [1, 1, 2], seed=5)
    ranks = [BatchSampler(400, 1, True, 0, rank, 2, schedule=schedule) for rank in (0, 1)]
    batches = [list(rank) for rank in ranks]
    assert [b.choice for b in batches[0]] == [b.choice for b in batches[1]]
    assert all(len(b.addresses) == (8, 4, 2)[b.choice] for b in batches[0])
    indices = [i for rank in batches for b in rank for i in b.addresses[:, 1]]
    assert len(set(indices)) == len(indices)
    assert 400 - 16 < len(indices) <= 400
    drawn = np.bincount(schedule.choices(0, None, 8000, 1), minlength=3) / 8000
    # shares of 8000 draws: 5 standard deviations of a share of a half
    np.testing.assert_allclose(drawn, [0.25, 0.25, 0.5], atol=5 * 0.5 / 8000**0.5)


def test_progressive_sizes_go_from_the_first_to_the_last() -> None:
    schedule = SizeSchedule([4] * 5, schedule='progressive', epochs=10, spread=0.25, random_mix=0.0)
    means = [schedule.choices(epoch, None, 2000, 1).mean() for epoch in range(10)]
    assert means == sorted(means)
    assert means[0] < 0.4
    assert means[-1] > 3.6
    # half a window of 0.25 * 4 choices: beside the middle choice, nothing is drawn when it is the centre
    np.testing.assert_allclose(schedule.chances(np.array([0.5])), [[0, 0, 1, 0, 0]])
    np.testing.assert_allclose(schedule.chances(np.array([0.625])), [[0, 0, 0.5, 0.5, 0]])
    mixed = SizeSchedule([4] * 5, schedule='progressive', epochs=10, spread=0.25, random_mix=0.5)
    np.testing.assert_allclose(mixed.chances(np.array([0.5])), [[0.1, 0.1, 0.6, 0.1, 0.1]])


@pytest.mark.parametrize('channels_last', [False, True])
def test_normalisation_is_that_of_a_batch_and_batches_that_are_kept_stay(folder: Path, channels_last: bool) -> None:
    options: dict[str, Any] = {'auto_augment': None, 're_prob': 0, 'channels_last': channels_last}
    loader = make(folder, **options)
    kept = tensors(loader)
    transform = create_transform(32, is_training=True, normalize=False)
    dataset = create_dataset(root=folder, split='train').with_transform(transform, seed=3)
    for images, targets, addresses in kept:
        samples = [dataset[Key(*address)] for address in addresses.tolist()]
        expected = normalize_batch(torch.stack([image for image, _ in samples]), loader.preprocess)
        # channel by channel by OpenCV, which rounds otherwise: 2.4e-7 at most over all levels of usual means
        torch.testing.assert_close(images, expected, rtol=0, atol=0 if channels_last else 5e-7)
        assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert targets.tolist() == [target for _, target in samples]
    half = make(folder, img_dtype=torch.bfloat16, **options)
    assert same([(b[0].bfloat16(),) for b in kept], [(b[0],) for b in tensors(half)])


def test_a_buffer_is_given_out_again_once_its_tensor_is_gone() -> None:
    recycled = Recycled()
    first = recycled.take((4, 8))
    view, place = first[1:3].t(), first.data_ptr()
    del first
    assert recycled.take((2, 8)).data_ptr() != place  # a view of it is alive
    del view
    assert recycled.take((4, 8)).data_ptr() == place


def test_workers_live_from_epoch_to_epoch(folder: Path) -> None:
    loader = make(folder, num_workers=2)
    workers = []
    for epoch in range(3):
        tensors(loader, epoch)
        workers.append([worker.pid for worker in loader.batches._iterator._workers])
    assert workers[0] == workers[1] == workers[2]


def test_targets_of_several_values_and_images_of_many_channels() -> None:
    images = RNG.integers(0, 65536, (9, 20, 24, 5), dtype=np.uint16)
    rows = RNG.random((9, 4)).astype(np.float32)
    reader = ArrayReader(images, rows, list('abcd'))
    data = ImageDataset(reader, range(9))
    for workers in (0, 1):
        loader = create_loader(
            data, (5, 20, 24), 4, num_workers=workers, crop_pct=1.0, mean=(0.5,) * 5, std=(0.25,) * 5
        )
        batches = list(loader)
        got = torch.cat([batch.images for batch in batches])
        expected = (images.transpose(0, 3, 1, 2) / 65535 - 0.5) / 0.25
        # float32 against float64
        np.testing.assert_allclose(got, expected, atol=1e-5)
        targets = torch.cat([batch.targets for batch in batches])
        assert targets.dtype == torch.float32
        np.testing.assert_array_equal(targets, rows)


# JPEG files


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('progressive', [False, True])
def test_every_part_of_a_jpeg_is_what_pillow_decodes(subsampling: int, progressive: bool) -> None:
    data = jpeg(photo(83, 61), subsampling=subsampling, progressive=progressive)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    picture = Picture(data)
    assert (picture.height, picture.width) == (83, 61)
    assert picture.array is None
    np.testing.assert_array_equal(picture.pixels(), whole)
    for top, left, height, width in ((0, 0, 1, 1), (0, 0, 15, 61), (3, 5, 13, 40), (16, 0, 33, 20), (60, 40, 23, 21)):
        part = picture.pixels((top, left, height, width))
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])
    grey = jpeg(photo(83, 61)[..., 0], progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(grey)))
    np.testing.assert_array_equal(Picture(grey, 1).pixels((0, 0, 21, 61))[..., 0], expected[:21])
    np.testing.assert_array_equal(Picture(grey).pixels(), np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize('factor', [2, 4, 8])
def test_a_jpeg_that_will_be_shrunk_is_decoded_at_the_scale_that_pillow_drafts(factor: int) -> None:
    data = jpeg(photo(240, 320))
    image = Image.open(io.BytesIO(data))
    image.draft('RGB', (320 // factor, 240 // factor))
    expected = np.asarray(image)
    picture = Picture(data)
    small = picture.pixels(None, (240 // factor, 320 // factor))
    np.testing.assert_array_equal(small, expected)
    part = picture.pixels((80, 32, 160, 240), (160 // factor, 1))
    np.testing.assert_array_equal(part, expected[80 // factor : 240 // factor, 32 // factor : 272 // factor])
    assert picture.pixels(None, (240 // factor + 1, 1)).shape[0] >= 2 * 240 // factor - 1


def test_a_turned_jpeg_gives_windows_of_the_upright_image() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg(photo(40, 56), exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            from PIL import ImageOps

            upright = np.asarray(ImageOps.exif_transpose(image))
        picture = Picture(data)
        assert (picture.height, picture.width) == upright.shape[:2]
        np.testing.assert_array_equal(picture.pixels((5, 7, 20, 22)), upright[5:25, 7:29])


def png(width: int, height: int) -> bytes:
    """A PNG file that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


WHOLE = jpeg(photo(90, 120))
MIDDLE = WHOLE.index(b'\xff\xda') + 1200
ANIMATED = io.BytesIO()
Image.fromarray(photo(30, 40)).save(
    ANIMATED, 'webp', save_all=True, append_images=[Image.fromarray(photo(30, 40, 1))], lossless=True
)
HUGE = bytearray(WHOLE)
HUGE[WHOLE.index(b'\xff\xc0') + 5 : WHOLE.index(b'\xff\xc0') + 9] = struct.pack('>HH', 65500, 65500)
CMYK = io.BytesIO()
Image.fromarray(photo(30, 40)).convert('CMYK').save(CMYK, 'jpeg')

PNG = io.BytesIO()
Image.fromarray(photo(30, 40)).save(PNG, 'png')

# file name: content, reason in the error
UNREADABLE = {
    'truncated.jpg': (WHOLE[: len(WHOLE) // 2], 'Premature end'),
    'without_its_end.jpg': (WHOLE[:-2], 'Premature end'),
    'header_only.jpg': (WHOLE[:300], 'Truncated'),
    'corrupt.jpg': (WHOLE[:MIDDLE] + b'\xff\xd9' + WHOLE[MIDDLE + 2 :], 'Corrupt JPEG data'),
    'empty.jpg': (b'', 'empty'),
    'text.jpg': (b'<html>404</html>', 'cannot identify its format'),
    'bomb.png': (png(50000, 50000), 'decompression bomb'),
    'bomb.jpg': (bytes(HUGE), 'MAX_IMAGE_PIXELS'),
    'no_pixels.png': (png(0, 0), 'cannot identify its format'),
}
READABLE = {
    'really_a_png.jpg': (PNG.getvalue(), photo(30, 40), 0),
    'animated.webp': (ANIMATED.getvalue(), photo(30, 40), 0),
    'trailing_bytes.jpg': (WHOLE + b'trailing' * 9, decode(WHOLE), 0),
    'corrupt_icc.jpg': (jpeg(photo(90, 120), icc_profile=b'not a profile'), decode(WHOLE), 0),
    # the conversion by Pillow, for CMYK has no profile-free meaning
    'cmyk.jpg': (CMYK.getvalue(), np.asarray(Image.open(CMYK).convert('RGB')), 0),
}  # fmt: skip


@pytest.mark.parametrize('name', UNREADABLE)
@pytest.mark.filterwarnings('error')
def test_damaged_files_are_refused_with_the_reason(name: str) -> None:
    content, reason = UNREADABLE[name]
    with pytest.raises(UnreadableImageError, match=reason):
        decode(content)


@pytest.mark.parametrize('name', READABLE)
@pytest.mark.filterwarnings('error')
def test_odd_files_are_read(name: str) -> None:
    content, expected, tolerance = READABLE[name]
    np.testing.assert_allclose(decode(content), expected, atol=tolerance)


def test_a_truncated_jpeg_is_refused_whatever_window_is_asked_for() -> None:
    for length in range(len(WHOLE) - 1, len(WHOLE) // 2, -97):
        with pytest.raises(UnreadableImageError):
            Picture(WHOLE[:length]).pixels((0, 0, 4, 4))


# bad samples


@pytest.fixture(scope='module')
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_photos(tmp_path_factory.mktemp('broken') / 'train')
    for i, name in ((4, 'truncated.jpg'), (9, 'empty.jpg'), (10, 'text.jpg')):
        (root / f'c{i % 3}' / f'{i:03d}.jpg').write_bytes(UNREADABLE[name][0])
    return root


def test_a_bad_image_in_a_batch_is_named_from_any_worker(broken: Path) -> None:
    for workers in (0, 1):
        with pytest.raises(UnreadableImageError, match=r'c[01]/0(04|09|10)\.jpg'):
            list(make(broken, num_workers=workers))
    data = create_dataset(root=broken, split='train')
    bad = next(i for i in range(22) if data.name(i) == 'c0/009.jpg')
    with pytest.raises(UnreadableImageError, match=r'cannot read image c0/009\.jpg: the file is empty'):
        data[bad]


def test_skipped_images_make_their_batch_smaller_and_nothing_else(folder: Path, broken: Path) -> None:
    whole = {
        tuple(a.tolist()): image
        for images, _, rows in tensors(make(folder))
        for image, a in zip(images, rows, strict=True)
    }
    for workers in (0, 2):
        loader = make(broken, num_workers=workers, bad_samples='skip')
        batches = tensors(loader)
        assert len(batches) == len(loader) == 5
        for images, targets, rows in batches:
            assert len(images) == len(targets) == len(rows)
            for image, address in zip(images, rows, strict=True):
                assert torch.equal(image, whole[tuple(address.tolist())])
        merged = loader.bad.merged()
        assert sum(len(batch[0]) for batch in batches) + len(merged) == 20
        assert {row['name'] for row in merged} <= {'c1/004.jpg', 'c0/009.jpg', 'c1/010.jpg'}
    evaluation = make(broken, is_training=False, bad_samples='skip', num_workers=1)
    assert sum(len(batch[0]) for batch in tensors(evaluation)) == 19
    assert sorted(row['name'] for row in evaluation.bad.merged()) == ['c0/009.jpg', 'c1/004.jpg', 'c1/010.jpg']


def test_batches_do_not_depend_on_what_is_worked_on_together(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(splits: int) -> tuple[list, list]:
        loader = make(broken, 20, bad_samples='skip', num_aug_splits=splits)
        return tensors(loader), loader.bad.merged()

    whole = {splits: batches(splits) for splits in (0, 2)}
    for group, most in ((1, 1 << 30), (3, 1 << 30), (32, 1), (32, 3000)):
        monkeypatch.setattr('foveal.data.fetch.GROUP', group)
        monkeypatch.setattr('foveal.data.fetch.GROUP_BYTES', most)
        for splits, (images, bad) in whole.items():
            again, bad_again = batches(splits)
            assert len(bad) >= 2
            assert same(images, again)
            assert bad == bad_again


class Pixels:
    """A reader of one small image; where `collects`, Python looks for garbage at every sample."""

    classes, task, origin = ('a', 'b'), 'class', 'pixels'

    def __init__(self, collects: bool) -> None:
        self.collects, self.targets, self.image = collects, np.arange(64) % 2, np.zeros((8, 8, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> np.ndarray:
        if self.collects:
            gc.collect()
        return self.image


def test_a_search_for_garbage_does_not_copy_the_main_process_into_its_workers() -> None:
    held = {}
    for collects in (False, True):
        loader = create_loader(ImageDataset(Pixels(collects), np.arange(64)), 8, 4, num_workers=1, no_aug=True)
        list(loader)
        (worker,) = loader.batches._iterator._workers
        rows = Path(f'/proc/{worker.pid}/smaps_rollup').read_text().splitlines()
        held[collects] = sum(int(row.split()[1]) for row in rows if row.startswith('Private_')) / 1024
    # MB; this process has at least 40 of Python's objects, which the search would write to
    assert held[True] < held[False] + 10


def test_too_many_bad_images_end_the_run(broken: Path) -> None:
    loader = make(broken, is_training=False, bad_samples='skip', bad_limit=2)
    with pytest.raises(UnreadableImageError, match=r'3 images cannot be read, more than bad_limit=2'):
        list(loader)
    # met again in the next epoch, an image counts once
    loader = make(broken, is_training=False, bad_samples='skip', bad_limit=3)
    for epoch in range(3):
        tensors(loader, epoch)
    assert [row['times'] for row in loader.bad.merged()] == [3, 3, 3]


def test_a_training_batch_without_any_image_is_an_error(broken: Path) -> None:
    loader = make(broken, 1, bad_samples='skip')
    with pytest.raises(UnreadableImageError, match='none of the 1 images of a batch can be read'):
        list(loader)


def merge_on(rank: int, folder: str) -> None:
    """One of two processes that met different bad samples."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    bad = BadSamples('skip')
    bad.note([BadSample(rank, f'{rank}.jpg', 'empty'), BadSample(7, '7.jpg', 'truncated')])
    merged = bad.merged()
    if rank == 0:
        write_bad_samples(Path(folder, 'bad.json'), train=merged, validation=[])
    dist.barrier()
    dist.destroy_process_group()


def test_bad_samples_are_merged_over_ranks_and_written(tmp_path: Path) -> None:
    mp.spawn(merge_on, (str(tmp_path),), nprocs=2)
    report = json.loads((tmp_path / 'bad.json').read_text())
    assert report['train']['count'] == 3
    found = [(row['name'], row['times']) for row in report['train']['samples']]
    assert found == [('0.jpg', 1), ('1.jpg', 1), ('7.jpg', 2)]
    assert report['validation'] == {'count': 0, 'samples': []}
    write_bad_samples(tmp_path / 'none.json', train=[], validation=[])
    assert not (tmp_path / 'none.json').exists()


# shards


def test_shards_on_disk_are_as_exact_as_a_folder(folder: Path, tmp_path: Path) -> None:
    files = create_dataset(root=folder, split='train')
    for shard in range(3):
        with tarfile.open(tmp_path / f'train-{shard}.tar', 'w') as tar:
            for i in range(shard * 8, min(22, shard * 8 + 8)):
                content = {'jpg': files.read(i), 'cls': str(files.target(i)).encode()}
                for ending, data in content.items():
                    member = tarfile.TarInfo(f'{i:04}.{ending}')
                    member.size = len(data)  # type: ignore[arg-type]
                    tar.addfile(member, io.BytesIO(data))  # type: ignore[arg-type]
    shards = create_dataset('wds/', tmp_path, 'train-{0..2}.tar')
    expected = tensors(make(folder), epoch=1)

    def load(batch_size: int = 4, start: int = 0, **options: Any) -> list[tuple[torch.Tensor, ...]]:
        options = {'is_training': True, 'seed': 3, 'num_workers': 0, **AUGMENT, **options}
        loader = create_loader(shards, 32, batch_size, **options)
        # read here first: workers must not share the place in an open file
        shards.read(0)  # type: ignore[union-attr]
        return tensors(loader, 1, start)

    for workers in (0, 1, 2):
        assert same(load(num_workers=workers), expected)
    assert same(load(start=3, num_workers=2), expected[3:])
    assert same(joined([load(2, rank=rank, world_size=2) for rank in (0, 1)]), expected)


# streams


class Shards:
    """Shards of unequal lengths; one sample cannot be had."""

    classes, task, origin = ['a', 'b'], 'class', 'shards'

    def __init__(self, lengths: list[int], count: int | None = None):
        self.lengths, self.count = lengths, count
        self.shards = [f's{i}' for i in range(len(lengths))]
        self.read = 0

    def iterate(self, shard: int, start: int = 0) -> Iterator[StreamSample]:
        for i in range(start, self.lengths[shard]):
            self.read += 1
            image: bytes | str = jpeg(photo(40, 48, shard * 100 + i))
            if (shard, i) == (1, 2):
                image = 'the member is truncated'
            yield StreamSample(f's{shard}/{i}', image, i % 2)


def stream(lengths: list[int], batch_size: int = 4, **options: Any) -> Loader:
    data = StreamDataset(Shards(lengths, sum(lengths)))  # type: ignore[arg-type]
    options = {'is_training': True, 'seed': 3, 'num_workers': 0, 'bad_samples': 'skip', **AUGMENT, **options}
    return create_loader(data, 32, batch_size, **options)


@pytest.mark.parametrize('is_training', [True, False])
def test_batches_of_a_stream_are_the_same_for_any_number_of_workers(
    is_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('foveal.data.stream.BLOCK', 6)
    lengths = [9, 5, 7, 3]
    expected = tensors(stream(lengths, is_training=is_training), epoch=1)
    assert len(expected) == 6
    for workers in (1, 2):
        loader = stream(lengths, is_training=is_training, num_workers=workers)
        assert same(tensors(loader, epoch=1), expected)
    for start in range(6):
        assert same(tensors(stream(lengths, is_training=is_training), 1, start), expected[start:])
    addresses = torch.cat([batch[2] for batch in expected])
    assert len(addresses.unique(dim=0)) == len(addresses) == 23


def test_a_stream_goes_on_from_its_mark_without_reading_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('foveal.data.stream.BLOCK', 6)
    lengths = [9, 5, 7, 30]
    expected = tensors(stream(lengths), epoch=1)
    for taken in range(len(expected)):
        loader = stream(lengths, num_workers=2)
        loader.set_epoch(1)
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
        other = stream(lengths)
        other.load_state_dict(state)
        rest = [(b.images, b.targets, b.addresses) for b in other]
        assert same(rest, expected[taken:])
        # a block at most, beside the samples that are left
        assert other.dataset.reader.read <= sum(lengths) - 4 * taken + 6  # type: ignore[attr-defined]


@pytest.mark.parametrize(('lengths', 'world_size'), [([8, 8, 8, 8], 2), ([5, 9, 2, 7], 3), ([11, 6], 4)])
def test_ranks_share_a_stream(lengths: list[int], world_size: int) -> None:
    ranks = [
        tensors(stream(lengths, is_training=False, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    seen = [tuple(address) for rank in ranks for batch in rank for address in batch[2].tolist()]
    assert len(set(seen)) == len(seen) == sum(lengths) - 1


@pytest.mark.parametrize('world_size', [2, 3, 4, 6])
def test_global_batches_of_a_stream_are_the_same_on_any_number_of_ranks(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one lane and with four, whether the ranks divide the lanes or not; so after a stop on other ranks too."""
    monkeypatch.setattr('foveal.data.stream.BLOCK', 12)
    for lengths in ([9, 20, 2, 7], [5, 3, 4, 3] * 8):
        whole = stream(lengths, 12)
        expected = tensors(whole, epoch=1)
        whole.set_epoch(1)
        next(batches := iter(whole))
        state = json.loads(json.dumps(whole.state_dict()))
        del batches
        assert whole.sampler.lanes == len(lengths) // 8 or 1
        for start in (0, 1):
            ranks = []
            for rank in range(world_size):
                loader = stream(lengths, 12 // world_size, rank=rank, world_size=world_size)
                if start:
                    loader.load_state_dict(state)
                    ranks.append([(b.images, b.targets, b.addresses) for b in loader])
                else:
                    ranks.append(tensors(loader, epoch=1))
            assert {len(batches) for batches in ranks} == {len(expected) - start}
            for i, batch in enumerate(expected[start:]):
                union = by_address(*(rank[i] for rank in ranks))
                assert union.keys() == by_address(batch).keys()
                assert all(torch.equal(image, union[address]) for address, image in by_address(batch).items())


def by_address(*batches: Any) -> dict[tuple[int, ...], torch.Tensor]:
    """The images of batches, by their addresses."""
    return {
        tuple(address): image
        for images, _, addresses in batches
        for image, address in zip(images, addresses.tolist(), strict=True)
    }


def test_ranks_that_divide_the_lanes_share_the_shards_out() -> None:
    """No shard is read by two, and every sample of lanes that are alike comes once."""
    lengths = [4] * 32
    ranks = [stream(lengths, 4, rank=rank, world_size=4) for rank in range(4)]
    indices = [{int(a) for batch in tensors(loader) for a in batch[2][:, 1]} for loader in ranks]
    shards = [{index >> 32 for index in found} for found in indices]
    assert [len(found) for found in shards] == [8] * 4
    assert len(set.union(*shards)) == 32
    assert sum(map(len, indices)) == sum(lengths) - 1  # one cannot be read


def test_a_lane_that_is_short_is_gone_through_again_and_augmented_otherwise() -> None:
    ranks = [tensors(stream([20, 3] * 8, 2, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == 46
    addresses = [tuple(a) for rank in ranks for batch in rank for a in batch[2].tolist()]
    assert len(set(addresses)) == len(addresses)
    assert {repeat for _, _, repeat in addresses} >= {0, 1}


def test_a_stream_of_unknown_length_evaluates_and_does_not_train() -> None:
    data = StreamDataset(Shards([3, 2]))  # type: ignore[arg-type]
    loader = create_loader(data, 32, 4, num_workers=0, bad_samples='skip')
    assert sum(len(batch.images) for batch in loader) == 5
    with pytest.raises(ValueError, match='num_samples'):
        create_loader(data, 32, 4, is_training=True)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'batch_size': 0}, 'batch_size must be at least 1, got 0'),
        ({'num_workers': -1}, 'num_workers must be at least 0'),
        ({'batch_size': 12, 'world_size': 2}, 'use a batch_size of at most 11'),
        ({'rank': 2, 'world_size': 2}, r'rank must be in \[0, world_size=2\)'),
        ({'num_aug_repeats': 0.5}, 'num_aug_repeats must be at least 1'),
        ({'num_aug_splits': 2, 'no_aug': True}, 'num_aug_splits=2 is for training with augmentation'),
        ({'input_size_choices': [8, 16], 'batch_size_choices': [1, 2, 3]}, 'must be as many, got 2 and 3'),
        ({'batch_size_choices': [4, 0]}, 'batch_size_choices must each be at least 1'),
        ({'batch_size_choices': [4, 2], 'batch_choice_weights': [1]}, 'batch_choice_weights must be 2 weights'),
        ({'batch_size_choices': [4, 2], 'batch_choice_schedule': 'up'}, 'must be one of constant, progressive'),
        ({'batch_size_choices': [4], 'batch_choice_schedule': 'progressive'}, 'batch_schedule_epochs must be'),
        ({'num_batches': 0}, 'num_batches must be at least 1'),
        ({'bad_samples': 'ignore'}, "bad_samples must be one of raise, skip, got 'ignore'"),
        ({'bad_limit': -1}, 'bad_limit must be at least 0'),
    ],
)
def test_loader_refuses_what_cannot_work(folder: Path, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(folder, **options)


@pytest.mark.parametrize('name', ['pin_memory', 'fp16', 'collate_fn', 'tf_preprocessing'])
def test_options_without_a_counterpart_say_what_takes_their_place(folder: Path, name: str) -> None:
    with pytest.raises(TypeError, match=f'no option {name!r}: '):
        make(folder, **{name: True})
    with pytest.raises(TypeError, match=f'no option {name!r}: '):
        create_transform(8, **{name: True})


def test_a_samples_generator_is_numpys_philox_of_its_address() -> None:
    for seed, epoch, index, repeat in ((0, 0, 0, 0), (3, 5, 7, 1), (2**70 + 3, 9, 2**40 + 5, 2)):
        own = np.random.Philox(key=seed % 2**64 | epoch << 64, counter=index << 192 | repeat << 128)
        expected = np.random.Generator(own).integers(1 << 62, size=9)
        np.testing.assert_array_equal(sample_rng(seed, epoch, index, repeat).integers(1 << 62, size=9), expected)


def test_repeats_have_random_numbers_of_their_own() -> None:
    first = {sample_rng(1, e, i, r).random() for e in range(4) for i in range(4) for r in range(4)}
    assert len(first) == 64
    assert sample_rng(1, 2, 3, 0).random() == sample_rng(1, 2, 3).random()


def test_what_libjpeg_turbo_cannot_take_is_left_to_pillow() -> None:
    assert open_jpeg(CMYK.getvalue()) is None
    assert open_jpeg(b'\xff\xd8\xff' + bytes(40)) is None
    assert open_jpeg(WHOLE) is not None


def test_a_program_that_leaves_its_loader_running_ends(folder: Path) -> None:
    program = (
        'import sys\n'
        'from foveal.data import create_dataset, create_loader\n'
        'data = create_dataset(root=sys.argv[1], split="train")\n'
        'batches = iter(create_loader(data, 32, 4, is_training=True, num_workers=2))\n'
        'print(next(batches).images.shape[0])\n'
    )
    done = subprocess.run([sys.executable, '-c', program, str(folder)], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ('4\n', 0)
