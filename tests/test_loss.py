"""Losses against values measured on timm 1.0.31 (reference/losses.json), and against their formulas."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import foveal.loss
from foveal.loss import (
    DistributionBalancedLoss,
    compute_class_weights,
    create_classification_loss,
    load_class_stats,
    resolve_class_weights,
)

REFERENCE = json.loads((Path(__file__).parent / 'reference' / 'losses.json').read_text())
COUNTS = [5.0, 3.0, 8.0, 1.0, 2.0, 9.0, 4.0]


def inputs() -> SimpleNamespace:
    """Logits (12, 7) and targets of every kind, by formulas."""
    ramp = torch.arange(84, dtype=torch.float64).view(12, 7)
    logits = (3 * (ramp * 1.7).sin()).float()
    multi = ((ramp * 2.3).cos() > 0.4).float()
    multi[3], multi[:, 2] = 0, 0
    return SimpleNamespace(
        x=logits,
        y=torch.arange(12) * 5 % 7,
        m=multi,
        d=(ramp * 0.9).cos().softmax(-1).float(),
        s=((ramp * 0.7).sin() / 2 + 0.5).float(),
        w=torch.linspace(0.5, 1.5, 7),
    )


# name -> (class, arguments, logits' scale, targets)
CASES: dict[str, tuple[str, dict[str, Any], float, str]] = {
    'smoothed': ('LabelSmoothingCrossEntropy', {'smoothing': 0.1}, 1, 'y'),
    'soft': ('SoftTargetCrossEntropy', {}, 1, 'd'),
    'jsd': ('JsdCrossEntropy', {}, 1, 'y'),
    'jsd of two': ('JsdCrossEntropy', {'num_splits': 2, 'alpha': 5, 'smoothing': 0}, 1, 'y'),
    'bce': ('BinaryCrossEntropy', {}, 1, 'y'),
    'bce, targets': ('BinaryCrossEntropy', {}, 1, 'm'),
    'bce, smoothed targets': ('BinaryCrossEntropy', {'smooth_dense': True}, 1, 'm'),
    'bce, sum': ('BinaryCrossEntropy', {'sum_classes': True}, 1, 'y'),
    'bce, threshold': ('BinaryCrossEntropy', {'target_threshold': 0.15}, 1, 'd'),
    'bce, weights': ('BinaryCrossEntropy', {'weight': 'w', 'pos_weight': 'w'}, 1, 'y'),
    'bce, positive weight': ('BinaryCrossEntropy', {'pos_weight': 3.0}, 1, 'm'),
    'bce, none': ('BinaryCrossEntropy', {'reduction': 'none'}, 1, 'm'),
    'asl': ('AsymmetricLossMultiLabel', {}, 1, 'm'),
    'asl, soft': ('AsymmetricLossMultiLabel', {}, 1, 's'),
    'asl, smoothed': ('AsymmetricLossMultiLabel', {'smoothing': 0.1}, 1, 'm'),
    'asl, no clip': ('AsymmetricLossMultiLabel', {'clip': None, 'gamma_neg': 2, 'gamma_pos': 0}, 1, 'm'),
    'asl, weights': ('AsymmetricLossMultiLabel', {'weight': 'w', 'pos_weight': 'w'}, 1, 'm'),
    'asl, mean': ('AsymmetricLossMultiLabel', {'reduction': 'mean', 'pos_weight': 2.0}, 1, 'm'),
    'asl, saturated': ('AsymmetricLossMultiLabel', {}, 30, 'm'),
    'single asl': ('AsymmetricLossSingleLabel', {}, 1, 'y'),
    'single asl, options': ('AsymmetricLossSingleLabel', {'gamma_pos': 0, 'gamma_neg': 2, 'eps': 0}, 1, 'y'),
    'poly': ('PolyCrossEntropy', {}, 1, 'y'),
    'poly, smoothed': ('PolyCrossEntropy', {'epsilon': 1.0, 'smoothing': 0.1}, 1, 'y'),
    'poly, soft': ('PolyCrossEntropy', {'epsilon': 1.0, 'smoothing': 0.1}, 1, 'd'),
    'binary poly': ('PolyBinaryCrossEntropy', {}, 1, 'm'),
    'binary poly, focal': ('PolyBinaryCrossEntropy', {'epsilon': 1.0, 'gamma': 2.0, 'alpha': 0.25}, 1, 'm'),
    'binary poly, smoothed': ('PolyBinaryCrossEntropy', {'smoothing': 0.1}, 1, 'm'),
    'binary poly, soft': ('PolyBinaryCrossEntropy', {'epsilon': 1.0, 'gamma': 2.0}, 1, 's'),
    'two-way': ('TwoWayLoss', {}, 1, 'm'),
    'two-way, temperatures': ('TwoWayLoss', {'tp': 2.0, 'tn': 3.0}, 1, 'm'),
    'zlpr': ('ZlprLoss', {}, 1, 'm'),
    'db': ('DistributionBalancedLoss', {'class_counts': COUNTS, 'num_samples': 20}, 1, 'm'),
    'db, options': (
        'DistributionBalancedLoss',
        {
            'class_counts': COUNTS,
            'num_samples': 20,
            'neg_scale': 5.0,
            'init_bias': 0.1,
            'focal_gamma': 1.0,
            'focal_balance': 1.0,
            'reduction': 'sum',
        },
        1,
        'm',
    ),
}
WEIGHTS = [
    (method, power, most, counts)
    for method in foveal.loss.CLASS_WEIGHT_METHODS
    for power in (1.0, 0.5)
    for most in (None, 2.0)
    for counts in (COUNTS, [5.0, 0.0, 8.0, 1.0, 2.0, 20.0, 4.0])
]


def measure(library: Any) -> dict[str, Any]:
    """What a library's losses and class weights give: how the reference was made, with timm.loss for `library`."""
    given = inputs()
    values: dict[str, Any] = {}
    for name, (cls, options, scale, targets) in CASES.items():
        options = {key: getattr(given, value) if value == 'w' else value for key, value in options.items()}
        logits = (given.x * scale).requires_grad_()
        loss = getattr(library, cls)(**options)(logits, getattr(given, targets))
        loss.sum().backward()
        values[name] = [loss.detach().flatten().tolist(), logits.grad.norm().item()]
    values['weights'] = [
        library.compute_class_weights(counts, 20, method, power, 0.9, most)[1].tolist()
        for method, power, most, counts in WEIGHTS
    ]
    return values


