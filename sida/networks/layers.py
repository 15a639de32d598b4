"""Layers of the EDM U-Nets, and attention.

Initialisation, linear, convolution with resampling, group norm, noise embeddings, and self-attention over the positions
of a feature map.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.errors import SettingError


def initial_values(shape: tuple[int, ...], mode: str, fan_in: int, fan_out: int) -> Tensor:
    """Draws initial weights from torch's global generator.

    Args:
        shape: Shape of the result.
        mode: Xavier (Glorot) variance 2/(fan_in + fan_out) or Kaiming (He, linear gain) variance 1/fan_in,
            uniform or normal: ``xavier_uniform``, ``kaiming_normal``, ...
        fan_in: Inputs of one unit, kernel area included.
        fan_out: Outputs of one input, kernel area included.
    """
    variance = 2 / (fan_in + fan_out) if mode.startswith("xavier") else 1 / fan_in
    if mode.endswith("uniform"):
        return math.sqrt(3 * variance) * (torch.rand(shape) * 2 - 1)
    return math.sqrt(variance) * torch.randn(shape)


class Linear(nn.Module):
    """Affine map whose float32 parameters follow the dtype of the input.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether there is a bias.
        init_mode: See `initial_values`.
        init_weight: Factor on the initial weights.
        init_bias: Factor on the initial biases; 0 starts them at zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        init_mode: str = "kaiming_normal",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ):
        super().__init__()
        fans = (in_features, out_features)
        self.weight = nn.Parameter(initial_values((out_features, in_features), init_mode, *fans) * init_weight)
        self.bias = nn.Parameter(initial_values((out_features,), init_mode, *fans) * init_bias) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Conv2d(nn.Module):
    """Same-size convolution, optionally after (or merged with) a factor-two resampling by a separable filter.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd kernel size, or 0 for resampling alone.
        up: Doubles the resolution before the convolution.
        down: Halves the resolution.
        resample_filter: Taps of the one-dimensional filter; (1, 1) is nearest-neighbour up and box down.
        filter_after: With ``down``: convolve at full resolution and filter afterwards; the convolution then has the
            zero padding of both (as in the residual encoder of NCSN++).
        init_mode: See `initial_values`.
        init_weight: Factor on the initial weights.
        init_bias: Factor on the initial biases.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: tuple[int, ...] = (1, 1),
        filter_after: bool = False,
        init_mode: str = "kaiming_normal",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ):
        super().__init__()
        self.kernel = kernel
        self.up = up
        self.down = down
        self.filter_after = filter_after
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if kernel:
            fans = (in_channels * kernel**2, out_channels * kernel**2)
            shape = (out_channels, in_channels, kernel, kernel)
            self.weight = nn.Parameter(initial_values(shape, init_mode, *fans) * init_weight)
            self.bias = nn.Parameter(initial_values((out_channels,), init_mode, *fans) * init_bias)
        taps = torch.as_tensor(resample_filter, dtype=torch.float32)
        square = torch.outer(taps, taps)[None, None] / taps.sum().square()
        self.register_buffer("resample_filter", square if up or down else None)
        self.box = _is_box(self.resample_filter)

    def forward(self, x: Tensor, weight_scale: float = 1.0) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H', W').

        Args:
            x: Feature maps.
            weight_scale: Factor on the result, applied to weight and bias because they are smaller than the maps.
        """
        if self.weight is None or self.bias is None:
            return self.resample(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if weight_scale != 1:
            weight, bias = weight * weight_scale, bias * weight_scale
        pad = self.kernel // 2
        if self.down and self.filter_after:
            x = F.conv2d(x, weight, padding=pad + self._filter_pad())
            return self._filter_down(x, padding=0) + bias[:, None, None]
        if self.up and self.kernel == 1:
            # A pointwise map commutes with the filter, and is four times cheaper before it.
            if self.box:
                return self.resample(F.conv2d(x, weight, bias))
            return self.resample(F.conv2d(x, weight)) + bias[:, None, None]
        return F.conv2d(self.resample(x), weight, bias, padding=pad)

    def resample(self, x: Tensor) -> Tensor:
        """Applies the filter alone: doubles, halves or returns (N, C, H, W)."""
        if self.up:
            return self._filter_up(x)
        return self._filter_down(x, self._filter_pad()) if self.down else x

    def _filter_pad(self) -> int:
        assert self.resample_filter is not None
        return (self.resample_filter.shape[-1] - 1) // 2

    def _filter_up(self, x: Tensor) -> Tensor:
        if self.box:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        assert self.resample_filter is not None
        kernel = self.resample_filter.to(x.dtype).mul(4).expand(x.shape[1], -1, -1, -1)
        return F.conv_transpose2d(x, kernel, groups=x.shape[1], stride=2, padding=self._filter_pad())

    def _filter_down(self, x: Tensor, padding: int) -> Tensor:
        if self.box:
            return F.avg_pool2d(x, 2)
        assert self.resample_filter is not None
        kernel = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, groups=x.shape[1], stride=2, padding=padding)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # The filter is a buffer, so a checkpoint may change it: check again whether it is a box filter.
        super()._load_from_state_dict(*args, **kwargs)
        self.box = _is_box(self.resample_filter)


