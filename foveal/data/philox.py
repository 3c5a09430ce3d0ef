"""Random numbers of many addresses at once.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter into four numbers by
ten rounds of multiplication, so what an address draws does not depend on what is drawn beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW, HALF = np.array([0xFFFFFFFF, 32], np.uint64)


def philox(counter: Sequence[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Four 32-bit numbers of each counter.

    Args:
        counter: Four uint64 arrays of one shape, each holding 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four uint64 arrays of that shape, with numbers in [0, 2**32).
    """
    a, b, c, d = counter
    for step in range(10):
        k0, k1 = (np.uint64((word + step * weyl) & 0xFFFFFFFF) for word, weyl in zip(key, WEYL, strict=True))
        # a product of 32-bit words fills 64 bits
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (second >> HALF) ^ b ^ k0, second & LOW, (first >> HALF) ^ d ^ k1, first & LOW
    return [a, b, c, d]


def words(addresses: np.ndarray, draws: np.ndarray, seed: int) -> list[np.ndarray]:
    """Four 32-bit numbers of samples' addresses, as uint64.

    Args:
        addresses: Integers (..., 3): epoch, index and repeat of each sample, each at least 0.
        draws: Integers (...), which group of four numbers of the address.
        seed: Of the run, at least 0.
    """
    epoch, index, repeat = np.moveaxis(np.asarray(addresses).astype(np.uint64), -1, 0)
    # a counter has 32 bits for each word; the high bits of an index share the repeat's
    high = (repeat + (index >> HALF << np.uint64(16))) & LOW
    counter = np.broadcast_arrays(index & LOW, epoch & LOW, high, np.asarray(draws).astype(np.uint64))
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))


def uniform(words: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers in [0, 1) of what `words` gave (...), float32 (..., 4), of 24 bits."""
    return (np.stack(words, axis=-1) >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)


def seeds_of(words: Sequence[np.ndarray]) -> list[Any]:
    """Seeds of 63 bits for generators, of what `words` gave: integers in lists of the same shape."""
    low, high, *_ = words
    return (low | (high >> np.uint64(1)) << HALF).tolist()
