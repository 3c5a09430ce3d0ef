"""1x1 convolutions against their formula in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from foveal.layers.conv import PointwiseConv2d, conv2d
from tests.deterministic import fill, noise

LARGE, SMALL = (2, 64, 3, 3), (8, 64, 28, 28)  # maps for which the kernel of 64 x 96 weights is large, and is not


def formula(x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> Tensor:
    high, wide = conv.stride
    return torch.einsum('nchw,oc->nohw', x[:, :, ::high, ::wide], weight[:, :, 0, 0]) + bias[:, None, None]


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('shape', [LARGE, SMALL])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
def test_values_and_gradients_are_those_of_the_formula(
    stride: int, shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    # of the largest value: sums of up to 6,272 products round by 2^-24 each in float32, and bfloat16 rounds what comes
    # out by 2^-9
    conv = fill(conv2d(64, 96, 1, stride)).to(dtype, memory_format=torch.channels_last)
    assert isinstance(conv, PointwiseConv2d)
    x = noise('x', shape).to(dtype, memory_format=torch.channels_last).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, conv.weight, conv.bias)]
    y, want = conv(x), formula(exact[0], conv, *exact[1:])
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradient = noise('gradient', tuple(y.shape)).to(dtype)
    y.backward(gradient)
    want.backward(gradient.double())
    for got, precise in [
        (y, want),
        *((a.grad, b.grad) for a, b in zip((x, conv.weight, conv.bias), exact, strict=True)),
    ]:
        assert (got.double() - precise).abs().max() <= tolerance * precise.abs().max()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shape', [LARGE, SMALL])
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
def test_only_large_kernels_in_bfloat16_are_products(
    dtype: torch.dtype, shape: tuple[int, ...], memory: torch.memory_format
) -> None:
    conv = conv2d(64, 96, 1, bias=False).to(dtype)
    with profile() as profiler:
        conv(noise('x', shape).to(dtype, memory_format=memory))
    is_product = 'aten::convolution' not in {event.key for event in profiler.key_averages()}
    assert is_product == (dtype == torch.bfloat16 and shape == LARGE and memory == torch.channels_last)


def test_others_are_plain_convolutions() -> None:
    for conv in (conv2d(8, 8, 3), conv2d(8, 8, 1, groups=2), conv2d(8, 8, 1, 3), conv2d(8, 8, 1, padding=1)):
        assert type(conv) is nn.Conv2d


def test_one_graph_serves_all_sizes() -> None:
    conv = conv2d(64, 96, 1).to(torch.bfloat16).eval()
    large, small = (
        noise('x', shape).to(torch.bfloat16, memory_format=torch.channels_last) for shape in (LARGE, (9, 64, 3, 3))
    )
    graph = torch.export.export(
        conv, (large,), dynamic_shapes=({0: torch.export.Dim('batch', min=2, max=64)},)
    ).module()
    for x in (large, small):
        # both round their result to 2^-9
        assert torch.allclose(graph(x).float(), conv(x).float(), atol=2**-8)
