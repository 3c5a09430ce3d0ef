"""The layers that models are built from, one concept a file."""

from foveal.layers.act import ACTIVATIONS as ACTIVATIONS
from foveal.layers.act import activation as activation
from foveal.layers.blocks import Blocks as Blocks
from foveal.layers.conv import Conv2dSame as Conv2dSame
from foveal.layers.conv import conv2d as conv2d
from foveal.layers.conv import pad_same as pad_same
from foveal.layers.drop import DropBlock2d as DropBlock2d
from foveal.layers.drop import DropPath as DropPath
from foveal.layers.drop import PatchDropout as PatchDropout
from foveal.layers.drop import drop_path_rates as drop_path_rates
from foveal.layers.head import PoolHead as PoolHead
from foveal.layers.head import classifier as classifier
from foveal.layers.head import classify as classify
from foveal.layers.init import init_conv as init_conv
from foveal.layers.init import init_transformer as init_transformer
from foveal.layers.layout import relayout as relayout
from foveal.layers.mlp import GlobalResponseNorm as GlobalResponseNorm
from foveal.layers.mlp import Mlp as Mlp
from foveal.layers.norm import LayerNorm2d as LayerNorm2d
from foveal.layers.norm import RmsNorm as RmsNorm
from foveal.layers.norm import SimpleNorm as SimpleNorm
from foveal.layers.norm import normalization as normalization
from foveal.layers.pool import Pool as Pool
from foveal.layers.scale import LayerScale as LayerScale
from foveal.layers.scale import LayerScale2d as LayerScale2d
