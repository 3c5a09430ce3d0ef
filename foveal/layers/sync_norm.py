"""Batch norm with statistics over all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foveal.layers.batch_norm import note


class Total(torch.autograd.Function):
    """The sum of a tensor over processes; each one's result depends on what all put in, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, x = group, x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class SyncBatchNorm(_BatchNorm):
    """Batch norm with statistics over all processes (arXiv:1711.07240): torch's, and on the CPU one of its own.

    It is no subclass of torch's, which DistributedDataParallel refuses by its type on a CPU.
    """

    process_group: Any
    _check_input_dim = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, x: Tensor) -> Tensor:
        alone = not dist.is_initialized() or dist.get_world_size(self.process_group) == 1
        if alone or not self.training or x.device.type != 'cpu':
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
        values, over = x.float(), [0, *range(2, x.ndim)]
        count = values.new_full((1,), values.numel() / values.shape[1])
        # the mean first: squares of what is far from zero would leave no digits for the variance
        sums = Total.apply(torch.cat([values.sum(over), count]), self.process_group)
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - shaped(mean, x)
        variance = Total.apply(centred.square().sum(over), self.process_group) / total
        if self.track_running_stats:
            note(self, mean.detach(), variance.detach() * total / (total - 1).clamp(min=1))
        y = centred * shaped((variance + self.eps).rsqrt(), x)
        if self.affine:
            y = y * shaped(self.weight, x) + shaped(self.bias, x)
        return y.to(x.dtype)


class SyncBatchNormAct(SyncBatchNorm):
    """`SyncBatchNorm` and an activation."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def convert_sync_batchnorm(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Replace every batch norm of a model by one with statistics over all processes, activations kept.

    Args:
        model: it is changed in place; where it is itself a batch norm, use what comes back.
        process_group: of the processes; all of them if not given.
    """
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model, process_group)
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            # torch carries the children of a batch norm over, but runs none of them
            cls: type = SyncBatchNormAct if hasattr(module, 'act') else SyncBatchNorm
            module.__class__ = cls
    return model


def shaped(values: Tensor, x: Tensor) -> Tensor:
    """One number a channel, shaped to go with x (batch, channels, ...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
