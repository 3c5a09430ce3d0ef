"""Real photographs that scikit-image and scikit-learn ship.

`python -m tests.photos FILE.npz` writes them, for an environment that has neither.
"""

import sys
from functools import cache

import numpy as np
from skimage import data
from sklearn.datasets import load_sample_image

NAMES = ('astronaut', 'chelsea', 'coffee', 'china')


@cache
def photo(name: str) -> np.ndarray:
    """A photograph, uint8 (height, width, 3): `small` is a part of coffee, `china` lies on its side."""
    if name == 'china':
        return np.ascontiguousarray(load_sample_image('china.jpg').transpose(1, 0, 2))
    if name == 'small':
        return np.ascontiguousarray(photo('coffee')[100:220, 100:290])
    return np.ascontiguousarray(getattr(data, name)())


if __name__ == '__main__':
    np.savez(sys.argv[1], **{name: photo(name) for name in (*NAMES, 'small')})
