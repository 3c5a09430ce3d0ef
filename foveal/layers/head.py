"""Classification heads: pool, normalise, hidden layer, classify."""

from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers.act import activation
from foveal.layers.layout import relayout
from foveal.layers.pool import Pool


def classifier(in_features: int, num_classes: int) -> nn.Module:
    """The last linear layer, or an identity where there are no classes."""
    return nn.Linear(in_features, num_classes) if num_classes > 0 else nn.Identity()


def classify(fc: nn.Module, x: Tensor, layout: str = 'NCHW') -> Tensor:
    """Apply a classifier to a vector, or to every position of an unpooled map (then logits stand in its layout)."""
    if x.ndim == 4 and layout == 'NCHW' and isinstance(fc, nn.Linear):
        return relayout(fc(relayout(x, 'NCHW', 'NHWC')), 'NHWC', 'NCHW')
    return fc(x)


class PoolHead(nn.Module):
    """Pool, norm, optional hidden layer, dropout, linear classifier.

    With `global_pool=''` all of it applies to each position, and the logits are a map in the layout of the input. With
    no classes what comes before the classifier comes out.

    Args:
        in_features: channels of the trunk.
        num_classes: classes; 0 for none.
        global_pool: as in `foveal.layers.Pool`.
        drop_rate: dropout before the classifier.
        norm: makes the norm of `in_features` channels that follows the pooling; none if not given.
        hidden: width of a hidden layer with an activation; none if not given.
        act_layer: its activation.
        layout: of the input: 'NCHW', 'NHWC' or 'NLC'.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
        hidden: int | None = None,
        act_layer: str | Callable[..., nn.Module] = 'gelu',
        layout: str = 'NCHW',
    ) -> None:
        super().__init__()
        self.drop_rate, self.layout, self.hidden, self.in_features = drop_rate, layout, hidden, in_features
        self.global_pool = Pool(global_pool, layout)
        width = in_features * self.global_pool.feat_mult
        self.norm = norm(width) if norm else nn.Identity()
        self.pre_logits: nn.Module = nn.Identity()
        if hidden:
            layers = OrderedDict(fc=nn.Linear(width, hidden), act=activation(act_layer))
            self.pre_logits = nn.Sequential(layers)
        self.fc = classifier(hidden or width, num_classes)

    @property
    def num_features(self) -> int:
        """Width of what the classifier sees."""
        return self.hidden or self.in_features * self.global_pool.feat_mult

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Put in a new classifier, and another pooling if one is given."""
        if pool_type is not None:
            self.global_pool = Pool(pool_type, self.layout)
        self.fc = classifier(self.num_features, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x)
        is_map = x.ndim == 4 and self.layout == 'NCHW'
        x = relayout(x, 'NCHW', 'NHWC') if is_map else x
        x = self.pre_logits(self.norm(x))
        x = F.dropout(x, self.drop_rate, self.training)
        x = x if pre_logits else self.fc(x)
        return relayout(x, 'NHWC', 'NCHW') if is_map else x
