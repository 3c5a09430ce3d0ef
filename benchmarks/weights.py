"""Time and memory to create a large model from a local file of weights: `python -m benchmarks.weights`.

With `--peer PYTHON` (or PEER_PYTHON set), the interpreter of an environment that holds timm, both libraries load the
same safetensors file in turns, each time in a new process, and the ratio of the medians is given. A mapped file is read
when it is used, so three times are taken from one start: until the model is there, until every weight has been read
once, and until one image has been classified. The file is in the page cache for both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = 'vit_large_patch16_224'
STEPS = ('created', 'weights read', 'image classified')

MAKE = """
import sys, foveal
from safetensors.torch import save_file
save_file(foveal.create_model(sys.argv[1]).state_dict(), sys.argv[2])
"""

WORKER = """
import importlib, json, sys, time, warnings
warnings.filterwarnings('ignore')
import torch
library = importlib.import_module(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
library.create_model(sys.argv[3].replace('large', 'tiny'))  # imports the family

def memory(key):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')  # the peak is counted from here
before, start = memory('VmRSS'), time.perf_counter()
model = library.create_model(sys.argv[3], checkpoint_path=sys.argv[4]).eval()
times = [time.perf_counter() - start]
total = float(sum(value.sum(dtype=torch.float64) for value in model.state_dict().values()))
times.append(time.perf_counter() - start)
peak = memory('VmHWM') - before
with torch.inference_mode():
    logit = float(model(torch.ones(1, 3, 224, 224))[0, 0])
times.append(time.perf_counter() - start)
print(json.dumps({'times': times, 'peak': peak, 'sum': total, 'logit': logit}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=os.environ.get('PEER_PYTHON'), help='interpreter of an environment with timm')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    sides = {'foveal': sys.executable} | ({'timm': args.peer} if args.peer else {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.safetensors'
        subprocess.run([sys.executable, '-c', MAKE, MODEL, str(path)], check=True)
        found: dict[str, list] = {name: [] for name in sides}
        for i in range(args.rounds + 1):  # one to warm up
            for name, python in sides.items():
                command = [python, '-c', WORKER, name, str(args.threads), MODEL, str(path)]
                line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[name] += [json.loads(line)] * bool(i)
        size = path.stat().st_size
    print(f'{MODEL}, {size / 1e6:.0f} MB, {args.rounds} rounds, {args.threads} threads')
    print(f'{"until":18}' + ''.join(f'{name + " ms":>12}' for name in sides) + ('   speed-up' if args.peer else ''))
    for step, title in enumerate(STEPS):
        median = {name: statistics.median(run['times'][step] for run in runs) for name, runs in found.items()}
        row = f'{title:18}' + ''.join(f'{value * 1000:12.1f}' for value in median.values())
        print(row + (f'{median["timm"] / median["foveal"]:11.2f}' if args.peer else ''))
    peaks = {name: max(run['peak'] for run in runs) / size for name, runs in found.items()}
    print(f'{"peak, x the file":18}' + ''.join(f'{peak:12.2f}' for peak in peaks.values()))
    sums = {run['sum'] for runs in found.values() for run in runs}
    logits = [run['logit'] for runs in found.values() for run in runs]
    print(f'same weights: {len(sums) == 1}, largest difference of a logit: {max(logits) - min(logits):.1e}')


if __name__ == '__main__':
    main()
