"""Several views of an image, judged together; and pooling over windows of a larger map."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from foveal.data import Preprocess
from foveal.layers import relayout
from foveal.models.backbone import Backbone

KINDS = {'flip': (1, True), 'five': (5, False), 'ten': (5, True)}


class Views(nn.Module):
    """What a model's outputs over views of an image mean together, as outputs.

    Five crops are the corners and the middle of the resized image; with their mirror images they are the ten of
    Krizhevsky et al. (2012, "ImageNet Classification with Deep Convolutional Neural Networks", section 4.1).

    Args:
        model: Maps images to outputs (batch, classes).
        kind: flip, five or ten.
        size: (height, width) of a crop.
        mean: `Goal.mean`: the outputs of all views to one.
    """

    def __init__(self, model: nn.Module, kind: str, size: tuple[int, int], mean: Callable[[Sequence[Tensor]], Tensor]):
        super().__init__()
        self.model, self.size, self.mean = model, size, mean
        self.crops, self.flip = KINDS[kind]

    def forward(self, images: Tensor) -> Tensor:
        return self.mean([self.model(view).float() for view in self.views(images)])

    def views(self, images: Tensor) -> list[Tensor]:
        """Crops and their mirror images, (batch, channels, height, width) each."""
        high, wide = (have - want for have, want in zip(images.shape[-2:], self.size, strict=True))
        places = [(round(high / 2), round(wide / 2)), (0, 0), (0, wide), (high, 0), (high, wide)][: self.crops]
        views = [images[..., y : y + self.size[0], x : x + self.size[1]] for y, x in places]
        return views + [view.flip(-1) for view in views] if self.flip else views


def preprocess_of_views(preprocess: Preprocess, kind: str) -> Preprocess:
    """What the loader gives for a kind of views: for crops, the middle square of the resized image.

    Raises:
        ValueError: Crops of an image that the crop keeps whole, which would all be the same.
    """
    if KINDS[kind][0] == 1:
        return preprocess
    channels, *size = preprocess.input_size
    high, wide = (math.floor(side / preprocess.crop_pct) for side in size)
    if high <= size[0] or wide <= size[1]:
        raise ValueError(
            f'tta={kind} crops within the image resized to {high}x{wide}, which leaves no room for '
            f'{size[0]}x{size[1]}; give a smaller crop_pct than {preprocess.crop_pct}'
        )
    return replace(preprocess, input_size=(channels, high, wide), crop_pct=1.0)


class TestTimePool(nn.Module):
    """Classifies every window of the size that a model was trained at, within the map of a larger image.

    The logits of the windows are pooled by the mean of their average and their maximum.

    Args:
        model: A model whose features are a map.
        window: (height, width) of the map that the model was trained with.

    Raises:
        ValueError: A model of tokens, or one that does not pool.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, model: nn.Module, window: tuple[int, int]):
        super().__init__()
        if not isinstance(model, Backbone) or model.parts.layout == 'NLC':
            raise ValueError(f'test_pool needs a model whose features are a map; {type(model).__name__} has tokens')
        self.model, self.window = model, window

    def forward(self, images: Tensor) -> Tensor:
        layout = self.model.parts.layout
        features = self.model.forward_features(images)
        maps = relayout(features, layout, 'NCHW')
        window = (min(self.window[0], maps.shape[2]), min(self.window[1], maps.shape[3]))
        means = F.avg_pool2d(maps, window, stride=1)
        batch, channels, high, wide = means.shape
        # each window is an image whose map has one position
        each = means.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
        logits = self.model.forward_head(relayout(each, 'NCHW', layout)).unflatten(0, (batch, high * wide))
        return 0.5 * (logits.mean(1) + logits.amax(1))


def published_window(model: Backbone) -> tuple[int, int]:
    """(height, width) of a model's last map for images of the published size."""
    size = model.pretrained_cfg.pool_size or model.grid(model.pretrained_cfg.input_size[1:], -1)
    return size[0], size[1]
