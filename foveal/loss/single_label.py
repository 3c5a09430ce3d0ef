"""Losses for images of one class each: targets are class indices (batch,) or distributions (batch, classes)."""

import torch.nn.functional as F
from torch import Tensor, nn

REDUCTIONS = ('mean', 'sum', 'none')


def distribution(targets: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Targets as distributions (batch, classes).

    Args:
        targets: Class indices (batch,), or distributions, which stay as they are.
        num_classes: Classes of the logits.
        smoothing: Share of an index that is spread over all classes, in [0, 1) (arXiv:1512.00567).
    """
    if targets.ndim > 1:
        return targets.float()
    return F.one_hot(targets, num_classes) * (1 - smoothing) + smoothing / num_classes


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of losses, or all of them."""
    if reduction == 'none':
        return losses
    return losses.mean() if reduction == 'mean' else losses.sum()


def check_reduction(reduction: str, legal: tuple[str, ...] = REDUCTIONS) -> None:
    """Refuses an unknown reduction."""
    if reduction not in legal:
        raise ValueError(f'reduction must be one of {", ".join(legal)}, got {reduction!r}')


def check_smoothing(smoothing: float) -> None:
    """Refuses a smoothing that leaves nothing of the targets."""
    if not 0 <= smoothing < 1:
        raise ValueError(f'smoothing must be in [0, 1), got {smoothing}')


class LabelSmoothingCrossEntropy(nn.Module):
    """Cross-entropy with label smoothing (arXiv:1512.00567, section 7).

    Args:
        smoothing: Share of each target that is spread over all classes, in [0, 1).
        weight: Of each class (classes,).
    """

    weight: Tensor | None

    def __init__(self, smoothing: float = 0.1, weight: Tensor | None = None) -> None:
        super().__init__()
        check_smoothing(smoothing)
        self.smoothing = smoothing
        self.register_buffer('weight', weight)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of logits (batch, classes)."""
        return F.cross_entropy(logits, targets, weight=self.weight, label_smoothing=self.smoothing)


class SoftTargetCrossEntropy(LabelSmoothingCrossEntropy):
    """Cross-entropy with targets that are distributions already, as mixup makes them.

    Args:
        weight: Of each class (classes,).
    """

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__(0.0, weight)


class JsdCrossEntropy(nn.Module):
    """Cross-entropy of clean images, and agreement with augmented views of them (AugMix, arXiv:1912.02781).

    The batch holds the clean images first, then each further view of all of them in the same order. The loss is the
    cross-entropy of the clean ones plus `alpha` times the Jensen-Shannon divergence of the views' predictions.

    Args:
        num_splits: Views, the clean one counted.
        alpha: Weight of the divergence.
        smoothing: Label smoothing of the cross-entropy.
    """

    def __init__(self, num_splits: int = 3, alpha: float = 12.0, smoothing: float = 0.1) -> None:
        super().__init__()
        check_smoothing(smoothing)
        if num_splits < 2:
            raise ValueError(f'num_splits must be at least 2, got {num_splits}')
        self.num_splits, self.alpha, self.smoothing = num_splits, alpha, smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (views x batch, classes); targets of the further views are not looked at."""
        if len(logits) % self.num_splits:
            raise ValueError(f'a batch of {len(logits)} is no multiple of the {self.num_splits} views')
        views = logits.view(self.num_splits, -1, logits.shape[-1])
        clean = F.cross_entropy(views[0], targets[: views.shape[1]], label_smoothing=self.smoothing)
        logs = views.log_softmax(-1)
        # the mean of probabilities, in logarithms, is kept off log(0)
        mixture = logs.exp().mean(0).clamp(1e-7, 1).log()
        divergence = (logs.exp() * (logs - mixture)).sum(-1).mean()
        return clean + self.alpha * divergence


class PolyCrossEntropy(nn.Module):
    """Cross-entropy plus `epsilon` times one minus the probability of the target (Poly-1, arXiv:2204.12511, eq. 6).

    Args:
        epsilon: Weight of the first polynomial term.
        smoothing: Label smoothing of class indices.
        reduction: 'mean', 'sum' or 'none'.
    """

    def __init__(self, epsilon: float = 2.0, smoothing: float = 0.0, reduction: str = 'mean') -> None:
        super().__init__()
        check_smoothing(smoothing)
        check_reduction(reduction)
        self.epsilon, self.smoothing, self.reduction = epsilon, smoothing, reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (batch, classes)."""
        targets = distribution(targets, logits.shape[-1], self.smoothing)
        logs = logits.log_softmax(-1)
        share = (targets * logs.exp()).sum(-1)
        return reduced(-(targets * logs).sum(-1) + self.epsilon * (1 - share), self.reduction)


class AsymmetricLossSingleLabel(nn.Module):
    """Cross-entropy that looks away from what is easy, more so for wrong classes (arXiv:2009.14119).

    Args:
        gamma_pos: Focusing exponent of the target class.
        gamma_neg: Focusing exponent of the other classes.
        eps: Label smoothing.
        reduction: 'mean', 'sum' or 'none'.
    """

    def __init__(
        self, gamma_pos: float = 1.0, gamma_neg: float = 4.0, eps: float = 0.1, reduction: str = 'mean'
    ) -> None:
        super().__init__()
        check_smoothing(eps)
        check_reduction(reduction)
        self.gamma_pos, self.gamma_neg, self.eps, self.reduction = gamma_pos, gamma_neg, eps, reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (batch, classes) for class indices (batch,)."""
        hard = F.one_hot(targets, logits.shape[-1]).to(logits)
        logs = logits.log_softmax(-1)
        probability = logs.exp()
        miss = hard * (1 - probability) + (1 - hard) * probability
        focus = miss ** (self.gamma_pos * hard + self.gamma_neg * (1 - hard))
        soft = distribution(targets, logits.shape[-1], self.eps)
        return reduced(-(soft * logs * focus).sum(-1), self.reduction)
