"""DeiT (arXiv:2012.12877) and DeiT III (arXiv:2204.07118)."""

from typing import Any

import torch
from torch import Tensor, nn

from foveal.models.distilled import DistilledHead
from foveal.models.vision_transformer import VisionTransformer, VisionTransformerConfig, vits
from foveal.registry import register


class VisionTransformerDistilled(DistilledHead, VisionTransformer):
    """ViT with a distillation token and a classifier for it."""

    parts = VisionTransformer.parts._replace(classifier='head head_dist', pre_logits='')

    def build(self, cfg: VisionTransformerConfig) -> None:
        super().build(cfg)
        self.head_dist = nn.Linear(cfg.embed_dim, cfg.num_classes) if cfg.num_classes else nn.Identity()

    def build_prefix(self, cfg: Any) -> None:
        super().build_prefix(cfg)
        self.dist_token = nn.Parameter(torch.randn(1, 1, cfg.embed_dim) * 0.02)
        self.num_prefix_tokens += 1

    def prefix(self) -> list[Tensor]:
        return [*super().prefix(), self.dist_token]

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, 0], x[:, 1]


register(
    __name__,
    VisionTransformer,
    **vits("""
        deit_tiny_patch16_224 deit_small_patch16_224 deit_base_patch16_224 deit_base_patch16_384"""),
    **vits("""
        deit3_small_patch16_224 deit3_small_patch16_384 deit3_medium_patch16_224 deit3_base_patch16_224
        deit3_base_patch16_384 deit3_large_patch16_224 deit3_large_patch16_384 deit3_huge_patch14_224""",
        no_embed_class=True, init_values=1e-6),
)  # fmt: skip

register(
    __name__,
    VisionTransformerDistilled,
    **vits("""
        deit_tiny_distilled_patch16_224 deit_small_distilled_patch16_224 deit_base_distilled_patch16_224
        deit_base_distilled_patch16_384"""),
)  # fmt: skip
