"""Time to create a large model and to run five models forward: `python -m benchmarks.models`.

With `--peer PYTHON` (or PEER_PYTHON set), the interpreter of an environment that holds timm, both libraries are timed
in one run: each in a process of its own, in turns, and the ratio of the medians is given.
"""

import argparse
import os
import statistics
import subprocess
import sys

FORWARD = ('resnet50', 'vit_small_patch16_224', 'convnext_tiny', 'efficientnet_b0', 'swin_tiny_patch4_window7_224')
CREATE = 'vit_large_patch16_224'

# one line in: a job; one line out: its seconds
WORKER = """
import importlib, sys, time, warnings
warnings.filterwarnings('ignore')
import torch
library = importlib.import_module(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
models = {}
for line in sys.stdin:
    verb, name, layout = line.split()
    if verb == 'create':
        start = time.perf_counter()
        model = library.create_model(name)
        print(time.perf_counter() - start, flush=True)
        del model
        continue
    memory = torch.channels_last if layout == 'NHWC' else torch.contiguous_format
    if (name, layout) not in models:
        torch.manual_seed(0)
        models = {(name, layout): library.create_model(name).eval().to(memory_format=memory)}
    x = torch.randn(8, 3, 224, 224).to(memory_format=memory)
    with torch.inference_mode():
        start = time.perf_counter()
        models[name, layout](x)
        print(time.perf_counter() - start, flush=True)
"""


class Side:
    """One library in a process of its own."""

    def __init__(self, python: str, library: str, threads: int) -> None:
        command = [python, '-W', 'ignore', '-c', WORKER, library, str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, job: str) -> float:
        """Seconds of one job."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f'{job}\n')
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=os.environ.get('PEER_PYTHON'), help='interpreter of an environment with timm')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    sides = {'foveal': Side(sys.executable, 'foveal', args.threads)}
    if args.peer:
        sides['timm'] = Side(args.peer, 'timm', args.threads)
    jobs = [(f'create {CREATE} -', min(args.rounds, 5))]
    jobs += [(f'forward {name} {layout}', args.rounds) for name in FORWARD for layout in ('NCHW', 'NHWC')]
    print(f'{"job":46}' + ''.join(f'{name + " ms":>12}' for name in sides) + ('   speed-up' if args.peer else ''))
    for job, rounds in jobs:
        times: dict[str, list[float]] = {name: [] for name in sides}
        for i in range(rounds + 2):  # two to warm up
            for name, side in sides.items():
                taken = side.seconds(job)
                if i >= 2:
                    times[name].append(taken)
        median = {name: statistics.median(values) for name, values in times.items()}
        row = f'{job:46}' + ''.join(f'{value * 1000:12.1f}' for value in median.values())
        print(row + (f'{median["timm"] / median["foveal"]:11.2f}' if args.peer else ''), flush=True)


if __name__ == '__main__':
    main()
