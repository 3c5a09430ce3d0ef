"""The random numbers of one sample: an address, not a state."""

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

WORD = 1 << 64


class Key(ISeedSequence):
    """The state that a bit generator begins with, taken as it is.

    `Philox(key=...)` asks the operating system for entropy first and hashes it, for nothing: 9 us instead of 3, and
    among other work, when the caches are cold, 53 instead of 24.
    """

    def __init__(self, *words: int):
        self.words = np.array(words, np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """The words; as many as the bit generator asks for have to be given, two for Philox and three for SFC64."""
        del n_words, dtype
        return self.words


def sample_rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The generator of one sample, decided by (seed, epoch, index, repeat) alone.

    Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): seed and epoch are
    the key, index and repeat are the top words of the counter, so streams never meet, and no worker, rank or
    resumption has a state to carry.

    Args:
        seed: Seed of the run, at least 0.
        epoch: Epoch, at least 0.
        index: Index of the sample in the data set.
        repeat: Which of the sample's appearances in the epoch, from 0.

    Returns:
        A fresh generator.
    """
    counter = np.array((0, 0, repeat, index), np.uint64)
    # numpy's documentation takes any ISeedSequence, its types do not
    return np.random.Generator(np.random.Philox(Key(seed % WORD, epoch), counter=counter))  # type: ignore[arg-type]
