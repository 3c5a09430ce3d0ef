"""Batch norm, which in training on a CPU goes over large maps twice forward and twice backward.

With the sum with a shortcut and a ReLU, torch's operations go over them four and three times; of a step of ResNet-50 in
bfloat16 on a CPU with AMX they are half.
"""

from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foveal.traced import Kernels, Traced, can_compile

FROM = 2**19  # elements of a map: below, a step is too short to pay for a compilation
PIECES = (32, 16)  # rows that are summed first
HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm of maps (batch, channels, height, width) (arXiv:1502.03167); torch's, but for how it is computed."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(x, False) if self.fuses(x) else super().forward(x)

    def fuses(self, x: Tensor) -> bool:
        """Whether there are kernels for a map in this state of the layer."""
        return (
            self.training
            and x.numel() >= FROM
            and x.device.type == 'cpu'
            and x.dtype in (torch.float32, torch.bfloat16)
            and type(x) is Tensor
            and type(self.weight) is nn.Parameter
            and self.running_mean is not None
            and x.is_contiguous(memory_format=torch.channels_last)
            and not (
                torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
            )
            and can_compile('cpu')
        )

    def fused(self, x: Tensor, relu: bool, shortcut: Tensor | None = None) -> Tensor:
        """The normalised map, plus a shortcut of its shape where there is one, through a ReLU where asked."""
        y, mean, variance = Normalize.apply(x, self.weight, self.bias, shortcut, relu, self.eps)
        count = x.numel() / x.shape[1]
        note(self, mean, variance * (count / (count - 1)))
        return y


@torch.no_grad()
def note(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Takes the statistics of a batch into the running ones."""
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        assert running is not None
        running.lerp_(new.to(running.dtype), share)


def norm_then_act(norm: nn.Module, x: Tensor, act: nn.Module, shortcut: Tensor | None = None) -> Tensor:
    """act(norm(x) + shortcut), in one where kernels for that exist."""
    one = type(act) is nn.ReLU and not (hooked(norm) or hooked(act)) and (shortcut is None or shortcut.shape == x.shape)
    if one and isinstance(norm, BatchNorm2d) and norm.fuses(x):
        return norm.fused(x, True, shortcut)
    x = norm(x)
    if shortcut is not None:
        x += shortcut  # in place: a map less to allocate
    return act(x)


def hooked(module: nn.Module) -> bool:
    """Whether somebody looks at what goes in or out of a module."""
    return any(getattr(module, hooks) for hooks in HOOKS)


class Normalize(torch.autograd.Function):
    """Batch norm with a shortcut and a ReLU; besides the map, it returns mean and variance of each channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, relu: bool, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        data = rows(x)
        # squares of what is far from zero would leave no digits for the variance
        centre = data[: PIECES[0]].float().mean(0)
        first, second = kernels(moments)(data, centre)
        first, second = first / len(data), second / len(data)
        mean, variance = centre + first, (second - first.square()).clamp(min=0)
        inverse = (variance + eps).rsqrt()
        scale = weight.float() * inverse
        more = () if shortcut is None else (rows(shortcut.to(x.dtype)),)
        y = torch.empty_like(x)  # no view, so that what follows may change it
        kernels(output, relu)(rows(y), data, mean, scale, bias.float(), *more)
        ctx.save_for_backward(x, weight, bias, mean, inverse, None if shortcut is None else y)
        ctx.relu, ctx.eps = relu, eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse, y = ctx.saved_tensors
        if torch.is_grad_enabled():  # whoever takes derivatives of these
            again = F.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps)
            g = gradients[0] * ((again if y is None else y) > 0) if ctx.relu else gradients[0]
            found = torch.autograd.grad(again, (x, weight, bias), g, create_graph=True)
            return *found, None if y is None else g, None, None
        data, g = rows(x), rows(gradients[0].to(x.dtype))
        dx, shortcut = torch.empty_like(x), torch.empty_like(x) if y is not None else None
        scale, shift = weight.float() * inverse, bias.float()
        # where y is not kept, x says what the ReLU let through
        kept = [rows(t) for t in (y, shortcut) if t is not None]
        total, along = kernels(reductions, ctx.relu)(g, data, mean, scale, shift, *kept[:1])
        slope, level = -scale * inverse.square() * along / len(data), -scale * total / len(data)
        kernels(gradient, ctx.relu)(rows(dx), g, data, mean, scale, shift, slope, level, *kept)
        return dx, (along * inverse).to(weight.dtype), total.to(bias.dtype), shortcut, None, None


@cache
def kernels(function: Any, *flags: bool) -> Kernels:
    """A function of this module with its flags given."""
    # what several results are made of is made again for each: it would else be kept, in float32
    return Kernels(partial(function, *flags), partial(Traced, realize_reads_threshold=16))


def rows(x: Tensor) -> Tensor:
    """A map as rows (batch * height * width, channels), in the same memory where its channels are last."""
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def moments(x: Tensor, centre: Tensor) -> tuple[Tensor, ...]:
    """Sums over the rows of what lies off the centre, and of its square."""
    x = x.float() - centre
    return sums(x), sums(x * x)


def output(
    relu: bool, y: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *shortcut: Tensor
) -> tuple[Tensor, ...]:
    """Normalised rows, plus a shortcut, to y."""
    result = (x.float() - mean) * scale + shift
    for more in shortcut:
        result = result + more.float()
    y.copy_(result.relu() if relu else result)
    return ()


def reductions(
    relu: bool, g: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, *y: Tensor
) -> tuple[Tensor, ...]:
    """Sums over the rows of the gradient, and of its product with what lies off the mean."""
    centred = x.float() - mean
    g = before(relu, g, centred * scale + shift, *y)
    return sums(g), sums(g * centred)


def gradient(
    relu: bool,
    dx: Tensor,
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    level: Tensor,
    *kept: Tensor,
) -> tuple[Tensor, ...]:
    """The gradient of the rows, to dx, and of a shortcut, to the last of y and that."""
    centred = x.float() - mean
    g = before(relu, g, centred * scale + shift, *kept[:1])
    dx.copy_(g * scale + centred * slope + level)
    for shortcut in kept[1:]:
        shortcut.copy_(g)
    return ()


def before(relu: bool, g: Tensor, y: Tensor, *kept: Tensor) -> Tensor:
    """The gradient before a ReLU of y; where a shortcut was added to that, the result is kept and decides."""
    return torch.where((kept[0] if kept else y) > 0, g.float(), 0.0) if relu else g.float()


def sums(x: Tensor) -> Tensor:
    """Sums over the rows, of pieces of them first: memory is read in its order, and less is lost to rounding."""
    for piece in PIECES:
        if x.shape[0] % piece == 0 and x.shape[0] > piece:
            return x.unflatten(0, (-1, piece)).sum(1).sum(0)
    return x.sum(0)
