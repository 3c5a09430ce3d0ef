"""VGG as in torchvision: the first two fully connected layers are linear, here convolutions."""

from foveal.convert.layout import Layout

LAYOUTS = (
    Layout(
        'torchvision',
        mark=r'^classifier\.6\.',
        rules=(
            (r'^classifier\.0\.', 'pre_logits.fc1.'),
            (r'^classifier\.3\.', 'pre_logits.fc2.'),
            (r'^classifier\.6\.', 'head.fc.'),
        ),
    ),
)
