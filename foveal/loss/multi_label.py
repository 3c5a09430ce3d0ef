"""Losses for images of any number of classes each: targets are (batch, classes) in [0, 1]."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.loss.single_label import check_reduction, check_smoothing, reduced


class BinaryCrossEntropy(nn.Module):
    """Every class decided on its own, for one label or several (arXiv:2110.00476, section 3 for single labels).

    Args:
        smoothing: Share of a class index that is spread over all classes, in [0, 1).
        target_threshold: Targets above it count as 1, the others as 0; mixed images then have both their classes.
        weight: Of each class (classes,).
        reduction: 'mean', 'sum' or 'none'; `sum_classes` takes its place.
        sum_classes: Sum over classes, mean over images.
        pos_weight: Of the positive targets, one number or (classes,).
        smooth_dense: Smooth targets (batch, classes) too, towards one half.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        smoothing: float = 0.1,
        target_threshold: float | None = None,
        weight: Tensor | None = None,
        reduction: str = 'mean',
        sum_classes: bool = False,
        pos_weight: Tensor | float | None = None,
        smooth_dense: bool = False,
    ) -> None:
        super().__init__()
        check_smoothing(smoothing)
        check_reduction(reduction)
        self.smoothing, self.target_threshold, self.smooth_dense = smoothing, target_threshold, smooth_dense
        self.reduction, self.sum_classes = reduction, sum_classes
        self.register_buffer('weight', weight)
        self.register_buffer('pos_weight', None if pos_weight is None else torch.as_tensor(pos_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (batch, classes) for indices (batch,) or targets (batch, classes)."""
        targets = binary(targets, logits, self.smoothing, self.smooth_dense)
        if self.target_threshold is not None:
            targets = targets.gt(self.target_threshold).to(logits)
        reduction = 'none' if self.sum_classes else self.reduction
        loss = F.binary_cross_entropy_with_logits(
            logits, targets, self.weight, pos_weight=self.pos_weight, reduction=reduction
        )
        return loss.sum(-1).mean() if self.sum_classes else loss


def binary(targets: Tensor, logits: Tensor, smoothing: float, smooth_dense: bool = True) -> Tensor:
    """Targets of each class in [0, 1]: indices smoothed over all classes, given targets towards one half."""
    if targets.ndim == 1:
        return F.one_hot(targets, logits.shape[-1]).to(logits) * (1 - smoothing) + smoothing / logits.shape[-1]
    targets = targets.to(logits)
    return targets * (1 - smoothing) + smoothing / 2 if smooth_dense else targets


class AsymmetricLossMultiLabel(nn.Module):
    """Binary cross-entropy that looks away from easy negatives and drops the easiest (ASL, arXiv:2009.14119, eq. 7).

    Args:
        gamma_neg, gamma_pos: Focusing exponents of negative and positive targets.
        clip: Probability that is taken off negatives before all else; None or 0 for none.
        eps: Least probability whose logarithm is taken.
        disable_torch_grad_focal_loss: Take the focusing factor as a constant in the backward pass.
        smoothing: Moves targets towards one half.
        reduction: 'batchmean' (sum over classes, mean over images), 'mean', 'sum' or 'none'.
        weight: Of each class (classes,).
        pos_weight: Of the positive targets, one number or (classes,).
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = False,
        smoothing: float = 0.0,
        reduction: str = 'batchmean',
        weight: Tensor | None = None,
        pos_weight: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        check_smoothing(smoothing)
        check_reduction(reduction, ('batchmean', 'mean', 'sum', 'none'))
        self.gamma_neg, self.gamma_pos, self.clip, self.eps = gamma_neg, gamma_pos, clip or 0.0, eps
        self.constant_focus, self.smoothing, self.reduction = disable_torch_grad_focal_loss, smoothing, reduction
        self.register_buffer('weight', weight)
        self.register_buffer('pos_weight', None if pos_weight is None else torch.as_tensor(pos_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (batch, classes) for targets (batch, classes)."""
        targets = binary(targets, logits, self.smoothing)
        positive = logits.sigmoid()
        negative = (1 - positive + self.clip).clamp(max=1)
        kept = positive * targets + negative * (1 - targets)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.constant_focus):
            focus = (1 - kept) ** (self.gamma_pos * targets + self.gamma_neg * (1 - targets))
        gain = targets * positive.clamp(min=self.eps).log()
        gain = gain if self.pos_weight is None else gain * self.pos_weight
        loss = -(gain + (1 - targets) * negative.clamp(min=self.eps).log()) * focus
        loss = loss if self.weight is None else loss * self.weight
        return loss.sum() / len(loss) if self.reduction == 'batchmean' else reduced(loss, self.reduction)


class PolyBinaryCrossEntropy(nn.Module):
    """Binary cross-entropy or focal loss with a first polynomial term (Poly-1, arXiv:2204.12511, section 4).

    Args:
        epsilon: Weight of the polynomial term.
        gamma: Focusing exponent; 0 for plain cross-entropy.
        alpha: Weight of positive targets, one minus it for negative ones; None for none.
        smoothing: Moves targets towards one half.
        reduction: 'mean', 'sum' or 'none'.
    """

    def __init__(
        self,
        epsilon: float = 2.0,
        gamma: float = 0.0,
        alpha: float | None = None,
        smoothing: float = 0.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__()
        check_smoothing(smoothing)
        check_reduction(reduction)
        self.epsilon, self.gamma, self.alpha = epsilon, gamma, alpha
        self.smoothing, self.reduction = smoothing, reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (batch, classes) for targets (batch, classes)."""
        targets = binary(targets, logits, self.smoothing)
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction='none')
        probability = logits.sigmoid()
        miss = 1 - (targets * probability + (1 - targets) * (1 - probability))
        loss = miss**self.gamma * (entropy + self.epsilon * miss)
        if self.alpha is not None:
            loss = loss * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return reduced(loss, self.reduction)


class TwoWayLoss(nn.Module):
    """Softmax-like contrast of positive and negative logits, within each image and within each class.

    Kobayashi 2023, "Two-way multi-label loss" (CVPR), equations 8 to 11. Images without a positive class, and classes
    without a positive image, are left out.

    Args:
        tp, tn: Temperatures of positive and negative logits.
    """

    def __init__(self, tp: float = 4.0, tn: float = 1.0) -> None:
        super().__init__()
        self.tp, self.tn = tp, tn

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (batch, classes) for targets (batch, classes), positive above one half."""
        positive = targets > 0.5
        falls = (-logits / self.tp).masked_fill(~positive, -torch.inf)
        rises = (logits / self.tn).masked_fill(positive, -torch.inf)
        loss = logits.new_zeros(())
        for dim in (1, 0):
            has = positive.any(dim)
            margin = self.tp * falls.logsumexp(dim)[has] + self.tn * rises.logsumexp(dim)[has]
            loss = loss + F.softplus(margin).sum() / has.sum().clamp(min=1)
        return loss


class ZlprLoss(nn.Module):
    """Zero-bounded log-sum-exp and pairwise rank loss: positive logits above 0, negative below (arXiv:2208.02955)."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of logits (batch, classes) for targets (batch, classes), positive above one half."""
        positive = targets > 0.5
        zero = logits.new_zeros(len(logits), 1)
        below = torch.cat([zero, (-logits).masked_fill(~positive, -torch.inf)], 1)
        above = torch.cat([zero, logits.masked_fill(positive, -torch.inf)], 1)
        return (below.logsumexp(1) + above.logsumexp(1)).mean()


class DistributionBalancedLoss(nn.Module):
    """For long-tailed labels: rebalanced by class frequency, tolerant of negatives, focal (arXiv:2007.09654).

    Args:
        class_counts: Positive images of each class (classes,).
        num_samples: Images in all.
        map_alpha, map_beta, map_mu: Lift, slope and centre of the smoothed rebalancing weights (eq. 5).
        neg_scale: Scale of negative logits (lambda, eq. 7).
        init_bias: Scale of the class prior that shifts the logits, divided by `neg_scale` (kappa, eq. 7).
        focal_gamma: Focusing exponent.
        focal_balance: Factor of the focal loss.
        smoothing: Moves targets towards one half.
        reduction: 'mean', 'sum' or 'none'.
    """

    frequency: Tensor
    bias: Tensor

    def __init__(
        self,
        class_counts: Tensor | Sequence[float],
        num_samples: int,
        map_alpha: float = 0.1,
        map_beta: float = 10.0,
        map_mu: float = 0.2,
        neg_scale: float = 2.0,
        init_bias: float = 0.05,
        focal_gamma: float = 2.0,
        focal_balance: float = 2.0,
        smoothing: float = 0.0,
        reduction: str = 'mean',
    ) -> None:
        super().__init__()
        check_smoothing(smoothing)
        check_reduction(reduction)
        self.map_alpha, self.map_beta, self.map_mu, self.neg_scale = map_alpha, map_beta, map_mu, neg_scale
        self.focal_gamma, self.focal_balance = focal_gamma, focal_balance
        self.smoothing, self.reduction = smoothing, reduction
        counts = torch.as_tensor(class_counts, dtype=torch.float32).clamp(min=1)
        if (counts >= num_samples).any():
            raise ValueError(f'num_samples={num_samples} must be above every class count, got {counts.max():.0f}')
        self.register_buffer('frequency', 1 / counts)
        self.register_buffer('bias', -init_bias / neg_scale * torch.log(num_samples / counts - 1))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (batch, classes) for targets (batch, classes)."""
        hard = targets.to(logits)
        repeat = (hard * self.frequency).sum(1, keepdim=True)
        weight = self.map_alpha + torch.sigmoid(self.map_beta * (self.frequency / repeat - self.map_mu))
        soft = binary(hard, logits, self.smoothing)
        shifted = logits + self.bias
        scaled = shifted * (1 - hard) * self.neg_scale + shifted * hard
        weight = weight / self.neg_scale * (1 - hard) + weight * hard
        entropy = F.binary_cross_entropy_with_logits(scaled, soft, reduction='none')
        focus = (1 - torch.exp(-entropy)) ** self.focal_gamma
        return reduced(self.focal_balance * focus * weight * entropy, self.reduction)
