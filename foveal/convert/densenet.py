"""DenseNet as in torchvision's published files, which are older than its own names."""

from foveal.convert.layout import Layout

LAYOUTS = (Layout('torchvision', mark=r'\.denselayer\d+\.norm\.1\.', rules=((r'\.(norm|conv)\.([12])\.', r'.\1\2.'),)),)
