"""ViT as google-research/vision_transformer and big_vision save it, as deit and dinov2 do, and as in CLIP models."""

from typing import Any

import torch
from torch import Tensor

from foveal.convert import jax
from foveal.convert.layout import Layout, Weights


def from_jax(weights: Weights, model: Any) -> Weights:  # noqa: ARG001 (a Layout's change)
    """The arrays of an .npz file as the weights of a ViT."""
    arrays = jax.shortened(weights)
    result: Weights = {}

    def put(path: str, parts: dict[str, Tensor]) -> None:
        result.update({f'{path}.{leaf}': tensor for leaf, tensor in parts.items()})

    put('patch_embed.proj', jax.convolution(arrays, 'embedding'))
    if 'cls' in arrays:
        result['cls_token'] = arrays['cls']
    positions = 'pos_embedding' if 'pos_embedding' in arrays else 'Transformer/posembed_input/pos_embedding'
    result['pos_embed'] = arrays[positions]
    # big_vision numbers the children of a block by kind, vision_transformer by order
    newer = 'Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel' in arrays
    norm2, attention, mlp = ('LayerNorm_1', 0, 0) if newer else ('LayerNorm_2', 1, 3)
    count = sum(name.endswith(f'/{norm2}/scale') and name.startswith('Transformer/encoderblock_') for name in arrays)
    for i in range(count):
        block = f'Transformer/encoderblock_{i}'
        put(f'blocks.{i}.norm1', jax.norm(arrays, f'{block}/LayerNorm_0'))
        put(f'blocks.{i}.norm2', jax.norm(arrays, f'{block}/{norm2}'))
        within = f'{block}/MultiHeadDotProductAttention_{attention}'
        put(f'blocks.{i}.attn.qkv', joined(arrays, within, 'query', 'key', 'value'))
        put(f'blocks.{i}.attn.proj', jax.heads_out(arrays, f'{within}/out'))
        for layer in (0, 1):
            put(f'blocks.{i}.mlp.fc{layer + 1}', jax.linear(arrays, f'{block}/MlpBlock_{mlp}/Dense_{layer}'))
    put('norm', jax.norm(arrays, 'Transformer/encoder_norm'))
    if 'MAPHead_0/probe' in arrays:
        within = 'MAPHead_0/MultiHeadDotProductAttention_0'
        result['attn_pool.latent'] = arrays['MAPHead_0/probe']
        put('attn_pool.q', joined(arrays, within, 'query'))
        put('attn_pool.kv', joined(arrays, within, 'key', 'value'))
        put('attn_pool.proj', jax.heads_out(arrays, f'{within}/out'))
        put('attn_pool.norm', jax.norm(arrays, 'MAPHead_0/LayerNorm_0'))
        for layer in (0, 1):
            put(f'attn_pool.mlp.fc{layer + 1}', jax.linear(arrays, f'MAPHead_0/MlpBlock_0/Dense_{layer}'))
    if 'head/kernel' in arrays:
        put('head', jax.linear(arrays, 'head'))
    return result


def joined(arrays: jax.Arrays, path: str, *names: str) -> dict[str, Tensor]:
    """Projections to heads as one layer."""
    layers = [jax.heads_in(arrays, f'{path}/{name}') for name in names]
    return {leaf: torch.cat([layer[leaf] for layer in layers]) for leaf in ('weight', 'bias')}


def class_position(weights: Weights, model: Any) -> Weights:
    """The position of the class token added to it, where the model has positions for patches alone."""
    positions, count = weights.get('pos_embed'), model.patch_embed.num_patches
    if model.cfg.no_embed_class and positions is not None and model.cls_token is not None:
        grid = int(positions.shape[1] ** 0.5) ** 2
        if positions.shape[1] == count + 1 or positions.shape[1] == grid + 1:
            weights['cls_token'] = weights['cls_token'] + positions[:, :1]
            weights['pos_embed'] = positions[:, 1:]
    return weights


def projected(weights: Weights, model: Any) -> Weights:
    """CLIP's positions as a batch of one, and its projection as a classifier."""
    weights['pos_embed'] = weights['pos_embed'].unsqueeze(0)
    projection = weights.pop('proj', None)
    if projection is not None and model.num_classes:
        weights['head.weight'] = projection.T.contiguous()
        weights['head.bias'] = torch.zeros(projection.shape[1])
    return weights


LAYOUTS = (
    Layout(
        'open_clip, trunk', mark=r'^visual\.trunk\.', rules=((r'^visual\.trunk\.', ''),), drop=r'^(?!visual\.trunk\.)'
    ),
    Layout(
        'open_clip',
        mark=r'^visual\.class_embedding$',
        rules=(
            (r'^visual\.', ''),
            (r'^class_embedding$', 'cls_token'),
            (r'^positional_embedding$', 'pos_embed'),
            (r'^conv1\.', 'patch_embed.proj.'),
            (r'^ln_pre\.', 'norm_pre.'),
            (r'^ln_post\.', 'norm.'),
            (r'^transformer\.resblocks\.', 'blocks.'),
            (r'\.ln_([12])\.', r'.norm\1.'),
            (r'\.attn\.in_proj_', '.attn.qkv.'),
            (r'\.attn\.out_proj\.', '.attn.proj.'),
            (r'\.mlp\.c_fc\.', '.mlp.fc1.'),
            (r'\.mlp\.c_proj\.', '.mlp.fc2.'),
        ),
        drop=r'^(?!visual\.)',
        change=projected,
    ),
    Layout('google', mark=r'(^|/)Transformer/encoderblock_0/', change=from_jax),
    Layout('deit', mark=r'\.gamma_1$', rules=((r'\.gamma_([12])$', r'.ls\1.gamma'),)),
    Layout(
        'dinov2',
        mark=r'^mask_token$',
        rules=((r'^register_tokens$', 'reg_token'), (r'\.mlp\.w12\.', '.mlp.fc1.'), (r'\.mlp\.w3\.', '.mlp.fc2.')),
        drop=r'^mask_token$',
        change=class_position,
    ),
)
