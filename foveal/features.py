"""A model as a feature pyramid."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveal.models.backbone import Backbone, FeatureInfo, take_indices


class Features(nn.Module):
    """The feature maps of chosen levels of a model, without its head: what detectors and segmenters build on.

    Args:
        model: the model; what lies behind the last level is cut off.
        out_indices: None for the family's default, a number for the last so many levels, or a list.
        output_fmt: layout of the maps: 'NCHW', 'NHWC' or 'NLC'.
        norm: normalise the maps, where the model's norm fits them.

    Raises:
        ValueError: a level that the model does not have.
    """

    def __init__(
        self,
        model: Backbone,
        out_indices: int | Sequence[int] | None = None,
        output_fmt: str = 'NCHW',
        norm: bool = False,
    ) -> None:
        super().__init__()
        chosen = model.out_indices if out_indices is None else out_indices
        self.out_indices = take_indices(len(model.feature_info), chosen, 'out_indices')
        self.feature_info = FeatureInfo(model.feature_info[i] for i in self.out_indices)
        self.output_fmt, self.norm = output_fmt, norm
        self.pretrained_cfg = model.pretrained_cfg
        model.prune_intermediate_layers(self.out_indices, prune_norm=not norm)
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images (batch, channels, height, width), one a level in the order of `out_indices`."""
        return self.model.forward_intermediates(
            x, self.out_indices, norm=self.norm, stop_early=True, output_fmt=self.output_fmt, intermediates_only=True
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As the model's."""
        self.model.set_grad_checkpointing(enable)

    def layer_depths(self) -> dict[str, int]:
        """As the model's, under the wrapper's names."""
        return {f'model.{name}': depth for name, depth in self.model.layer_depths().items()}

    def no_weight_decay(self) -> set[str]:
        """As the model's, under the wrapper's names."""
        return {f'model.{name}' for name in self.model.no_weight_decay()}

    def __getattr__(self, name: str) -> Any:
        # the model's own attributes (num_features, cfg, ...) stay in reach
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'model':
                raise
            return getattr(super().__getattr__('model'), name)
