"""Speed of loading: `python -m benchmarks.data`.

JPEG files of 500x375 pixels (quality 92), cut from scikit-learn's two photographs, to batches of 64 normalised images
of 224x224 on the CPU, in this process alone and by two workers: 2,048 of them, since of short epochs the ends count,
where workers have nothing to do. With `--peer PYTHON` (or PEER_PYTHON set), the interpreter of an environment that
holds timm, both libraries are timed in one run, in turns, each with the allocator as users have it. The first row is
the limit: the same files decoded whole, and nothing else.

`--memory` shows instead what the workers hold of their own over 20 epochs of a million file names.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.side import Side, compare, interpreters, versus

IMAGES, BATCH = 2048, 64
JOBS = ('limit', 'flip', 'jitter', 'randaugment', 'evaluation')

WORKER = """
import os, sys, time, warnings
warnings.filterwarnings('ignore')
import torch
from PIL import ImageOps
torch.set_num_threads(1)
library, folder, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
if library == 'timm':
    from timm.data import create_dataset, create_loader
    # Pillow 13 refuses the 0 bits that timm asks for: without this its RandAugment crashes
    posterize = ImageOps.posterize
    ImageOps.posterize = lambda image, bits: posterize(image, max(1, int(bits)))
    own = {'device': torch.device('cpu')}
else:
    from foveal.data import create_dataset, create_loader
    own = {}
data = create_dataset('', root=folder, split='train')
options = {
    'flip': dict(is_training=True, color_jitter=0.0, interpolation='random'),
    'jitter': dict(is_training=True, color_jitter=0.4, interpolation='random'),
    'randaugment': dict(is_training=True, auto_augment='rand-m9-mstd0.5-inc1', re_prob=0.25, re_mode='pixel',
                        interpolation='random'),
    'evaluation': dict(interpolation='bilinear'),
}
loaders = {}

def decode(share):
    from foveal.data.images import decode
    for i in range(*share):
        decode(data.read(i))

def limit(workers):
    from multiprocessing import get_context
    parts = [(k, len(data), max(1, workers)) for k in range(max(1, workers))]
    if not workers:
        start = time.perf_counter()
        decode(parts[0])
        return time.perf_counter() - start
    with get_context('fork').Pool(workers) as pool:
        pool.map(abs, range(workers))
        start = time.perf_counter()
        pool.map(decode, parts, chunksize=1)
        return time.perf_counter() - start

for line in sys.stdin:
    job, workers = line.split()[0], int(line.split()[1])
    if job == 'limit':
        print(limit(workers), flush=True)
        continue
    if job not in loaders:
        loaders = {job: {}}
    if workers not in loaders[job]:
        extra = dict(own, persistent_workers=False) if library == 'timm' and not workers else own
        loaders[job][workers] = create_loader(data, 224, batch, num_workers=workers, **options[job], **extra)
    start = time.perf_counter()
    first, count = None, 0
    for images, targets in loaders[job][workers]:
        first = first or time.perf_counter() - start
        count += len(images)
    seconds = (time.perf_counter() - start) * len(data) / count
    print(first if line.split()[2:] == ['first'] else seconds, flush=True)
"""


def write_images(folder: Path) -> None:
    """Cuts and scales 500x375 pictures of the two photographs."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        photograph = photographs[i % 2]
        width = int(rng.integers(400, 570))
        height = width * 3 // 4
        left, top = (int(rng.integers(0, side + 1)) for side in (photograph.width - width, photograph.height - height))
        picture = photograph.resize((500, 375), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        inside = folder / 'train' / f'class{i % 8}'
        inside.mkdir(parents=True, exist_ok=True)
        picture.save(inside / f'{i:04}.jpg', quality=92)


def speed(peer: str | None, rounds: int, jobs: list[str]) -> None:
    """The table of images a second."""
    pythons = interpreters(peer)
    names = list(pythons)
    print(f'{"images a second":28}' + ''.join(f'{name:>10}' for name in names) + '   speed-up (quartiles)' * bool(peer))
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))

        def start(name: str) -> Side:
            return Side(pythons[name], WORKER, name, folder, str(BATCH), environment={})

        for job in jobs:
            for workers in (0, 2):
                sides = names[:1] if job == 'limit' else names
                seconds = compare(start, sides, f'{job} {workers}', rounds, 1, warmup=1)
                row = f'{job + (f", {workers} workers" if workers else ", this process"):28}'
                row += ''.join(f'{IMAGES / statistics.median(seconds[name]):10.0f}' for name in sides)
                print(row + versus(seconds), flush=True)
        if 'flip' in jobs:
            seconds = compare(start, names, 'flip 2 first', rounds, 1, warmup=1)
            row = ''.join(f'{1000 * statistics.median(seconds[name]):10.0f}' for name in names)
            print(f'{"ms to a later epoch":28}' + row)


def memory() -> None:
    """The table of what workers hold of their own: their proportional and unique memory, in MB."""
    from foveal.data import ImageDataset, create_loader
    from foveal.data.readers.names import Names

    class Reader:
        """A million names, and one small image behind them all."""

        classes, task, origin = ['a', 'b'], 'class', 'names'

        def __init__(self, count: int) -> None:
            self.names = Names(f'train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG' for i in range(count))
            self.targets = np.arange(count) % 2
            self.image = np.zeros((8, 8, 3), np.uint8)

        def __len__(self) -> int:
            return len(self.names)

        def name(self, index: int) -> str:
            return self.names[index]

        def read(self, index: int) -> np.ndarray:
            assert self.name(index).endswith(f'_{index}.JPEG')
            return self.image

    reader = Reader(1_000_000)
    data = ImageDataset(reader, np.arange(len(reader)))
    loader = create_loader(data, 8, 500, is_training=True, num_workers=2, train_crop_mode='none', num_batches=100)
    print(f'{"epoch":>8}{"PSS MB":>10}{"USS MB":>10}   of both workers; 50,000 samples an epoch')
    for epoch in range(20):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
        if epoch in (0, 1, 4, 9, 14, 19):
            workers = [worker.pid for worker in loader.batches._iterator._workers]  # type: ignore[union-attr]
            held = [smaps(pid) for pid in workers]
            proportional, unique = (sum(column) / 1024 for column in zip(*held, strict=True))
            print(f'{epoch + 1:8}{proportional:10.1f}{unique:10.1f}', flush=True)


def smaps(pid: int) -> tuple[int, int]:
    """Proportional and unique memory of a process, in kB."""
    rows = [line.split() for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()[1:]]
    sizes = {row[0]: int(row[1]) for row in rows}
    return sizes['Pss:'], sizes['Private_Clean:'] + sizes['Private_Dirty:']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=os.environ.get('PEER_PYTHON'), help='interpreter of an environment with timm')
    parser.add_argument('--rounds', type=int, default=5, help='epochs that count, a row and library')
    parser.add_argument('--jobs', nargs='*', default=JOBS, choices=JOBS)
    parser.add_argument('--memory', action='store_true', help='what the workers hold, in place of speed')
    args = parser.parse_args()
    if args.memory:
        memory()
    else:
        speed(args.peer, args.rounds, list(args.jobs))


if __name__ == '__main__':
    main()
