"""A loss by name, and the combinations that mean nothing refused."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveal.errors import near
from foveal.loss.multi_label import (
    AsymmetricLossMultiLabel,
    BinaryCrossEntropy,
    DistributionBalancedLoss,
    PolyBinaryCrossEntropy,
    TwoWayLoss,
    ZlprLoss,
)
from foveal.loss.single_label import (
    AsymmetricLossSingleLabel,
    JsdCrossEntropy,
    LabelSmoothingCrossEntropy,
    PolyCrossEntropy,
)

LOSS_TYPES = ('ce', 'bce', 'asl', 'poly', 'jsd', 'twoway', 'zlpr', 'db')
MULTI_LABEL_LOSS_TYPES = ('bce', 'asl', 'poly', 'twoway', 'zlpr', 'db')
MULTI_LABEL_ONLY = ('twoway', 'zlpr', 'db')

Weights = Tensor | float | Sequence[float] | None


def create_classification_loss(
    loss_type: str | None = None,
    multi_label: bool = False,
    smoothing: float = 0.0,
    soft_targets: bool = False,
    class_weight: Weights = None,
    pos_weight: Weights = None,
    bce_target_thresh: float | None = None,
    bce_sum: bool = False,
    asl_gamma_pos: float = 1.0,
    asl_gamma_neg: float = 4.0,
    asl_clip: float | None = 0.05,
    asl_reduction: str = 'batchmean',
    poly_epsilon: float = 2.0,
    poly_gamma: float = 0.0,
    poly_alpha: float | None = None,
    jsd_splits: int = 0,
    twoway_tp: float = 4.0,
    twoway_tn: float = 1.0,
    class_counts: Tensor | Sequence[float] | None = None,
    num_samples: int | None = None,
    db_neg_scale: float = 2.0,
    db_init_bias: float = 0.05,
    db_focal_gamma: float = 2.0,
) -> nn.Module:
    """Builds the loss of a classifier.

    Args:
        loss_type: ce, bce, asl, poly, jsd, twoway, zlpr or db; None for ce, or bce with several labels.
        multi_label: Targets are (batch, classes) in [0, 1].
        smoothing: Label smoothing.
        soft_targets: Targets are distributions already, smoothed by whoever mixed them.
        class_weight: Of each class, for ce, bce and multi-label asl.
        pos_weight: Of positive targets, for bce and multi-label asl.
        bce_target_thresh, bce_sum: `target_threshold` and `sum_classes` of `BinaryCrossEntropy`.
        asl_gamma_pos, asl_gamma_neg, asl_clip, asl_reduction: Of the asymmetric losses.
        poly_epsilon, poly_gamma, poly_alpha: Of the Poly-1 losses; gamma and alpha with several labels.
        jsd_splits: Views of every image in a batch.
        twoway_tp, twoway_tn: Temperatures of `TwoWayLoss`.
        class_counts, num_samples: Images of each class, and in all, for db.
        db_neg_scale, db_init_bias, db_focal_gamma: Of `DistributionBalancedLoss`.

    Returns:
        A module of (logits, targets).

    Raises:
        ValueError: An unknown loss, or one that cannot do what is asked.
    """
    kind = loss_type or ('bce' if multi_label else 'ce')
    if kind not in LOSS_TYPES:
        raise ValueError(f'loss_type {kind!r} is unknown{near(kind, LOSS_TYPES)}')
    if multi_label and kind not in MULTI_LABEL_LOSS_TYPES:
        raise ValueError(f'{kind} is for single labels; with several use one of {", ".join(MULTI_LABEL_LOSS_TYPES)}')
    if not multi_label and kind in MULTI_LABEL_ONLY:
        raise ValueError(f'{kind} is for several labels an image')
    weighs_positives = kind == 'bce' or (kind == 'asl' and multi_label)
    if pos_weight is not None and not weighs_positives:
        raise ValueError(f'pos_weight is of bce and multi-label asl, not of {kind}')
    if class_weight is not None and not (weighs_positives or kind == 'ce'):
        raise ValueError(f'class_weight is of ce, bce and multi-label asl, not of {kind}')
    if (soft_targets or smoothing) and kind in ('twoway', 'zlpr'):
        raise ValueError(f'{kind} wants targets of 0 and 1: neither mixing nor smoothing')
    if soft_targets and kind in ('jsd', 'asl') and not multi_label:
        raise ValueError(f'{kind} wants class indices: no mixing')
    smoothing = 0.0 if soft_targets else smoothing
    weight = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32)
    positive = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32)
    if kind == 'ce':
        return LabelSmoothingCrossEntropy(smoothing, weight)
    if kind == 'jsd':
        return JsdCrossEntropy(jsd_splits, smoothing=smoothing)
    if kind == 'bce':
        return BinaryCrossEntropy(
            smoothing, bce_target_thresh, weight, 'mean', bce_sum, positive, smooth_dense=multi_label
        )
    if kind == 'asl' and multi_label:
        return AsymmetricLossMultiLabel(
            asl_gamma_neg,
            asl_gamma_pos,
            asl_clip,
            smoothing=smoothing,
            reduction=asl_reduction,
            weight=weight,
            pos_weight=positive,
        )
    if kind == 'asl':
        return AsymmetricLossSingleLabel(asl_gamma_pos, asl_gamma_neg, smoothing)
    if kind == 'poly' and multi_label:
        return PolyBinaryCrossEntropy(poly_epsilon, poly_gamma, poly_alpha, smoothing)
    if kind == 'poly':
        return PolyCrossEntropy(poly_epsilon, smoothing)
    if kind == 'twoway':
        return TwoWayLoss(twoway_tp, twoway_tn)
    if kind == 'zlpr':
        return ZlprLoss()
    if class_counts is None or num_samples is None:
        raise ValueError('db needs class_counts and num_samples')
    return DistributionBalancedLoss(
        class_counts,
        num_samples,
        neg_scale=db_neg_scale,
        init_bias=db_init_bias,
        focal_gamma=db_focal_gamma,
        smoothing=smoothing,
    )
