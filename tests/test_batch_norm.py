"""Batch norm by kernels, against torch's in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from foveal import create_model
from foveal.layers import batch_norm
from foveal.layers.batch_norm import BatchNorm2d, norm_then_act
from foveal.layers.norm_act import BatchNormAct2d
from foveal.traced import can_compile

pytestmark = pytest.mark.skipif(not can_compile('cpu'), reason='no C++ compiler')
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7}  # of the largest value: rounding of a sum, and of the result


@pytest.fixture(autouse=True)
def kernels_for_all(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Kernels for small maps too; what they were asked for."""
    monkeypatch.setattr(batch_norm, 'FROM', 1)
    asked: list[bool] = []
    fused = BatchNorm2d.fused

    def counted(self: BatchNorm2d, x: Tensor, relu: bool, shortcut: Tensor | None = None) -> Tensor:
        asked.append(relu)
        return fused(self, x, relu, shortcut)

    monkeypatch.setattr(BatchNorm2d, 'fused', counted)
    return asked


def close(found: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * float(expected.detach().abs().max()))


def layer(channels: int) -> BatchNorm2d:
    norm = BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1, 0.2)
    nn.init.normal_(norm.bias, 0, 0.2)
    return norm


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shape', [(4, 24, 8, 8), (3, 5, 7, 3), (2, 16, 4, 4)])
@pytest.mark.parametrize('kind', ['plain', 'relu', 'shortcut'])
def test_values_gradients_and_statistics(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, kernels_for_all: list[bool]
) -> None:
    torch.manual_seed(0)
    norm = layer(shape[1])
    exact = copy.deepcopy(norm).double()
    maps = [(3 + 2 * torch.randn(shape)).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(3)]
    x, shortcut, g = (t.requires_grad_() for t in maps)
    x64, shortcut64, g64 = (t.detach().double().requires_grad_() for t in maps)
    if kind == 'plain':
        y, y64 = norm(x), nn.BatchNorm2d.forward(exact, x64)
    else:
        more, more64 = (shortcut, shortcut64) if kind == 'shortcut' else (None, 0.0)
        y = norm_then_act(norm, x, nn.ReLU(inplace=True), more)
        y64 = (nn.BatchNorm2d.forward(exact, x64) + more64).relu()
    assert kernels_for_all == [kind != 'plain']
    assert (y.dtype, y.is_contiguous(memory_format=torch.channels_last)) == (dtype, True)
    y.backward(g.detach())
    y64.backward(g64.detach())
    tolerance = TOLERANCE[dtype]
    close(y, y64, tolerance)
    close(x.grad, x64.grad, tolerance)
    close(norm.weight.grad, exact.weight.grad, 4e-6)
    close(norm.bias.grad, exact.bias.grad, 4e-6)
    if kind == 'shortcut':
        close(shortcut.grad, shortcut64.grad, tolerance)
    close(norm.running_mean, exact.running_mean, 2e-6)
    close(norm.running_var, exact.running_var, 2e-6)
    assert norm.num_batches_tracked == exact.num_batches_tracked == 1


def test_what_lies_far_from_zero_keeps_its_variance() -> None:
    torch.manual_seed(0)
    x = (1000 + torch.randn(4, 8, 16, 16)).contiguous(memory_format=torch.channels_last)
    # the input itself is rounded to 6e-5 at 1000
    close(BatchNorm2d(8)(x), nn.BatchNorm2d(8).double()(x.double()), 1e-5)


def test_derivatives_of_gradients() -> None:
    """What optimizers with second derivatives need: of the sum of squared gradients, against torch's own."""
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        norm, act = layer(6), nn.ReLU()
        x, shortcut = (torch.randn(2, 6, 4, 4).contiguous(memory_format=torch.channels_last) for _ in range(2))
        x.requires_grad_()
        shortcut.requires_grad_()
        if fused:
            y = norm_then_act(norm, x, act, shortcut) + norm_then_act(norm, x, act)
        else:
            first, second = (nn.BatchNorm2d.forward(norm, x) for _ in range(2))
            y = (first + shortcut).relu() + second.relu()
        inputs = (x, shortcut, norm.weight, norm.bias)
        gradients = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs))
    for found, expected in zip(*results, strict=True):
        close(found, expected.double(), 1e-5)


def test_what_is_looked_at_is_there(kernels_for_all: list[bool]) -> None:
    norm, act, seen = layer(4), nn.ReLU(), list[Tensor]()
    x = torch.randn(2, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    act.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    norm_then_act(norm, x, act)
    assert kernels_for_all == [False]
    assert bool((seen[0] < 0).any())


def test_evaluation_and_other_layouts_are_torchs(kernels_for_all: list[bool]) -> None:
    norm = layer(4)
    norm(torch.randn(2, 4, 4, 4))
    norm.eval()(torch.randn(2, 4, 4, 4).contiguous(memory_format=torch.channels_last))
    assert kernels_for_all == []


def test_a_layer_with_its_activation(kernels_for_all: list[bool]) -> None:
    x = torch.randn(2, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    found = BatchNormAct2d(4, 'relu')(x)
    assert kernels_for_all == [True]
    close(found, nn.BatchNorm2d(4).double()(x.double()).relu(), 2e-6)


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_a_network_learns_the_same(name: str, monkeypatch: pytest.MonkeyPatch, kernels_for_all: list[bool]) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).to(memory_format=torch.channels_last).train()
    plain, x = copy.deepcopy(model), torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    model(x).square().sum().backward()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    shortcuts = sum('downsample.1.weight' in key for key in model.state_dict())
    assert (len(kernels_for_all), kernels_for_all.count(False)) == (norms, shortcuts + 1)
    monkeypatch.setattr(batch_norm, 'FROM', 1 << 40)
    plain(x).square().sum().backward()
    for (key, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        # float32 through 53 norms over as few as 16 positions
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=2e-3 * float(b.grad.abs().max()), msg=key)
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_nothing_is_compiled_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_compile('cpu')
    monkeypatch.setenv('TORCH_COMPILE_DISABLE', '1')
    can_compile.cache_clear()
    norm = BatchNorm2d(4)
    x = torch.randn(2, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    assert not norm.fuses(x)
    monkeypatch.undo()
    can_compile.cache_clear()
