"""Mixer as google-research/vision_transformer saves it, and ResMLP as facebookresearch/deit does."""

from typing import Any

from torch import Tensor

from foveal.convert import jax
from foveal.convert.layout import Layout, Weights


def from_jax(weights: Weights, model: Any) -> Weights:
    """The arrays of an .npz file as the weights of a Mixer."""
    arrays = jax.shortened(weights)
    result: Weights = {}

    def put(path: str, parts: dict[str, Tensor]) -> None:
        result.update({f'{path}.{leaf}': tensor for leaf, tensor in parts.items()})

    put('stem.proj', jax.convolution(arrays, 'stem'))
    for i in range(len(model.blocks)):
        block = f'MixerBlock_{i}'
        for layer in (0, 1):
            put(f'blocks.{i}.norm{layer + 1}', jax.norm(arrays, f'{block}/LayerNorm_{layer}'))
            for kind in ('token', 'channel'):
                path = f'{block}/{kind}_mixing/Dense_{layer}'
                put(f'blocks.{i}.mlp_{kind}s.fc{layer + 1}', jax.linear(arrays, path))
    put('norm', jax.norm(arrays, 'pre_head_layer_norm'))
    put('head', jax.linear(arrays, 'head'))
    return result


LAYOUTS = (
    Layout('google', mark=r'(^|/)MixerBlock_0/', change=from_jax),
    Layout(
        'facebookresearch',
        mark=r'\.gamma_1$',
        rules=(
            (r'^patch_embed\.', 'stem.'),
            (r'\.attn\.', '.linear_tokens.'),
            (r'\.mlp\.', '.mlp_channels.'),
            (r'\.gamma_([12])$', r'.ls\1'),
        ),
    ),
)
