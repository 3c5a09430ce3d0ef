"""`make demo`: real handwritten digits as an image folder; a model trained, measured and asked about them.

The digits are the 1,797 of scikit-learn (E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI,
1998): 8x8 pixels, 17 shades. Every fifth image of each class is held out to measure on.
"""

import shutil
import sys
import time
from pathlib import Path

from foveal.cli import main as foveal

HELD_OUT = 5
SHADES = 16
RECIPE = Path(__file__).parent.parent / 'recipes' / 'digits.yaml'


def write_digits(root: Path) -> int:
    """Writes the digits as root/{train,val}/DIGIT/NUMBER.png; returns how many."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    seen: dict[int, int] = {}
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        count = seen[digit] = seen.get(digit, -1) + 1
        folder = root / ('val' if count % HELD_OUT == 0 else 'train') / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / SHADES).round().astype('uint8')).save(folder / f'{number:04d}.png')
    return len(digits.images)


def main() -> int:
    """Runs the demo in ./demo; returns the exit status."""
    root = Path('demo')
    shutil.rmtree(root, ignore_errors=True)
    data = root / 'digits'
    print(f'{write_digits(data)} digits written to {data}')
    run, sheet, scores = root / 'run', root / 'sheet.png', root / 'scores.json'
    last = run / 'last.safetensors'
    samples = [str(sorted((data / 'val' / str(digit)).iterdir())[-1]) for digit in range(10)]
    commands = (
        ['train', '--config', str(RECIPE), '--data', str(data), '--output', str(run)],
        ['validate', str(last), '--data', str(data), '--per-class', '--output', str(scores)],
        ['predict', str(last), *samples, '--topk', '3', '--sheet', str(sheet)],
    )
    for command in commands:
        print(f'\n$ foveal {" ".join(command)}', flush=True)
        start = time.perf_counter()
        if status := foveal(command):
            return status
        print(f'({time.perf_counter() - start:.1f} s)')
    print(f'\nLook at {run}/curves.png, {run}/confusion.png and {sheet}; the numbers are in {run}/metrics.csv.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
