"""Time to create a large model and to run five models forward: `python -m benchmarks.models`.

With `--peer PYTHON` (or PEER_PYTHON set), the interpreter of an environment that holds timm, both libraries are timed
in one run, in turns. The speed-up is the median of the rounds' ratios, with their quartiles. `--control` puts foveal
in the peer's place: what it shows is the noise.
"""

import argparse
import os
import statistics

from benchmarks.side import Side, compare, interpreters, versus

FORWARD = ('resnet50', 'vit_small_patch16_224', 'convnext_tiny', 'efficientnet_b0', 'swin_tiny_patch4_window7_224')
CREATE = 'vit_large_patch16_224'

WORKER = """
import importlib, sys, time, warnings
warnings.filterwarnings('ignore')
import torch
library = importlib.import_module(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
model = None
for line in sys.stdin:
    verb, name, layout = line.split()
    if verb == 'create':
        start = time.perf_counter()
        model = library.create_model(name)
        print(time.perf_counter() - start, flush=True)
        model = None
        continue
    memory = torch.channels_last if layout == 'NHWC' else torch.contiguous_format
    if model is None:
        torch.manual_seed(0)
        model = library.create_model(name).eval().to(memory_format=memory)
        x = torch.randn(8, 3, 224, 224).to(memory_format=memory)
    with torch.inference_mode():
        start = time.perf_counter()
        model(x)
        print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=os.environ.get('PEER_PYTHON'), help='interpreter of an environment with timm')
    parser.add_argument('--control', action='store_true', help='foveal against itself')
    parser.add_argument('--rounds', type=int, default=10, help='measurements a process')
    parser.add_argument('--processes', type=int, default=3, help='processes a library')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--models', nargs='*', default=FORWARD)
    args = parser.parse_args()
    pythons = interpreters(args.peer)
    if args.control:
        pythons = {'foveal': pythons['foveal'], 'foveal again': pythons['foveal']}
    names = list(pythons)

    def start(name: str) -> Side:
        return Side(pythons[name], WORKER, name.split()[0], str(args.threads))

    jobs = [(f'create {CREATE} -', 2)] * (args.models is FORWARD)
    jobs += [(f'forward {name} {layout}', args.rounds) for name in args.models for layout in ('NCHW', 'NHWC')]
    print(
        f'{"job":46}' + ''.join(f'{name + " ms":>16}' for name in names) + '   speed-up (quartiles)' * (len(names) > 1)
    )
    for job, rounds in jobs:
        seconds = compare(start, names, job, rounds, args.processes)
        row = f'{job:46}' + ''.join(f'{statistics.median(seconds[name]) * 1000:16.1f}' for name in names)
        print(row + versus(seconds), flush=True)


if __name__ == '__main__':
    main()
