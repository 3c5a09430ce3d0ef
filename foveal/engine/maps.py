"""Where in an image a class was seen, and where a transformer looked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from foveal.layers.attention import Attention, split_heads
from foveal.models.backbone import Backbone
from foveal.models.tokens import TokenBackbone


def grad_cam(model: Backbone, images: Tensor, classes: Tensor, level: int | None = None) -> Tensor:
    """Grad-CAM (arXiv:1610.02391): channels of a feature map, weighted by how much they raise a class's logit.

    Args:
        model: Of convolutions or tokens, in evaluation mode; its weights get no gradient.
        images: (batch, channels, height, width).
        classes: int64 (batch,), the output to look for in each image.
        level: Of `forward_intermediates`. Absent: the last whose map the logits depend on. That is the last of most;
            of a transformer that classifies its class token, the one before, since what the last block leaves in the
            patches is not used.

    Returns:
        (batch, height, width) of the images, in [0, 1]; all 0 where nothing raises the logit.

    Raises:
        ValueError: A level that does not exist, or one whose map the logits do not depend on.
    """
    count = len(model.feature_info)
    levels = [level] if level is not None else [i for i in (-1, -2) if count >= -i]
    for each in levels:
        features, slopes = map_and_slope(model, images, classes, each)
        if slopes.any():
            break
    else:
        if level is not None:
            raise ValueError(f'the logits do not depend on the map of level {level}; take one before it')
    weights = slopes.mean((2, 3), keepdim=True)
    return normalized((weights * features).sum(1).relu(), images.shape[-2:])


def map_and_slope(model: Backbone, images: Tensor, classes: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """A level's map and the slope of the classes' logits with respect to it, (batch, channels, height, width) each."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            # images that ask for a gradient make the whole pass one that can be gone back through
            images = images.detach().clone().requires_grad_()
            features, taps, grids = model.taps(images, [level], norm=False, stop_early=False, taps_only=False)
            chosen = model.forward_head(features).gather(1, classes[:, None]).sum()
            parts = [taps[0]] if isinstance(taps[0], Tensor) else list(taps[0])
            slopes = torch.autograd.grad(chosen, parts, allow_unused=True)
    finally:
        for parameter in wanted:
            parameter.requires_grad_()
    whole = [torch.zeros_like(part) if slope is None else slope for part, slope in zip(parts, slopes, strict=True)]
    like: Any = whole[0] if isinstance(taps[0], Tensor) else type(taps[0])(whole)
    maps, slope = (model.to_map(part, grids[0], 'NCHW').detach().float() for part in (taps[0], like))
    return maps, slope


def attention_rollout(model: nn.Module, images: Tensor) -> Tensor:
    """Attention rollout (arXiv:2005.00928): how much of each patch reaches the output through all blocks.

    The attention of each block, averaged over heads and mixed half and half with the identity for the residual, is
    multiplied through. The row of the class token is the result; without one, the mean of the patches' rows.

    Args:
        model: A plain vision transformer, in evaluation mode.
        images: (batch, channels, height, width).

    Returns:
        (batch, height, width) of the images, in [0, 1].

    Raises:
        ValueError: A model without plain attention over all tokens.
    """
    layers = plain_attentions(model)
    assert isinstance(model, TokenBackbone)
    found: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: found.append(attention_of(layer, inputs[0])))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            model.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    rollout = torch.eye(found[0].shape[-1], device=images.device).expand_as(found[0])
    for attention in found:
        rollout = (attention + torch.eye(attention.shape[-1], device=images.device)) / 2 @ rollout
    prefix = model.num_prefix_tokens
    row = rollout[:, 0] if prefix else rollout.mean(1)
    grid = model.grid(images.shape[-2:], -1)
    return normalized(row[:, prefix:].unflatten(1, grid), images.shape[-2:])


def plain_attentions(model: nn.Module) -> list[Attention]:
    """The attention of each block of a plain vision transformer."""
    blocks = list(model.blocks) if isinstance(model, TokenBackbone) else []
    layers = [getattr(block, 'attn', None) for block in blocks]
    if not blocks or any(type(layer) is not Attention for layer in layers):
        raise ValueError(
            f'attention maps need a plain vision transformer, such as vit_* or deit_*, in which every block attends '
            f'from all tokens to all; {type(model).__name__} is none. Class activation maps (cam) work for every model'
        )
    return layers  # type: ignore[return-value]


def attention_of(layer: Attention, x: Tensor) -> Tensor:
    """What a layer attends to, mean over its heads: (batch, from, to) of its input (batch, tokens, channels)."""
    q, k, _ = split_heads(layer.qkv(x), layer.num_heads)
    q, k = layer.q_norm(q), layer.k_norm(k)
    return (q.float() @ k.float().mT / layer.head_dim**0.5).softmax(-1).mean(1)


def normalized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (batch, height, width) at the size of the images, with a largest value of 1; 0 stays 0."""
    maps = F.interpolate(maps[:, None], list(size), mode='bilinear', align_corners=False)[:, 0]
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def overlay(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """An image beside itself under a map.

    Args:
        pixels: uint8 (height, width, 3).
        heat: (height, width) in [0, 1].
    """
    import matplotlib as mpl

    colours = mpl.colormaps['inferno'](heat)[..., :3] * 255
    grey = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    blended = (0.5 * grey + 0.5 * colours).round().astype(np.uint8)
    return Image.fromarray(np.concatenate([pixels, blended], 1))