@pytest.fixture(scope='module')
def measured() -> dict[str, Any]:
    return measure(foveal.loss)


@pytest.mark.parametrize('name', [*CASES, 'weights'])
def test_equals_the_reference(name: str, measured: dict[str, Any]) -> None:
    """Losses and the lengths of their gradients; float32 sums of 84 terms in another order differ by a few 1e-7."""
    for ours, theirs in zip(measured[name], REFERENCE[name], strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=2e-6, atol=1e-7)


def test_smoothed_db_smooths_the_entropy_only() -> None:
    """The paper has no smoothing; ours moves the targets of the entropy and leaves the rebalancing by true labels."""
    given = inputs()
    x, t = given.x.double(), given.m.double()
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    shift = -0.05 / 2 * torch.log(20 / counts - 1)
    z = torch.where(t > 0, x + shift, 2 * (x + shift))
    soft = t * 0.9 + 0.05
    entropy = -(soft * z.sigmoid().log() + (1 - soft) * (1 - z.sigmoid()).log())
    repeat = (t / counts).sum(1, keepdim=True)
    weight = 0.1 + torch.sigmoid(10 * ((1 / counts) / repeat - 0.2))
    weight = torch.where(t > 0, weight, weight / 2)
    expected = (2 * (1 - torch.exp(-entropy)) ** 2 * weight * entropy).mean()
    loss = DistributionBalancedLoss(COUNTS, 20, smoothing=0.1)(given.x, given.m)
    # float32 against float64
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_weighted_cross_entropy_is_the_weighted_mean() -> None:
    given = inputs()
    loss = create_classification_loss('ce', class_weight=given.w.tolist())(given.x, given.y)
    each = -given.x.log_softmax(-1)[torch.arange(12), given.y] * given.w[given.y]
    torch.testing.assert_close(loss, each.sum() / given.w[given.y].sum())


