"""The repeated units of a network, and their checkpointing."""

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.Sequential):
    """The repeated units of a trunk, run one after the other.

    It is the one marker that techniques applied from outside look for: gradient checkpointing, layer-wise decay,
    per-block compilation and sharding, freezing. Weight names are those of `nn.Sequential`.
    """

    checkpointing = False

    def call(self, block: nn.Module, *args: Any, **context: Any) -> Any:
        """Run one unit, recomputing it in the backward pass when checkpointing is on (arXiv:1604.06174)."""
        if self.checkpointing and self.training:
            return checkpoint(block, *args, use_reentrant=False, **context)
        return block(*args, **context)

    def forward(self, x: Any) -> Any:
        for block in self:
            x = self.call(block, x)
        return x
