"""Models with a second classifier that learns from a teacher (arXiv:2012.12877)."""

from typing import Any

from torch import Tensor, nn

from foveal.models.backbone import Backbone


class DistilledHead(Backbone):
    """Two classifiers: their mean predicts, and while training for distillation the pair comes out.

    A family puts it before its own base and has `pool` give the pair of vectors that the classifiers see.
    """

    distilled_training = False

    def set_distilled_training(self, enable: bool = True) -> None:
        """Give the logits of both classifiers, as a pair, while the model is in training mode."""
        self.distilled_training = enable

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        first, second = self.pool(x)
        if pre_logits:
            return (first + second) / 2
        head, head_dist = self.get_classifier()
        drop = nn.functional.dropout
        logits = (
            head(drop(first, self.drop_rate, self.training)),
            head_dist(drop(second, self.drop_rate, self.training)),
        )
        if self.distilled_training and self.training:
            return logits
        return (logits[0] + logits[1]) / 2
