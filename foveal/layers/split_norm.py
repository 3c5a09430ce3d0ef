"""Batch norms with statistics of their own for the parts of a batch."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foveal.layers.batch_norm import BatchNorm2d
from foveal.layers.norm_act import BatchNormAct2d


class Split(nn.Module):
    """Mixin: the batch norm that stands behind it among the bases, with further ones for the other parts of a batch.

    A training batch has parts of the same size, one after the other, such as clean and augmented images
    (arXiv:1911.09665). In evaluation all images are taken for the first part's. In a state dict the first part's names
    are those of the norm without parts; the others' begin with `aux_bn.N`.
    """

    aux_bn: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = 1 + len(self.aux_bn)
        if len(x) % count:
            raise ValueError(f'a batch of {len(x)} has no {count} parts of the same size')
        first, *others = x.chunk(count)
        parts = [norm(part) for norm, part in zip(self.aux_bn, others, strict=True)]
        return torch.cat([super().forward(first), *parts])


class SplitBatchNorm2d(Split, BatchNorm2d):
    """Batch norm of a batch of parts."""


class SplitBatchNormAct2d(Split, BatchNormAct2d):
    """Batch norm of a batch of parts, and an activation."""


SPLIT: dict[type, type] = {
    nn.BatchNorm2d: SplitBatchNorm2d,
    BatchNorm2d: SplitBatchNorm2d,
    BatchNormAct2d: SplitBatchNormAct2d,
}


def convert_split_batchnorm(model: nn.Module, splits: int) -> nn.Module:
    """Give every batch norm of a model statistics, weight and bias for each part of a training batch.

    Args:
        model: changed in place.
        splits: parts of the same size that a batch has, one after the other; at least 2.

    Returns:
        The model.

    Raises:
        ValueError: fewer than 2 parts, or a model without batch norms.
    """
    if splits < 2:
        raise ValueError(f'splits must be at least 2, got {splits}')
    norms = [module for module in model.modules() if type(module) in SPLIT]
    if not norms:
        raise ValueError(f'{type(model).__name__} has no batch norms to split')
    for norm in norms:
        copies = nn.ModuleList(copy.deepcopy(norm) for _ in range(splits - 1))
        norm.__class__ = SPLIT[type(norm)]
        norm.aux_bn = copies
    return model


def of_first_part(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the model has it without parts: all that evaluations see."""
    return {name: tensor for name, tensor in weights.items() if 'aux_bn' not in name.split('.')}
