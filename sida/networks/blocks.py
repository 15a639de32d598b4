"""The residual block of the EDM U-Nets, with optional resampling and self-attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.networks.attention import attend, split_heads
from sida.networks.layers import Conv2d, GroupNorm, Linear


class UNetBlock(nn.Module):
    """Norm, SiLU, convolution (twice) around a skip connection, conditioned on an embedding; then attention.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        emb_channels: Width of the embedding.
        up: Doubles the resolution.
        down: Halves the resolution.
        num_heads: Attention heads; 0 = no attention.
        dropout: Probability of zeroing an activation before the second convolution, in training mode.
        skip_scale: Factor after each residual sum.
        eps: Constant of the group norms.
        resample_filter: Taps, see `Conv2d`.
        resample_proj: Whether a resampling skip connection also has a 1×1 convolution.
        adaptive_scale: The embedding gives scale and shift after the second norm (ADM), not a shift before it.
        init: Initialisation keywords of ordinary layers.
        init_zero: Initialisation keywords of the last layer of each residual branch.
        init_attn: Initialisation keywords of the query-key-value layer (None = ``init``).

    Attributes:
        override: Function that replaces :meth:`forward`, or None; its last argument is from `UNet.prepare`.
    """

    override: Callable[[UNetBlock, Tensor, Any], Tensor] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        num_heads: int = 0,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: tuple[int, ...] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
        init: dict[str, Any],
        init_zero: dict[str, Any],
        init_attn: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_heads = num_heads
        self.dropout = dropout
        self.skip_scale = skip_scale
        self.adaptive_scale = adaptive_scale
        resampling: dict[str, Any] = {"up": up, "down": down, "resample_filter": resample_filter}

        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, **resampling, **init)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), **init)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, **init_zero)
        self.skip: Conv2d | None = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, **resampling, **init)
        if num_heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, **(init if init_attn is None else init_attn))
            self.proj = Conv2d(out_channels, out_channels, 1, **init_zero)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H', W').

        Args:
            x: Feature maps.
            emb: Embedding, (N, emb_channels) or (1, emb_channels).
        """
        if self.override is not None:
            return self.override(self, x, emb)
        h = self.conv0(F.silu(self.norm0(x)))
        shift = self.affine(emb)[:, :, None, None].to(h.dtype)
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + shift)
        h = F.silu(h)
        if self.training and self.dropout:
            h = F.dropout(h, self.dropout)
        x = self._add(self.conv1(h, self.skip_scale), x if self.skip is None else self.skip(x))
        if self.num_heads:
            h = attend(split_heads(self.qkv(self.norm2(x)), self.num_heads))
            x = self._add(self.proj(h.view(x.shape), self.skip_scale), x)
        return x

    def _add(self, scaled: Tensor, x: Tensor) -> Tensor:
        """Residual sum; the branch is already multiplied by ``skip_scale``."""
        return torch.add(scaled, x, alpha=self.skip_scale)
