"""Losses of classification and regression."""

from foveal.loss.class_weights import (
    CLASS_WEIGHT_METHOD_KINDS,
    CLASS_WEIGHT_METHODS,
    compute_class_weights,
    load_class_stats,
    resolve_class_weights,
)
from foveal.loss.factory import LOSS_TYPES, MULTI_LABEL_LOSS_TYPES, MULTI_LABEL_ONLY, create_classification_loss
from foveal.loss.multi_label import (
    AsymmetricLossMultiLabel,
    BinaryCrossEntropy,
    DistributionBalancedLoss,
    PolyBinaryCrossEntropy,
    TwoWayLoss,
    ZlprLoss,
)
from foveal.loss.regression import REGRESSION_LOSS_TYPES, create_regression_loss
from foveal.loss.single_label import (
    AsymmetricLossSingleLabel,
    JsdCrossEntropy,
    LabelSmoothingCrossEntropy,
    PolyCrossEntropy,
    SoftTargetCrossEntropy,
)

__all__ = [
    'CLASS_WEIGHT_METHODS',
    'CLASS_WEIGHT_METHOD_KINDS',
    'LOSS_TYPES',
    'MULTI_LABEL_LOSS_TYPES',
    'MULTI_LABEL_ONLY',
    'REGRESSION_LOSS_TYPES',
    'AsymmetricLossMultiLabel',
    'AsymmetricLossSingleLabel',
    'BinaryCrossEntropy',
    'DistributionBalancedLoss',
    'JsdCrossEntropy',
    'LabelSmoothingCrossEntropy',
    'PolyBinaryCrossEntropy',
    'PolyCrossEntropy',
    'SoftTargetCrossEntropy',
    'TwoWayLoss',
    'ZlprLoss',
    'compute_class_weights',
    'create_classification_loss',
    'create_regression_loss',
    'load_class_stats',
    'resolve_class_weights',
]
