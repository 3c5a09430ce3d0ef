"""A forward pass that survives a batch too large for memory."""

import warnings

import torch
from torch import Tensor, nn


class Halving(nn.Module):
    """Runs a model on a batch, or where memory does not suffice, on halves of it, then quarters, and so on.

    The size that did fit is kept for the batches that follow. Images must not depend on each other, as in evaluation.

    Args:
        model: Maps images to a tensor with a row for each.

    Attributes:
        limit: Images that are run at a time; None while all of a batch fit.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.limit: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """The rows of all images.

        Raises:
            RuntimeError: Not even one image fits.
        """
        while True:
            size = len(images) if self.limit is None else self.limit
            try:
                return torch.cat([self.model(part) for part in images.split(size)])
            except RuntimeError as error:
                if not is_out_of_memory(error) or min(size, len(images)) == 1:
                    raise
            # outside the handler: the error holds the tensors of the failed pass
            self.limit = min(size, len(images)) // 2
            if images.device.type == 'cuda':
                torch.cuda.empty_cache()
            warnings.warn(f'out of memory at {size} images; going on with {self.limit}', stacklevel=2)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that memory did not suffice, on CUDA or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or 'DefaultCPUAllocator: ' in str(error)
