"""Images cut into patches, each mapped to one token."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal.layers.conv import Size, pair
from foveal.layers.layout import LAYOUTS, relayout
from foveal.layers.norm import normalization


class PatchEmbed(nn.Module):
    """A linear map of non-overlapping patches, as a convolution (arXiv:2010.11929, section 3.1).

    Args:
        img_size: side of the images, or (height, width); None leaves it open.
        patch_size: side of a patch, or (height, width).
        in_chans: channels of the images.
        embed_dim: channels of a token.
        norm_layer: name or class of a norm over the tokens' channels; none if not given.
        flatten: tokens (batch, length, embed_dim) come out; otherwise a map (batch, embed_dim, height, width).
        output_fmt: 'NCHW', 'NHWC' or 'NLC', in place of `flatten`.
        bias: learn a bias.
        strict_img_size: images of another size than `img_size` are an error.
        dynamic_img_pad: pad images below and to the right to whole patches; otherwise other sizes are an error.

    Attributes:
        img_size, grid_size: (height, width) in pixels and in patches; None where the size is open.
        num_patches: of an image; None where the size is open.

    Raises:
        ValueError: an unknown `output_fmt`; in `forward`, images whose size does not fit.
    """

    def __init__(
        self,
        img_size: Size | None = 224,
        patch_size: Size = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: str | Callable[..., nn.Module] | None = None,
        flatten: bool = True,
        output_fmt: str | None = None,
        bias: bool = True,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
    ) -> None:
        super().__init__()
        self.output_fmt = output_fmt or ('NLC' if flatten else 'NCHW')
        if self.output_fmt not in LAYOUTS:
            raise ValueError(f'output_fmt {output_fmt!r} is unknown; legal are {", ".join(LAYOUTS)}')
        self.patch_size = pair(patch_size)
        self.strict_img_size, self.dynamic_img_pad = strict_img_size, dynamic_img_pad
        self.fit(img_size)
        self.proj = nn.Conv2d(in_chans, embed_dim, self.patch_size, self.patch_size, bias=bias)
        self.norm = normalization(norm_layer, embed_dim, self.output_fmt) if norm_layer else nn.Identity()

    def fit(self, img_size: Size | None) -> None:
        """Set the size of the images and what follows from it."""
        self.img_size = None if img_size is None else pair(img_size)
        self.grid_size = None if self.img_size is None else self.dynamic_feat_size(self.img_size)
        self.num_patches = None if self.grid_size is None else self.grid_size[0] * self.grid_size[1]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in patches of images of `img_size`."""
        (height, width), (high, wide) = img_size, self.patch_size
        if self.dynamic_img_pad:
            return -(-height // high), -(-width // wide)
        return height // high, width // wide

    def set_input_size(self, img_size: Size | None = None, patch_size: Size | None = None) -> None:
        """Prepare for images, or patches, of another size; the weights of the patches are resampled."""
        if patch_size is not None and pair(patch_size) != self.patch_size:
            self.patch_size = self.proj.kernel_size = self.proj.stride = pair(patch_size)
            weight = resample_patch_embed(self.proj.weight.detach(), self.patch_size)
            self.proj.weight = nn.Parameter(weight, requires_grad=self.proj.weight.requires_grad)
        self.fit(self.img_size if img_size is None else img_size)

    def adapt(self, name: str, weight: Tensor) -> Tensor:
        """A checkpoint's weight for the present size of patches."""
        return resample_patch_embed(weight, self.patch_size) if name == 'proj.weight' else weight

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (high, wide) = x.shape[-2:], self.patch_size
        if self.strict_img_size and self.img_size is not None and (height, width) != self.img_size:
            expected = '{}x{}'.format(*self.img_size)
            raise ValueError(f'the model takes images of {expected}, got {height}x{width}: see set_input_size')
        if self.dynamic_img_pad:
            x = F.pad(x, (0, -width % wide, 0, -height % high))
        elif not self.strict_img_size and (height % high or width % wide):
            raise ValueError(f'images of {height}x{width} do not divide into patches of {high}x{wide}')
        return self.norm(relayout(self.proj(x), 'NCHW', self.output_fmt))


def resample_patch_embed(
    weight: Tensor, size: tuple[int, int], interpolation: str = 'bicubic', antialias: bool = True
) -> Tensor:
    """Weights for patches of another size, so that a resized patch gives about the same token.

    Resizing a patch is a matrix B; the pseudo-inverse of its transpose, applied to the weights, keeps the inner product
    of patch and weights as well as can be (FlexiViT, arXiv:2212.08013, section 3.4).

    Args:
        weight: of the convolution, (embed_dim, channels, height, width).
        size: (height, width) of the new patches.
        interpolation: how patches are resized: 'bicubic' or 'bilinear'.
        antialias: smooth where patches are made smaller.
    """
    old = weight.shape[-2], weight.shape[-1]
    if old == tuple(size):
        return weight
    basis = torch.eye(old[0] * old[1], device=weight.device).view(-1, 1, *old)
    resized = F.interpolate(basis, size, mode=interpolation, antialias=antialias, align_corners=False).flatten(1)
    new = weight.flatten(2).float() @ torch.linalg.pinv(resized).T
    return new.unflatten(2, size).to(weight.dtype)
