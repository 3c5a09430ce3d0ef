"""Weights and inputs that any implementation can make alike, on any platform: from a tensor's name and shape alone.

The reference outputs under `tests/reference` were measured with these numbers. They are integer arithmetic modulo 2^32
(a multiplicative sequence through the finaliser of MurmurHash3), so no random number generator has to agree.
"""

import math
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

STATISTICS = ('running_mean', 'running_var')


def noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """A float32 tensor of values in [-1, 1) that depend on the name alone."""
    bits = np.arange(math.prod(shape), dtype=np.uint32)
    bits = bits * np.uint32(0x9E3779B9) + np.uint32(crc32(name.encode()))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    mantissas = (bits >> np.uint32(8)).astype(np.float32)
    return torch.from_numpy(mantissas / np.float32(2**23) - np.float32(1)).reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values for one parameter or statistic, scaled so that activations keep their size through a deep network."""
    values, leaf = noise(name, shape), name.rpartition('.')[-1]
    if leaf == 'running_var' or (leaf == 'weight' and len(shape) < 2):
        return 1 + 0.25 * values
    if leaf == 'running_mean' or (leaf == 'bias' and len(shape) < 2):
        return 0.1 * values
    if len(shape) < 2 or shape[0] == 1:  # tokens, positions, layer scales
        return 0.5 * values
    return values * float(np.float32(math.sqrt(3 / math.prod(shape[1:]))))  # variance 1 / fan-in


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Give every floating-point parameter and running statistic of a model its value; returns the model."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and (name in parameters or name.endswith(STATISTICS)):
            tensor.copy_(weight(name, tuple(tensor.shape)))
    return model


def image(size: tuple[int, int, int], batch: int = 1) -> Tensor:
    """The inputs of the reference outputs, (batch, channels, height, width), in [-1.7, 1.7)."""
    return 1.7 * noise('input', (batch, *size))
