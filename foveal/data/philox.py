"""Random numbers of many addresses at once, on any device.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter into four numbers by
ten rounds of multiplication, so what an address draws does not depend on what is drawn beside it.
"""

import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF


def philox(counter: list[torch.Tensor], key: tuple[int, int]) -> list[torch.Tensor]:
    """Four 32-bit numbers of each counter.

    Args:
        counter: Four int64 tensors of one shape, each holding 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four int64 tensors of that shape, with numbers in [0, 2**32).
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        # a product of 32-bit words fills 64 bits: the sign bit wraps around, its halves are right
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (
            ((second >> 32) & LOW) ^ b ^ k0,
            second & LOW,
            ((first >> 32) & LOW) ^ d ^ k1,
            first & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return [a, b, c, d]


def words(addresses: torch.Tensor, draws: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Four 32-bit numbers of samples' addresses, as int64.

    Args:
        addresses: int64 (..., 3): epoch, index and repeat of each sample, each at least 0.
        draws: int64 (...), which group of four numbers of the address.
        seed: Of the run, at least 0.
    """
    epoch, index, repeat = addresses.unbind(-1)
    # a counter has 32 bits for each word; the high bits of an index share the repeat's
    counter = [index & LOW, epoch & LOW, (repeat + ((index >> 32) << 16)) & LOW, draws]
    return philox(counter, (seed & LOW, seed >> 32 & LOW))


def uniform(addresses: torch.Tensor, draws: torch.Tensor, seed: int) -> torch.Tensor:
    """Numbers in [0, 1) of samples' addresses, float32 (..., 4), of 24 bits; arguments as in `words`."""
    return torch.stack([(number >> 8).float() * 2.0**-24 for number in words(addresses, draws, seed)], dim=-1)


def seeds_of(addresses: torch.Tensor, draws: torch.Tensor, seed: int) -> list[int]:
    """Seeds of 63 bits for generators of samples' addresses; arguments as in `words`."""
    low, high, *_ = words(addresses, draws, seed)
    return (low | (high >> 1) << 32).tolist()
