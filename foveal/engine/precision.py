"""The numbers that a model computes with."""

from contextlib import AbstractContextManager, nullcontext

import torch

AUTOCAST = {'bf16': torch.bfloat16, 'fp16': torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Within the block, matrices and convolutions are computed in the precision asked for.

    Args:
        device: Where the model runs.
        precision: fp32, tf32 (float32 with products of 10 bits, on CUDA), bf16 or fp16 (weights stay float32).
    """
    if precision not in AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, AUTOCAST[precision])


def allow_tf32(precision: str) -> None:
    """Lets CUDA round the factors of float32 products to 10 bits, where that is asked, or forbids it."""
    torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
    torch.backends.cudnn.allow_tf32 = precision == 'tf32'


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales the loss up so that small gradients are not lost in float16; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == 'fp16')