@pytest.mark.parametrize('targets', [torch.zeros(4, 3), torch.ones(4, 3)])
@pytest.mark.parametrize('name', ['twoway', 'zlpr', 'asl', 'bce', 'poly'])
def test_extreme_targets_give_finite_gradients(name: str, targets: Tensor) -> None:
    logits = torch.tensor([[-80.0, 0.0, 80.0]]).repeat(4, 1).requires_grad_()
    loss = create_classification_loss(name, multi_label=True)(logits, targets)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(loss_type='bec'), "loss_type 'bec' is unknown; did you mean"),
        (dict(loss_type='ce', multi_label=True), 'ce is for single labels; with several use one of bce'),
        (dict(loss_type='zlpr'), 'zlpr is for several labels'),
        (dict(loss_type='poly', pos_weight=2.0), 'pos_weight is of bce and multi-label asl, not of poly'),
        (dict(loss_type='poly', class_weight=[1.0]), 'class_weight is of ce, bce and multi-label asl, not of poly'),
        (dict(loss_type='zlpr', multi_label=True, smoothing=0.1), 'zlpr wants targets of 0 and 1'),
        (dict(loss_type='asl', soft_targets=True), 'asl wants class indices'),
        (dict(loss_type='jsd'), 'num_splits must be at least 2, got 0'),
        (dict(loss_type='db', multi_label=True), 'db needs class_counts and num_samples'),
        (dict(smoothing=1.0), r'smoothing must be in \[0, 1\), got 1.0'),
        (dict(loss_type='db', multi_label=True, class_counts=[9.0], num_samples=9), 'num_samples=9 must be above'),
        (dict(loss_type='asl', multi_label=True, asl_reduction='avg'), 'reduction must be one of batchmean'),
    ],
)
def test_refuses(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create_classification_loss(**options)


def test_soft_targets_are_not_smoothed_again() -> None:
    given = inputs()
    loss = create_classification_loss('ce', smoothing=0.1, soft_targets=True)(given.x, given.d)
    torch.testing.assert_close(loss, -(given.d * given.x.log_softmax(-1)).sum(-1).mean())


def test_jsd_wants_whole_views() -> None:
    with pytest.raises(ValueError, match='a batch of 10 is no multiple of the 3 views'):
        create_classification_loss('jsd', jsd_splits=3)(torch.zeros(10, 7), torch.zeros(10, dtype=torch.int64))


def test_weights_from_what_a_user_writes(tmp_path: Path) -> None:
    file = tmp_path / 'weights.json'
    file.write_text(json.dumps({'pos_weight': [1, 2], 'pos_counts': [2, 8], 'num_samples': 10}))
    stats = load_class_stats(file)
    assert resolve_class_weights(None) is None
    assert resolve_class_weights('0.5') == 0.5
    assert resolve_class_weights('1,2').tolist() == [1, 2]  # type: ignore[union-attr]
    assert resolve_class_weights(str(file), 'pos_weight').tolist() == [1, 2]  # type: ignore[union-attr]
    assert resolve_class_weights('neg_pos', 'pos_weight', stats).tolist() == [4, 0.25]  # type: ignore[union-attr]
    kind, weights = compute_class_weights([2, 8], 10, 'inv_freq')
    assert kind == 'class_weight'
    assert math.isclose(weights[0] / weights[1], 4)


@pytest.mark.parametrize(
    ('value', 'kind', 'said'),
    [
        ('neg_pos', 'class_weight', 'neg_pos gives a pos_weight, not a class_weight'),
        ('inv_freq', 'class_weight', 'give class_stats'),
        ('inv_frq', 'class_weight', "did you mean 'inv_freq'"),
        ([[1.0]], 'class_weight', 'class_weight must be a list of numbers'),
        ('none.json', 'class_weight', 'none.json does not exist'),
    ],
)
def test_weights_that_mean_nothing(value: Any, kind: str, said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        resolve_class_weights(value, kind)
