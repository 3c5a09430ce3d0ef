"""RegNet as in torchvision, and as VISSL trained SEER (arXiv:2103.01988) on ClassyVision's."""

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
    Layout(
        'vissl',
        mark=r'^trunk\._feature_blocks\.',
        rules=(
            (r'^trunk\._feature_blocks\.conv1\.stem\.', 'stem.'),
            (r'^stem\.0\.', 'stem.conv.'),
            (r'^stem\.1\.', 'stem.bn.'),
            # sharded training groups blocks as parts of a stage
            (r'^trunk\._feature_blocks\.res\d+\.(?:block\d+-part\d+\.)?block(\d+)-(\d+)\.', r's\1.@\2.'),
            (r'\.proj\.', '.downsample.conv.'),
            (r'^(s\d+\.@\d+)\.bn\.', r'\1.downsample.bn.'),
            (r'\.f\.c\.', '.conv3.conv.'),
            (r'\.f\.final_bn\.', '.conv3.bn.'),
            (r'\.f\.se\.excitation\.0\.', '.se.fc1.'),
            (r'\.f\.se\.excitation\.2\.', '.se.fc2.'),
            (r'\.f\.a\.0\.', '.conv1.conv.'),
            (r'\.f\.a\.1\.', '.conv1.bn.'),
            (r'\.f\.b\.0\.', '.conv2.conv.'),
            (r'\.f\.b\.1\.', '.conv2.bn.'),
            (r'^heads\.0\.clf\.0\.', 'head.fc.'),
        ),
        drop=r'^heads\.(?!0\.clf\.0\.)',
        change=counted,
    ),
)
