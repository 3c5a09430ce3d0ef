"""How long a fresh process takes to import foveal and list its models: `python -m benchmarks.imports`.

With `--peer PYTHON` (or PEER_PYTHON set), the interpreter of an environment that holds timm, its listing is timed too,
in turn with ours, and the ratio is given.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

OURS = 'import foveal; assert len(foveal.list_models()) > 0; import sys; assert "torch" not in sys.modules'
PEER = 'import timm; assert len(timm.list_models()) > 0'


def seconds(python: str, code: str) -> float:
    """Wall-clock seconds of one fresh process, the start of the interpreter included."""
    start = time.perf_counter()
    subprocess.run([python, '-W', 'ignore', '-c', code], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default=os.environ.get('PEER_PYTHON'), help='interpreter of an environment with timm')
    parser.add_argument('--runs', type=int, default=7)
    args = parser.parse_args()
    sides = {'foveal': (sys.executable, OURS)} | ({'timm': (args.peer, PEER)} if args.peer else {})
    for side in sides.values():  # fills the file cache
        seconds(*side)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.runs):
        for name, side in sides.items():
            times[name].append(seconds(*side))
    for name, values in times.items():
        print(f'{name}: import and list {statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})')
    if args.peer:
        print(f'ratio: {statistics.median(times["timm"]) / statistics.median(times["foveal"]):.1f}')


if __name__ == '__main__':
    main()
