"""Initial weights."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

CHUNK = 2**18  # elements that one thread draws at a time


class SkipInit(TorchFunctionMode):
    """Inside this context `torch.nn.init` draws nothing.

    A layer draws its own default weights when it is built, and the model draws the published ones over them: half of
    the time that a large model takes to build. Inside, layers are built empty; who enters it fills every weight after.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, '__module__', '') == 'torch.nn.init':
            return args[0] if args else (kwargs or {})['tensor']
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def truncated_normal(tensor: torch.Tensor, std: float = 0.02) -> torch.Tensor:
    """Fill with N(0, std^2) and return the tensor.

    The published transformers cut the distribution at +-2, a hundred standard deviations for the 0.02 they use, so
    nothing is cut. torch draws on one core, so a large tensor is drawn in chunks by all of them, each from a generator
    that the default one seeds: the same numbers whatever the number of cores.
    """
    if tensor.device.type != 'cpu' or tensor.numel() <= CHUNK or not tensor.is_contiguous():
        return tensor.normal_(0.0, std)
    chunks = tensor.detach().view(-1).split(CHUNK)
    seeds = torch.randint(2**62, (len(chunks),)).tolist()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(partial(draw, std=std), chunks, seeds))
    return tensor


def draw(chunk: torch.Tensor, seed: int, std: float) -> None:
    """Fill from N(0, std^2) by a generator of its own; a thread does not inherit the mode that the tensor needs."""
    with torch.inference_mode(chunk.is_inference()):
        chunk.normal_(0.0, std, generator=torch.Generator().manual_seed(seed))


def init_transformer(module: nn.Module) -> None:
    """Linear and convolution weights from `truncated_normal`, biases zero (arXiv:2010.11929, appendix)."""
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        truncated_normal(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_conv(module: nn.Module) -> None:
    """Convolutions from N(0, 2 / fan_out) (arXiv:1502.01852), linear layers uniform in +-fan_in^-0.5, biases zero."""
    if isinstance(module, nn.modules.conv._ConvNd):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.uniform_(module.weight, -(module.in_features**-0.5), module.in_features**-0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
