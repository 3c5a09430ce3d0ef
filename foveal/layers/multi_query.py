"""Attention over the positions of a map whose heads share their keys and values."""

from collections import OrderedDict

from torch import Tensor, nn

from foveal.layers.batch_norm import BatchNorm2d
from foveal.layers.conv import conv2d
from foveal.layers.dot_product import dot_product_attention


class MultiQueryAttention2d(nn.Module):
    """Multi-query attention (arXiv:1911.02150) over a map, with keys and values from fewer positions
    (Mobile MQA, arXiv:2404.10518, section 5).

    Args:
        dim: channels of the map (batch, channels, height, width).
        num_heads: heads of the queries.
        key_dim: channels of a head.
        kv_stride: step between the positions that keys and values are taken from.
        dw_kernel_size: kernel of the depthwise convolution that takes them, where they are fewer.
        padding: as in `conv2d`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        key_dim: int = 64,
        kv_stride: int = 1,
        dw_kernel_size: int = 3,
        padding: str = '',
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Sequential(OrderedDict(proj=nn.Conv2d(dim, num_heads * key_dim, 1, bias=False)))

        def project() -> nn.Sequential:
            layers = OrderedDict[str, nn.Module]()
            if kv_stride > 1:
                layers['down_conv'] = conv2d(dim, dim, dw_kernel_size, kv_stride, 1, dim, False, padding)
                layers['norm'] = BatchNorm2d(dim)
            layers['proj'] = nn.Conv2d(dim, key_dim, 1, bias=False)
            return nn.Sequential(layers)

        self.key, self.value = project(), project()
        self.output = nn.Sequential(OrderedDict(proj=nn.Conv2d(num_heads * key_dim, dim, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        q = query.unflatten(1, (self.num_heads, -1)).flatten(3).transpose(2, 3)
        k = self.key(x).flatten(2).transpose(1, 2).unsqueeze(1).expand(-1, self.num_heads, -1, -1)
        v = self.value(x).flatten(2).transpose(1, 2).unsqueeze(1).expand(-1, self.num_heads, -1, -1)
        y = dot_product_attention(q, k, v)
        return self.output(y.transpose(2, 3).reshape(query.shape))
