"""Where the time of loading goes, stage by stage, and what to do about it."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from foveal.data.dataset import ImageDataset
from foveal.data.factory import create_loader
from foveal.data.fetch import put
from foveal.data.images import Picture, UnreadableImageError
from foveal.data.preprocess import Preprocess
from foveal.data.readers import Reader, StreamReader
from foveal.data.readers.base import Encoded
from foveal.data.sample import sample_rng
from foveal.data.transforms import create_transform, normalize_batch

if TYPE_CHECKING:
    from foveal.commands.data import BenchConfig

# samples that the stages are measured on, in turns
SAMPLES = 256


@dataclass(frozen=True)
class Stage:
    """One step of loading.

    Attributes:
        name: What is done.
        microseconds: Of one core, an image.
        where: worker or main process.
    """

    name: str
    microseconds: float
    where: str


def bench(config: 'BenchConfig', readers: dict[str, Reader | StreamReader]) -> int:
    """`foveal data bench`: prints the table of the first split that can be read in any order; the exit status.

    Raises:
        ValueError: Only streams, or no readable image.
    """
    readable = {split: reader for split, reader in readers.items() if isinstance(reader, Reader)}
    if not readable:
        raise ValueError(f'{config.data} gives its samples in its own order only; pack it, and measure the shards')
    split, reader = next(iter(readable.items()))
    data = ImageDataset(reader, np.arange(len(reader)), channels=config.in_chans)
    device = config.device if config.device != 'auto' else 'cuda' if torch.cuda.is_available() else 'cpu'
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stages = measure_stages(data, config, torch.device(device))
        speeds = measure_loader(data, config, device)
    finally:
        torch.set_num_threads(threads)
    report(config, split, len(data), stages, speeds)
    return 0


def measure_stages(data: ImageDataset, config: 'BenchConfig', device: torch.device) -> list[Stage]:
    """Every stage of a training crop alone, on one core."""
    channels, size = config.in_chans, config.img_size
    preprocess = Preprocess((channels, size, size), mean=(0.5,) * channels, std=(0.25,) * channels)
    options: dict[str, Any] = {'is_training': True, 'normalize': False, 'mean': preprocess.mean, 'std': preprocess.std}
    plain = create_transform((channels, size, size), color_jitter=0.0, **options)
    full = create_transform((channels, size, size), color_jitter=config.color_jitter, **options)
    encoded = list(readable_samples(data, config))
    if not encoded:
        raise ValueError(f'none of the first {SAMPLES} images of {config.data} can be read')
    indices = np.random.default_rng(0).permutation(len(data))[:SAMPLES]
    pictures = [Picture(Picture(sample, channels).pixels(), channels) for sample in encoded[:32]]
    crops = [np.ascontiguousarray(plain.array(picture, sample_rng(0, 0, i))) for i, picture in enumerate(pictures)]
    batch = np.empty((len(crops), channels, size, size), crops[0].dtype)
    images = torch.from_numpy(batch)
    loader = create_loader(data, (channels, size, size), 1, num_workers=0, mean=preprocess.mean, std=preprocess.std)
    rngs = [sample_rng(0, 1, i) for i in range(SAMPLES)]

    def per_image(action: Callable[[int], object], count: int) -> float:
        return timed(action, count, config.seconds)

    stages = [
        Stage('read', per_image(lambda i: data.read(int(indices[i])), len(indices)), 'worker'),
        Stage('decode', per_image(lambda i: Picture(encoded[i], channels).pixels(), len(encoded)), 'worker'),
        Stage('crop, resize, flip', per_image(lambda i: plain.array(pictures[i], rngs[i]), len(pictures)), 'worker'),
    ]
    augmented = per_image(lambda i: full.array(pictures[i], rngs[i]), len(pictures))
    stages += [
        Stage('augment', max(0.0, augmented - stages[-1].microseconds), 'worker'),
        Stage('collate', per_image(lambda i: put(batch, i, crops[i], False), len(crops)), 'worker'),
    ]

    def deliver(_: int) -> None:
        if device.type == 'cuda':
            normalize_batch(images.to(device), preprocess)
            torch.cuda.synchronize(device)
        else:
            loader.normalize_host(images).to(device)

    stages.append(Stage(f'copy to {device}, normalise', per_image(deliver, 1) / len(crops), 'main'))
    return stages


def readable_samples(data: ImageDataset, config: 'BenchConfig') -> Iterator[Encoded]:
    """What some samples, chosen at random, hold."""
    for index in np.random.default_rng(0).permutation(len(data))[:SAMPLES]:
        try:
            sample = data.read(int(index))
            Picture(sample, config.in_chans).pixels()
        except UnreadableImageError:
            continue
        yield sample


def timed(action: Callable[[int], object], count: int, seconds: float) -> float:
    """Microseconds a call, the median of rounds over all numbers below `count`."""
    rounds: list[float] = []
    for i in range(count):
        action(i)
    end = time.perf_counter() + seconds
    while not rounds or time.perf_counter() < end:
        begin = time.perf_counter()
        for i in range(count):
            action(i)
        rounds.append((time.perf_counter() - begin) / count)
    return float(np.median(rounds)) * 1e6


def measure_loader(data: ImageDataset, config: 'BenchConfig', device: str) -> dict[int, float]:
    """Images a second of the whole loader, for some numbers of workers."""
    channels = config.in_chans
    speeds = {}
    for workers in sorted({0, 1, config.workers}):
        loader = create_loader(
            data,
            (channels, config.img_size, config.img_size),
            min(config.batch_size, len(data)),
            is_training=True,
            num_workers=workers,
            device=device,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            color_jitter=config.color_jitter,
            bad_samples='skip',
            bad_limit=len(data),
            num_batches=100_000,
        )
        batches = iter(loader)
        for _ in range(1 + 2 * workers):
            next(batches)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() < begin + config.seconds:
            count += len(next(batches).images)
        speeds[workers] = count / (time.perf_counter() - begin)
        del batches, loader
    return speeds


def report(config: 'BenchConfig', split: str, count: int, stages: list[Stage], speeds: dict[int, float]) -> None:
    """The table, and what follows from it."""
    console = Console()
    table = Table(title=f'{config.data}, {split}: {count} images, one core, {config.img_size} px')
    for column, justify in (('stage', 'left'), ('where', 'left'), ('us an image', 'right'), ('images/s', 'right')):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for stage in stages:
        table.add_row(stage.name, stage.where, f'{stage.microseconds:.0f}', f'{1e6 / max(stage.microseconds, 0.1):.0f}')
    console.print(table)
    loaders = Table(title=f'the whole loader, batches of {min(config.batch_size, count)}')
    loaders.add_column('workers', justify='right')
    loaders.add_column('images/s', justify='right')
    for workers, speed in speeds.items():
        loaders.add_row(str(workers), f'{speed:.0f}')
    console.print(loaders)
    for line in advice(stages, speeds, os.cpu_count() or 1):
        console.print(line)


def advice(stages: list[Stage], speeds: dict[int, float], cores: int) -> list[str]:
    """What limits loading, and how many workers are worth having."""
    slowest = max(stages, key=lambda stage: stage.microseconds)
    in_workers = sum(stage.microseconds for stage in stages if stage.where == 'worker')
    in_main = sum(stage.microseconds for stage in stages if stage.where == 'main')
    remedies = {
        'read': 'the disk or network limits: `foveal data pack` into shards, or copy the data nearer',
        'decode': 'decoding limits: store smaller images (`foveal data pack --size`), or use more workers',
        'crop, resize, flip': 'resizing limits: store smaller images (`foveal data pack --size`)',
        'augment': 'the augmentation limits: fewer operations, or more workers',
        'collate': 'copying within memory limits: a smaller input',
    }
    share = slowest.microseconds / (in_workers + in_main)
    lines = [
        f'{slowest.name} takes {100 * share:.0f} % of the time; '
        + remedies.get(slowest.name, 'the main process limits: a device that normalises, or a smaller input')
    ]
    # more workers than keep the main process busy, or than there are cores, give nothing
    useful = max(1, min(cores, round(in_workers / max(in_main, 1.0))))
    lines.append(
        f'workers: {useful} ({cores} cores; one gives about {1e6 / in_workers:.0f} images/s, the main process takes at '
        f'most {1e6 / max(in_main, 1.0):.0f})'
    )
    lines.append('decoder: libjpeg-turbo for plain JPEG, Pillow for all else; nothing to choose')
    best = max(speeds, key=lambda workers: speeds[workers])
    lines.append(f'fastest as measured: {best} workers, {speeds[best]:.0f} images/s')
    return lines