def _is_box(kernel: Tensor | None) -> bool:
    """Whether a filter is the 2×2 mean, for which pooling and repetition are exact and faster."""
    if kernel is None or kernel.shape[-1] != 2:
        return False
    # On the meta device values are unknown until load_state_dict, which checks again.
    return not kernel.is_meta and bool((kernel == 0.25).all())


class GroupNorm(nn.Module):
    """Group normalisation with at most 32 groups of at least four channels.

    Args:
        num_channels: Channels of the maps.
        eps: Constant added to the variance.

    Raises:
        SettingError: The channels do not divide into these groups.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5):
        super().__init__()
        self.num_groups = max(1, min(32, num_channels // 4))
        if num_channels % self.num_groups:
            fault = f"{num_channels} feature channels cannot form {self.num_groups} equal groups"
            raise SettingError("model_channels, channel_mult", fault, "use multiples of 4, above 128 channels of 32")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W)."""
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    def activated(self, x: Tensor) -> Tensor:
        """SiLU of the normalised (N, C, H, W)."""
        return F.silu(self(x))


class PositionalEmbedding(nn.Module):
    """Cosines and sines of geometrically spaced frequencies from 1 to 1/10000 (DDPM++ and ADM).

    Args:
        num_channels: Width of the embedding (even).
        endpoint: Whether 1/10000 itself is the last frequency.
    """

    freqs: Tensor

    def __init__(self, num_channels: int, endpoint: bool = False):
        super().__init__()
        half = num_channels // 2
        exponent = torch.arange(half, dtype=torch.float32) / max(half - int(endpoint), 1)
        # A constant outside the state dict, as in the official files.
        self.register_buffer("freqs", (1 / 10000) ** exponent, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds (N,) as (N, num_channels): cosines, then sines."""
        angle = torch.outer(x, self.freqs.to(x.dtype))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Random Fourier features (NCSN++); the frequencies are drawn once and stored.

    Args:
        num_channels: Width of the embedding (even).
        scale: Standard deviation of the frequencies.
    """

    freqs: Tensor

    def __init__(self, num_channels: int, scale: float = 16.0):
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds (N,) as (N, num_channels): cosines, then sines."""
        angle = torch.outer(x, (2 * math.pi * self.freqs).to(x.dtype))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


# Up to this many positions two plain matrix products are faster on a CPU than the fused kernel.
_FUSED_FROM = 256


def attention_heads(channels: int, channels_per_head: int) -> int:
    """Number of attention heads of a level; 0 for a level that is narrower than a head.

    Raises:
        SettingError: The heads do not divide the channels.
    """
    heads = channels // channels_per_head
    if heads and channels % heads:
        fault = f"{channels} feature channels cannot form {heads} equal attention heads"
        raise SettingError("model_channels, channel_mult", fault, f"use multiples of {channels_per_head}")
    return heads


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
