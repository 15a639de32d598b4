"""Self-attention over the positions of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Up to this many positions two plain matrix products are faster on a CPU than the fused kernel.
_FUSED_FROM = 256


def split_heads(qkv: Tensor, num_heads: int) -> Tensor:
    """Views the output of a query-key-value layer by head.

    Args:
        qkv: (N, 3C, H, W); within a head query, key and value channels alternate: q0, k0, v0, q1, ...
        num_heads: Divides C.

    Returns:
        (N, num_heads, C/num_heads, 3, H·W).
    """
    n, width, height, length = qkv.shape
    return qkv.reshape(n, num_heads, width // 3 // num_heads, 3, height * length)


def attend(heads: Tensor) -> Tensor:
    """Scaled dot-product attention; scores are divided by sqrt(channels per head), their softmax is in float32.

    Args:
        heads: (N, heads, channels, 3, L) as from `split_heads`.

    Returns:
        (N, heads·channels, L) in the same dtype.
    """
    n, num_heads, channels, _, length = heads.shape
    if heads.is_cuda or length > _FUSED_FROM:
        # The fused kernels need contiguous channels in the last dimension; one copy arranges q, k and v.
        q, k, v = heads.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, num_heads * channels, length)
    q, k, v = heads.reshape(n * num_heads, channels, 3, length).unbind(2)
    score = torch.bmm(q.float().transpose(1, 2), k.float() * channels**-0.5)
    weight = score.softmax(dim=2).to(v.dtype)
    return torch.bmm(v, weight.transpose(1, 2)).reshape(n, num_heads * channels, length)
