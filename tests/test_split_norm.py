"""Batch norms with statistics of their own for the parts of a batch."""

import copy

import pytest
import torch

from foveal import create_model
from foveal.layers import convert_split_batchnorm
from foveal.layers.norm_act import BatchNormAct2d


def test_each_part_has_a_norm_of_its_own() -> None:
    torch.manual_seed(0)
    norm, x = BatchNormAct2d(4, 'relu'), torch.randn(6, 4, 3, 3) + torch.arange(6).view(6, 1, 1, 1)
    alone = [copy.deepcopy(norm) for _ in range(3)]
    split = convert_split_batchnorm(norm, 3)
    expected = torch.cat([own(part) for own, part in zip(alone, x.chunk(3), strict=True)])
    assert torch.equal(split(x), expected)
    for found, own in zip([split, *split.aux_bn], alone, strict=True):
        assert torch.equal(found.running_mean, own.running_mean)
        assert torch.equal(found.running_var, own.running_var)
    assert torch.equal(split.eval()(x), alone[0].eval()(x))


def test_a_model_keeps_its_names_and_its_outputs() -> None:
    model = create_model('test_resnet', num_classes=3).eval()
    names, images = set(model.state_dict()), torch.randn(2, 3, 32, 32)
    before = model(images)
    assert convert_split_batchnorm(model, 2) is model
    added = set(model.state_dict()) - names
    assert added
    assert all('.aux_bn.0.' in name for name in added)
    assert torch.equal(model(images), before)


def test_what_cannot_be_split() -> None:
    with pytest.raises(ValueError, match='splits must be at least 2, got 1'):
        convert_split_batchnorm(torch.nn.BatchNorm2d(2), 1)
    with pytest.raises(ValueError, match='a batch of 5 has no 2 parts'):
        convert_split_batchnorm(torch.nn.BatchNorm2d(2), 2)(torch.zeros(5, 2, 1, 1))
