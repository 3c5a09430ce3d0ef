"""Runs killed at random moments, again and again, end as a run that nobody touched: the same weights, bit for bit.

    make soak                                 25 runs
    python -m tests.soak --runs 3 --seed 1

Each run is killed once or twice, by SIGKILL at a moment drawn from the whole of its life (building, updates, saving,
evaluation, pictures), and goes on by `resume: auto` with another number of workers. What is compared: weights,
optimizer, running mean, schedule, history and losses in last.safetensors, all of best.safetensors and of the best
epochs', metrics.csv without what a clock says.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foveal import create_model
from foveal.engine import checkpoint
from foveal.engine.config import TrainConfig
from foveal.engine.train import train
from tests.images import write_folder

CLOCK = ('seconds', 'images_per_second')
FREE = ('data', 'output', 'resume', 'workers')
KILLS = 2  # of each run; where it ends before the second, one
# a child begins with torch imported, so that a run takes a second and kills fall on all of it
CONTEXT = multiprocessing.get_context('fork')


def tiny(data: Path, output: Path) -> TrainConfig:
    """A run of three epochs of four updates, saved after each, with all that a run can carry."""
    return TrainConfig(
        data=str(data), model='test_convnext', model_options={'drop_path_rate': 0.2}, img_size=32, epochs=3,
        warmup_epochs=0.5, batch_size=12, lr=2e-3, workers=0, device='cpu', color_jitter=0.2, mixup=0.2, ema=0.9,
        output=str(output), threads=1, save_updates=1, keep=2, resume='auto',
    )  # fmt: skip


def child(config: TrainConfig, log: Path) -> None:
    """Trains, with what it says in a file."""
    with log.open('a') as sys.stdout:
        try:
            train(config)
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            raise


def digest(output: Path) -> str:
    """The hash of all that a run leaves, times and places aside."""
    found = hashlib.sha256()
    for path in sorted(output.rglob('*.safetensors')):
        saved = checkpoint.load(path)
        header: dict[str, Any] = json.loads(json.dumps(saved.header))
        for row in [header['metrics'], *header.get('run', {}).get('history', [])]:
            for key in CLOCK:
                row.pop(key)
        for key in FREE if 'run' in header else ():
            header['run']['config'].pop(key)
        found.update(f'{path.relative_to(output)} {json.dumps(header, sort_keys=True)}'.encode())
        for name, tensor in sorted({**saved.weights, **saved.extra}.items()):
            found.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode() + tensor.numpy().tobytes())
    with (output / 'metrics.csv').open() as file:
        rows = [{key: value for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(file)]
    found.update(json.dumps(rows).encode())
    return found.hexdigest()


def finish(config: TrainConfig, log: Path) -> float:
    """Lets a run come to its end; returns the seconds that it took."""
    began = time.perf_counter()
    process = CONTEXT.Process(target=child, args=(config, log))
    process.start()
    process.join()
    if process.exitcode:
        raise AssertionError(f'a run ended with {process.exitcode}:\n{log.read_text()[-3000:]}')
    return time.perf_counter() - began


def kill_after(config: TrainConfig, log: Path, seconds: float) -> bool:
    """Starts a run and kills it after some seconds; whether it was still running."""
    process = CONTEXT.Process(target=child, args=(config, log))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    if process.exitcode not in (0, -9):
        raise AssertionError(f'a run ended with {process.exitcode}:\n{log.read_text()[-3000:]}')
    return process.exitcode != 0


def soak(folder: Path, runs: int, seed: int) -> int:
    """Kills runs and compares their ends with that of one that nobody touched.

    Args:
        folder: An empty folder.
        runs: How many.
        seed: Decides the moments.

    Returns:
        How many runs ended otherwise.
    """
    rng = random.Random(seed)
    data = write_folder(folder / 'data')
    # imported once, by the parent, so that a child's life is a run's
    create_model('test_convnext')
    finish(tiny(data, folder / 'first'), folder / 'first.txt')
    seconds = finish(tiny(data, folder / 'whole'), folder / 'whole.txt')
    expected, wrong, killed = digest(folder / 'whole'), 0, 0
    assert digest(folder / 'first') == expected
    print(f'unbroken: {expected[:16]}, {seconds:.1f} s', flush=True)
    for number in range(runs):
        output, log = folder / f'run{number}', folder / f'run{number}.txt'
        moments = list[float]()
        while len(moments) < KILLS:
            config = replace(tiny(data, output), workers=rng.choice((0, 0, 1)))
            moment, began = rng.uniform(0, seconds), time.perf_counter()
            if kill_after(config, log, moment):
                moments.append(moment)
            elif moments:
                break
            else:
                # it was quicker than the unbroken one, and ended: another one takes its place
                seconds = min(seconds, time.perf_counter() - began)
                shutil.rmtree(output)
                log.unlink()
        finish(replace(tiny(data, output), workers=rng.choice((0, 0, 2))), log)
        got = digest(output)
        left = [path.name for path in output.rglob('.*')]
        wrong, killed = wrong + (got != expected or bool(left)), killed + len(moments)
        gone_on = [line for line in log.read_text().splitlines() if line.startswith('going on')]
        at = ' and '.join(f'{moment:.2f}' for moment in moments)
        print(f'run {number + 1:2}: killed at {at} s; {"; ".join(gone_on)}: {got[:16]}, left {left}', flush=True)
    print(f'{runs} runs, {killed} killed, {wrong} ended otherwise')
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--runs', type=int, default=25)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return min(1, soak(Path(folder), options.runs, options.seed))


if __name__ == '__main__':
    sys.exit(main())
