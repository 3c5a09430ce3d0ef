"""Attention's weighted sum against its formula in float64."""

import pytest
import torch
from torch import Tensor

from foveal.layers import dot_product_attention
from tests.deterministic import noise

SHAPE, KEYS = (2, 3, 10, 8), (2, 3, 7, 8)
MASKS = {
    'none': None,
    'added': noise('mask', (1, 3, 10, 7)),
    'bool': noise('mask', (2, 1, 10, 7)) > -0.5,
}


def formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.einsum('bhic,bhjc->bhij', q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + (mask if mask.is_floating_point() else torch.where(mask, 0.0, -torch.inf))
    weights = scores.exp()
    return torch.einsum('bhij,bhjc->bhic', weights / weights.sum(-1, keepdim=True), v)


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-6), (torch.bfloat16, 2**-6)])
def test_values_and_gradients_are_those_of_the_formula(mask: str, dtype: torch.dtype, tolerance: float) -> None:
    # bfloat16 rounds by 2^-9: what goes in, the scores, the weights, and each product of the backward pass
    given = MASKS[mask]
    inputs = [noise(name, shape).to(dtype) for name, shape in (('q', SHAPE), ('k', KEYS), ('v', KEYS))]
    ours = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    out = dot_product_attention(*ours, given if given is None or not given.is_floating_point() else given.to(dtype))
    want = formula(*exact, given)
    assert torch.allclose(out.double(), want, atol=tolerance)
    weight = noise('weight', tuple(out.shape))
    (out * weight.to(dtype)).sum().backward()
    (want * weight).sum().backward()
    for a, b in zip(ours, exact, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad.double(), b.grad, atol=tolerance)
