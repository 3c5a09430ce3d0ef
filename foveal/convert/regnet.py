"""RegNet as in torchvision."""

from foveal.convert.layout import Layout, Weights


def counted(weights: Weights, model: object) -> Weights:  # noqa: ARG001 (a Layout's change)
    """Blocks counted from one."""
    result = {}
    for name, tensor in weights.items():
        stage, block, rest = name.split('.', 2) if '.@' in name else ('', '', '')
        result[f'{stage}.b{int(block[1:]) + 1}.{rest}' if block else name] = tensor
    return result


LAYOUTS = (
    Layout(
        'torchvision',
        mark=r'^trunk_output\.',
        rules=(
            (r'^stem\.0\.', 'stem.conv.'),
            (r'^stem\.1\.', 'stem.bn.'),
            (r'^trunk_output\.block(\d+)\.block\d+-(\d+)\.', r's\1.@\2.'),
            (r'\.proj\.0\.', '.downsample.conv.'),
            (r'\.proj\.1\.', '.downsample.bn.'),
            (r'\.f\.a\.', '.conv1.'),
            (r'\.f\.b\.', '.conv2.'),
            (r'\.f\.c\.', '.conv3.'),
            (r'\.f\.se\.', '.se.'),
            (r'(\.conv[123])\.0\.', r'\1.conv.'),
            (r'(\.conv[123])\.1\.', r'\1.bn.'),
            (r'^fc\.', 'head.fc.'),
        ),
        change=counted,
    ),
)
