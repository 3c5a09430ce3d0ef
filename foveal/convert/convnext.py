"""ConvNeXt as in facebookresearch/ConvNeXt and ConvNeXt-V2, whose masked pre-training runs on MinkowskiEngine."""

from math import isqrt

from foveal.convert.layout import Layout, Weights

RULES = (
    (r'^downsample_layers\.0\.', 'stem.'),
    (r'^downsample_layers\.(\d+)\.', r'stages.\1.downsample.'),
    (r'^stages\.(\d+)\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'\.dwconv\.', '.conv_dw.'),
    (r'\.pwconv([12])\.', r'.mlp.fc\1.'),
    (r'\.grn\.gamma$', '.mlp.grn.weight'),
    (r'\.grn\.beta$', '.mlp.grn.bias'),
    (r'^norm\.', 'head.norm.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
)


def dense(weights: Weights, model: object) -> Weights:  # noqa: ARG001 (a Layout's change)
    """Sparse kernels (places, in, out), of a depthwise convolution (places, channels), as dense ones.

    Places are counted column by column.
    """
    result = {}
    for name, tensor in weights.items():
        if name.endswith('.kernel'):
            side = isqrt(len(tensor))
            grid = tensor.unflatten(0, (side, side))  # (x, y, in, out)
            grid = grid.unsqueeze(2) if grid.dim() == 3 else grid
            name, tensor = f'{name.removesuffix("kernel")}weight', grid.permute(3, 2, 1, 0).contiguous()
        result[name] = tensor
    return result


LAYOUTS = (
    Layout(
        'facebookresearch, sparse',
        mark=r'^(encoder\.)?stages\..*\.dwconv\.kernel$',
        rules=((r'^encoder\.', ''), (r'\.(ln|linear)\.', '.'), *RULES),
        drop=r'^(decoder|proj|pred|mask_token)\b',
        change=dense,
    ),
    Layout('facebookresearch', mark=r'^downsample_layers\.', rules=RULES),
)
