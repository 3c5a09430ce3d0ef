"""The numbers that a model computes with."""

from contextlib import AbstractContextManager, nullcontext

import torch

AUTOCAST = {'bf16': torch.bfloat16, 'fp16': torch.float16}
PURE = {'pure-bf16': torch.bfloat16, 'pure-fp16': torch.float16}
# precision -> torch's word for how the factors of float32 products are rounded
PRODUCTS = {'tf32': 'high', 'medium': 'medium'}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Within the block, matrices and convolutions are computed in the precision asked for.

    Args:
        device: Where the model runs.
        precision: bf16 or fp16 (weights stay float32); the others need nothing.
    """
    if precision not in AUTOCAST:
        return nullcontext()
    return torch.autocast(device.type, AUTOCAST[precision])


def weights_dtype(precision: str) -> torch.dtype:
    """What weights, images and activations are held in: float32 but for the pure low precisions."""
    return PURE.get(precision, torch.float32)


def set_products(precision: str) -> None:
    """Says how far the factors of float32 products may be rounded.

    Args:
        precision: tf32: to 10 bits on CUDA; medium: to bfloat16's 7, where the device gains by it; else not at all.
    """
    torch.set_float32_matmul_precision(PRODUCTS.get(precision, 'highest'))
    torch.backends.cudnn.allow_tf32 = precision in PRODUCTS


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales the loss up so that small gradients are not lost in float16; does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == 'fp16')
