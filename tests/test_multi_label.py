"""Scores of several labels, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from foveal.engine.multi_label import MultiLabelMeter


def batch(count: int = 50, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that know something of their targets; one image and one class without any label."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(count, classes, generator=generator) < 0.3).float()
    targets[3], targets[:, 4] = 0, 0
    return torch.randn(count, classes, generator=generator) + 2 * targets - 1, targets


def test_equals_scikit_learn() -> None:
    logits, targets = batch()
    meter = MultiLabelMeter(6, torch.device('cpu'), threshold=0.4)
    for part in (slice(0, 20), slice(20, 21), slice(21, 50)):
        meter.update(logits[part], targets[part])
    scores = meter.compute()
    truth, probabilities = targets.numpy(), logits.sigmoid().numpy()
    named = probabilities >= 0.4
    there = [0, 1, 2, 3, 5]
    expected = {
        'count': 50,
        'loss': metrics.log_loss(truth.ravel(), probabilities.ravel()),
        'map': 100 * metrics.average_precision_score(truth[:, there], probabilities[:, there], average='macro'),
        'micro_f1': 100 * metrics.f1_score(truth, named, average='micro'),
        'macro_f1': 100 * metrics.f1_score(truth, named, average='macro', zero_division=0),
        'sample_f1': 100 * metrics.f1_score(truth, named, average='samples', zero_division=0),
    }
    # float32 logits, sums in float64
    assert scores.to_dict() == pytest.approx(expected, rel=1e-6)
    assert np.isnan(scores.precisions[4])


def test_no_label_at_all() -> None:
    meter = MultiLabelMeter(3, torch.device('cpu'))
    meter.update(torch.full((2, 3), -5.0), torch.zeros(2, 3))
    scores = meter.compute()
    assert (scores.map, scores.micro_f1, scores.sample_f1) == (0, 0, 0)


def test_threshold_has_a_range() -> None:
    with pytest.raises(ValueError, match=r'threshold must be in \(0, 1\), got 1'):
        MultiLabelMeter(3, torch.device('cpu'), threshold=1)
