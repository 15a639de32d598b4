"""SiLU of a map times a factor per sample and channel, with dropout: ``dropout(silu(x scale))``."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.elements import channel_rows, dropped, like_map, row_of, silu, silu_slope, tile_size


def scaled_silu(
    x: Tensor, scale: Tensor | None = None, dropout: float = 0.0, *, recompute: bool = False
) -> tuple[Tensor, Tensor]:
    """``dropout(silu(x · scale))`` of a map ``(N, C, H, W)``, in channels-last memory, and x.

    Compute everything else that depends on x from the second result: both gradients are then summed in one pass.

    Args:
        x: float16, bfloat16 or float32.
        scale: Float32 ``(N or 1, C)``, or None.
        dropout: Probability p of zeroing an element; the others are divided by 1 − p.
        recompute: Whether :func:`sida.kernels.fused.recomputed` is used with the result.
    """
    result: tuple[Tensor, Tensor] = _ScaledSilu.apply(x, scale, dropout, recompute)
    return result


class _ScaledSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, dropout: float, recompute: bool) -> tuple[Tensor, Tensor]:
        x = channel_rows(x)
        scale = None if scale is None else scale.float().contiguous()
        seed = torch.randint(2**31, (1,), device=x.device) if dropout else None
        y = _activated(x, scale, seed, dropout)
        ctx.save_for_backward(x, y if dropout and not recompute else None, seed if recompute else None, scale)
        ctx.dropout = dropout
        ctx.remake = _ScaledSilu.remake
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    def remake(ctx: Any) -> Tensor:
        """Recomputes the result from the tensors saved for the backward pass."""
        x, _, seed, scale = ctx.saved_tensors
        return _activated(x, scale, seed, ctx.dropout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        of_y, beside = grads
        if of_y is None:
            return beside, None, None, None
        x, y, seed, scale = ctx.saved_tensors
        if seed is not None:
            y = _ScaledSilu.remake(ctx)
        grad, grad_stride = like_map(of_y)
        n, c, height, width = x.shape
        positions = height * width
        block, width_c, warps, tiles = tile_size(c)
        chunks = triton.cdiv(positions, block)
        summed = ctx.needs_input_grad[1]
        partial = x.new_empty((n, chunks, c) if summed else (0,), dtype=torch.float32)
        dx = torch.empty_like(x)
        factor, stride = _with_stride(scale, x)
        other, other_stride = (x, c) if beside is None else like_map(beside)
        _backward[(n, chunks, tiles)](
            x, grad, x if y is None else y, factor, other, dx, partial, positions, c, grad_stride, stride, other_stride,
            ctx.dropout, scale is not None, y is not None, beside is not None, summed, block, width_c, num_warps=warps,
        )  # fmt: skip
        if not summed:
            return dx, None, None, None
        return dx, partial.sum((0, 1))[None] if scale.shape[0] == 1 else partial.sum(1), None, None


def _activated(x: Tensor, scale: Tensor | None, seed: Tensor | None, dropout: float) -> Tensor:
    n, c, height, width = x.shape
    positions = height * width
    block, width_c, warps, tiles = tile_size(c)
    y = torch.empty_like(x)
    factor, stride = _with_stride(scale, x)
    _forward[(n, triton.cdiv(positions, block), tiles)](
        x, y, factor, x if seed is None else seed, positions, c, stride, dropout, scale is not None, seed is not None,
        block, width_c, num_warps=warps,
    )  # fmt: skip
    return y


def _with_stride(scale: Tensor | None, filler: Tensor) -> tuple[Tensor, int]:
    return (filler, 0) if scale is None else (scale, 0 if scale.shape[0] == 1 else scale.shape[1])


@triton.jit
def _forward(
    x, y, scale, seed, positions, C, stride, dropout,
    SCALE: tl.constexpr, DROP: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    inside = (row < positions) & (col < C)
    base, offset = n.to(tl.int64) * positions * C, row * C + col
    u = tl.load(x + base + offset, mask=inside, other=0.0).to(tl.float32)
    if SCALE:
        u *= row_of(scale + n * stride, channels, C)
    u = silu(u)
    if DROP:
        u = dropped(u, seed, n * positions + row, tl.program_id(2) * WIDTH, C, dropout, BLOCK, WIDTH)
    tl.store(y + base + offset, u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    x, grad, y, scale, beside, dx, partial, positions, C, grad_stride, stride, beside_stride, dropout,
    SCALE: tl.constexpr, DROP: tl.constexpr, BESIDE: tl.constexpr, SUM: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    inside = (row < positions) & (col < C)
    base = n.to(tl.int64) * positions
    value = tl.load(x + base * C + row * C + col, mask=inside, other=0.0).to(tl.float32)
    du = tl.load(grad + base * grad_stride + row * grad_stride + col, mask=inside, other=0.0).to(tl.float32)
    factor = tl.zeros_like(col).to(tl.float32) + 1.0
    if SCALE:
        factor = row_of(scale + n * stride, channels, C)
    du = du * silu_slope(value * factor)
    if DROP:
        # An element with y = 0 was dropped, or its derivative is nearly 0.
        kept = tl.load(y + base * C + row * C + col, mask=inside, other=0.0) != 0
        du = tl.where(kept, du / (1 - dropout), 0.0)
    result = du * factor
    if BESIDE:
        other = tl.load(beside + base * beside_stride + row * beside_stride + col, mask=inside, other=0.0)
        result += other.to(tl.float32)
    tl.store(dx + base * C + row * C + col, result.to(dx.dtype.element_ty), mask=inside)
    if SUM:
        place = (n * tl.num_programs(1) + chunk) * C + channels
        tl.store(partial + place, tl.sum(du * value, 0), mask=channels < C)
