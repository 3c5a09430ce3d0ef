"""Pooling of a whole map into one vector."""

import torch
from torch import Tensor, nn

from foveal.errors import near

POOLS = ('', 'avg', 'max', 'avgmax', 'catavgmax')
SPATIAL = {'NCHW': (2, 3), 'NHWC': (1, 2), 'NLC': (1,)}


class Pool(nn.Module):
    """Pool all positions into a vector (batch, channels).

    Args:
        pool_type: 'avg', 'max', 'avgmax' (their mean), 'catavgmax' (both, so twice the channels), or '' to pass the
            map on unpooled. The published 'fast' spellings mean the same.
        layout: of the input: 'NCHW', 'NHWC' or 'NLC'.

    Raises:
        ValueError: an unknown pool type.
    """

    def __init__(self, pool_type: str = 'avg', layout: str = 'NCHW') -> None:
        super().__init__()
        kind = 'avg' if pool_type == 'fast' else pool_type.removeprefix('fast')
        if kind not in POOLS:
            raise ValueError(f'global_pool {pool_type!r} is unknown{near(pool_type, POOLS)} ("" does not pool)')
        self.pool_type, self.layout = kind, layout

    @property
    def feat_mult(self) -> int:
        """How many times the channels come out."""
        return 2 if self.pool_type == 'catavgmax' else 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.pool_type:
            return x
        dims = SPATIAL[self.layout]
        if self.pool_type == 'avg':
            return x.mean(dims)
        if self.pool_type == 'max':
            return x.amax(dims)
        average, maximum = x.mean(dims), x.amax(dims)
        return torch.cat([average, maximum], 1) if self.pool_type == 'catavgmax' else 0.5 * (average + maximum)

    def extra_repr(self) -> str:
        return f'pool_type={self.pool_type!r}, layout={self.layout}'
