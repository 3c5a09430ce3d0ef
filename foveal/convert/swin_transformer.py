"""Swin as in microsoft/Swin-Transformer: patches are merged at the end of a stage, here at the start of the next."""

from foveal.convert.layout import Layout, Weights


def later(weights: Weights, model: object) -> Weights:  # noqa: ARG001 (a Layout's change)
    """The merging of stage i as that of stage i + 1."""
    moved = {}
    for name, tensor in weights.items():
        head, stage, rest = name.split('.', 2) if name.startswith('layers.') else ('', '', '')
        moved[f'{head}.{int(stage) + 1}.{rest}' if rest.startswith('downsample.') else name] = tensor
    return moved


LAYOUTS = (
    Layout(
        'microsoft',
        mark=r'^layers\.0\.downsample\.',
        rules=((r'^head\.(weight|bias)$', r'head.fc.\1'),),
        drop=r'\.(attn_mask|relative_position_index)$',
        change=later,
    ),
)
