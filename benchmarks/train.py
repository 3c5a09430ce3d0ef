"""Images a second in training: `python -m benchmarks.train`.

Ours is the engine's own update (`foveal train`, without reading images); the peer's is the same step built of its
parts, under PEER_PYTHON or --peer: model, label-smoothed cross-entropy, autocast, optimizer. Both run in turns, in
processes of their own, with the allocator as it comes, which ours tells to keep its memory (`foveal/engine/memory.py`);
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=68719476736 in the environment tell both. The speed-up is the
median of the rounds' ratios, with their quartiles. The settings of a side are written as precision, memory format, and
`compile` where it is compiled.
"""

import argparse
import os
import statistics

from benchmarks.side import Side, compare, interpreters, versus

MODELS = {'resnet50': 'sgd', 'vit_small_patch16_224': 'adamw'}
# ours, the peer's: as they come, then what is fastest of each
SETTINGS = {
    'fp32': ('fp32,NHWC', 'fp32,NCHW'),
    'bf16': ('bf16,NHWC', 'bf16,NHWC'),
    'bf16 compiled': ('bf16,NHWC,compile', 'bf16,NHWC,compile'),
}

OURS = """
import sys, tempfile, time, warnings
warnings.filterwarnings('ignore')
import numpy as np, torch
from pathlib import Path
from foveal.engine import distributed
from foveal.engine.build import build, open_data, wrap
from foveal.engine.config import TrainConfig
from foveal.engine.guards import Guard
from foveal.engine.train import update
name, opt, batch, threads, setting = sys.argv[1:]
precision, layout, *compiled = setting.split(',')
with tempfile.TemporaryDirectory() as folder:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (int(batch), 224, 224, 3), np.uint8), np.arange(int(batch)) % 1000
    file = Path(folder) / 'noise.npz'
    splits = {f'{split}_{what}': value for split in ('train', 'val')
              for what, value in (('images', images), ('labels', labels))}
    np.savez(file, **splits)
    config = TrainConfig(data=str(file), model=name, opt=opt, lr=1e-4, batch_size=int(batch), precision=precision,
                         channels_last=layout == 'NHWC', compile='default' if compiled else '', workers=0, device='cpu',
                         threads=int(threads))
    process = distributed.start(config.device, config.threads)
    run, loader, _ = build(config, process, *open_data(config))
    task, guard = wrap(run.task, config, process).train(), Guard(run, loader, process)
    loader.set_epoch(0, 0)
    given = next(iter(loader))
for line in sys.stdin:
    start = time.perf_counter()
    update(run, task, iter([given]), 1, None, process, guard).item()
    print(time.perf_counter() - start, flush=True)
"""

PEERS = """
import sys, time, warnings
warnings.filterwarnings('ignore')
import torch, timm
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
name, opt, batch, threads, setting = sys.argv[1:]
precision, layout, *compiled = setting.split(',')
torch.set_num_threads(int(threads))
memory = torch.channels_last if layout == 'NHWC' else torch.contiguous_format
classes = int(batch)
model = timm.create_model(name, num_classes=classes).train().to(memory_format=memory)
images = torch.randn(int(batch), 3, 224, 224).to(memory_format=memory)
labels = torch.arange(int(batch)) % classes
optimizer, criterion = create_optimizer_v2(model, opt, 1e-4, 0.05), LabelSmoothingCrossEntropy(0.1)
forward = torch.compile(model) if compiled else model
for line in sys.stdin:
    start = time.perf_counter()
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
        loss = criterion(forward(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss.item()
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=os.environ.get('PEER_PYTHON'), help='interpreter of an environment with timm')
    parser.add_argument('--rounds', type=int, default=6, help='measurements a process')
    parser.add_argument('--processes', type=int, default=2, help='processes a library')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--models', nargs='*', default=list(MODELS), choices=list(MODELS))
    parser.add_argument('--settings', nargs='*', default=list(SETTINGS), choices=list(SETTINGS))
    args = parser.parse_args()
    pythons = interpreters(args.peer)
    names = list(pythons)
    print(f'{"model":24}{"setting":16}' + ''.join(f'{name + " img/s":>14}' for name in names) + '   speed-up')
    for model in args.models:
        for setting in args.settings:

            def start(name: str, model: str = model, setting: str = setting) -> Side:
                flags = SETTINGS[setting][name != 'foveal']
                worker = OURS if name == 'foveal' else PEERS
                jobs = (model, MODELS[model], str(args.batch), str(args.threads), flags)
                return Side(pythons[name], worker, *jobs, environment={})

            seconds = compare(start, names, 'update', args.rounds, args.processes)
            row = f'{model:24}{setting:16}'
            row += ''.join(f'{args.batch / statistics.median(seconds[name]):14.2f}' for name in names)
            print(row + versus(seconds), flush=True)


if __name__ == '__main__':
    main()
