"""The random numbers of one sample: an address, not a state."""

import numpy as np

WORD = 1 << 64


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
    return np.random.Generator(np.random.Philox(key=seed % WORD | epoch << 64, counter=index << 192 | repeat << 128))
