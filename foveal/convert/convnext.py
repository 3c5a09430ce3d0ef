"""ConvNeXt as in facebookresearch/ConvNeXt and ConvNeXt-V2."""

from foveal.convert.layout import Layout

LAYOUTS = (
    Layout(
        'facebookresearch',
        mark=r'^downsample_layers\.',
        rules=(
            (r'^downsample_layers\.0\.', 'stem.'),
            (r'^downsample_layers\.(\d+)\.', r'stages.\1.downsample.'),
            (r'^stages\.(\d+)\.(\d+)\.', r'stages.\1.blocks.\2.'),
            (r'\.dwconv\.', '.conv_dw.'),
            (r'\.pwconv([12])\.', r'.mlp.fc\1.'),
            (r'\.grn\.gamma$', '.mlp.grn.weight'),
            (r'\.grn\.beta$', '.mlp.grn.bias'),
            (r'^norm\.', 'head.norm.'),
            (r'^head\.(weight|bias)$', r'head.fc.\1'),
        ),
    ),
)
