"""Targets with uncertainty: label smoothing, mixup and cutmix."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import one_hot

MODES = ('batch', 'pair', 'elem', 'half')


def soft_targets(
    targets: torch.Tensor, num_classes: int, smoothing: float = 0.0, multi_label: bool = False
) -> torch.Tensor:
    """Targets as distributions, smoothed (arXiv:1512.00567).

    Args:
        targets: Class indices (batch,), or dense targets (batch, classes): distributions, or 0 and 1 for each label.
        num_classes: How many there are.
        smoothing: Share that is spread over all classes.
        multi_label: Every class is a question of its own: the share goes towards one half.

    Returns:
        float32 (batch, classes).
    """
    dense = one_hot(targets, num_classes) if targets.ndim == 1 else targets
    if dense.shape[1] != num_classes:
        raise ValueError(f'targets have {dense.shape[1]} columns, num_classes is {num_classes}')
    return dense.float() * (1 - smoothing) + smoothing / (2 if multi_label else num_classes)


@dataclass(frozen=True)
class Mixture:
    """How samples are mixed with their partners; arrays with one entry each.

    Attributes:
        share: Weight of the sample itself in the targets.
        is_cut: Whether a box of the partner is pasted; otherwise the images are blended.
        boxes: int (count, 4): top, bottom, left and right of the box.
    """

    share: np.ndarray
    is_cut: np.ndarray
    boxes: np.ndarray

    def pasted(self) -> Iterator[tuple[int, list[int]]]:
        """The entries with a box of some area."""
        for i in np.flatnonzero(self.is_cut & (self.share < 1)).tolist():
            yield i, self.boxes[i].tolist()


@dataclass(frozen=True)
class Mixup:
    """Blends pairs of a batch (mixup, arXiv:1710.09412) or pastes a box of the other (cutmix, arXiv:1905.04899).

    A sample's partner is the one as far from the end of the batch as it is from the start; the middle one of an odd
    batch stays as it is.

    Attributes:
        mixup_alpha: The share of a blend is from Beta(alpha, alpha); 0: no mixup.
        cutmix_alpha: The same for the area outside a box; 0: no cutmix.
        cutmix_minmax: Range of a box's sides as shares of the image's, instead of cutmix_alpha.
        prob: Probability of mixing at all.
        switch_prob: Probability of cutmix where both are on.
        mode: batch (one draw for all), pair (one for each pair), elem (one for each sample) or half (one for each pair,
            of which one image remains: the batch halves).
        correct_lam: Shares of a box are those of its pixels, which the image's edge may have cut.
        label_smoothing: As in `soft_targets`.
        num_classes: As in `soft_targets`.
        multi_label: As in `soft_targets`.
    """

    mixup_alpha: float = 1.0
    cutmix_alpha: float = 0.0
    cutmix_minmax: tuple[float, float] | None = None
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = 'batch'
    correct_lam: bool = True
    label_smoothing: float = 0.1
    num_classes: int = 1000
    multi_label: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'mixup_mode must be one of {", ".join(MODES)}, got {self.mode!r}')
        if min(self.mixup_alpha, self.cutmix_alpha) < 0:
            raise ValueError(f'mixup and cutmix must be at least 0, got {self.mixup_alpha} and {self.cutmix_alpha}')
        if not (self.mixup_alpha or self.cutmix_alpha or self.cutmix_minmax):
            raise ValueError('one of mixup, cutmix and cutmix_minmax is needed')
        if self.cutmix_minmax and not 0 < self.cutmix_minmax[0] <= self.cutmix_minmax[1] <= 1:
            raise ValueError(f'cutmix_minmax must be (low, high) with 0 < low <= high <= 1, got {self.cutmix_minmax}')
        for name, value in (('mixup_prob', self.prob), ('mixup_switch_prob', self.switch_prob)):
            if not 0 <= value <= 1:
                raise ValueError(f'{name} is a probability, in [0, 1], got {value}')

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes a batch.

        Args:
            images: Float (batch, channels, height, width).
            targets: Class indices (batch,) or dense targets (batch, classes).
            rng: Decides everything; made from the batch's address, it makes the batch the same after a resumption.

        Returns:
            Mixed images, in new memory, and targets float32 (batch, classes).
        """
        count, place = len(images), np.arange(len(images))
        pairs = np.minimum(place, place[::-1])
        entries = {'batch': 0 * place, 'pair': pairs, 'elem': place, 'half': pairs[: (count + 1) // 2]}[self.mode]
        mixture = self.draw(int(entries.max()) + 1, images.shape[-2:], rng)
        targets = soft_targets(targets, self.num_classes, self.label_smoothing, self.multi_label)
        size = len(entries)
        partners, own = targets.flip(0)[:size], targets[:size]
        share = torch.from_numpy(mixture.share[entries]).to(images)
        blend = torch.from_numpy(np.where(mixture.is_cut, 1.0, mixture.share)[entries]).to(images)
        if mixture.is_cut.all():
            mixed = images[:size].clone()
        else:
            # in place in the copy: most of the time of a large batch goes into fresh memory
            mixed = images[-size:].flip(0).lerp_(images[:size], blend[:, None, None, None])
        for entry, (top, bottom, left, right) in mixture.pasted():
            rows = np.flatnonzero(entries == entry)
            mixed[rows, :, top:bottom, left:right] = images[count - 1 - rows, :, top:bottom, left:right]
        return mixed, partners.lerp(own, share[:, None].to(own))

    def draw(self, count: int, size: tuple[int, ...], rng: np.random.Generator) -> Mixture:
        """Shares and boxes for `count` entries of images (height, width)."""
        cutmix = bool(self.cutmix_alpha or self.cutmix_minmax)
        is_used = rng.random(count) < self.prob
        is_cut = rng.random(count) < (self.switch_prob if cutmix and self.mixup_alpha else float(cutmix))
        share = np.ones(count)
        for alpha, which in ((self.mixup_alpha, ~is_cut), (self.cutmix_alpha, is_cut & (self.cutmix_minmax is None))):
            if alpha:
                share = np.where(which, rng.beta(alpha, alpha, count), share)
        boxes = np.stack(self.box(share, size, rng), axis=1)
        if self.correct_lam or self.cutmix_minmax:
            area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
            share = np.where(is_cut, 1 - area / (size[0] * size[1]), share)
        return Mixture(np.where(is_used, share, 1.0), is_cut, boxes)

    def box(self, share: np.ndarray, size: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray]:
        """Top, bottom, left and right of boxes that leave `share` of the area, or with sides in `cutmix_minmax`."""
        edges = []
        for side in size:
            if self.cutmix_minmax:
                low, high = (int(side * bound) for bound in self.cutmix_minmax)
                length = rng.integers(low, max(low + 1, high), len(share))
                start = rng.integers(0, side - length + 1)
                edges += [start, start + length]
            else:
                # the centre is anywhere, and what reaches over the edge is cut off
                length = (side * np.sqrt(1 - share)).astype(int)
                start = rng.integers(0, side, len(share)) - length // 2
                edges += [np.clip(start, 0, side), np.clip(start + length, 0, side)]
        return edges
