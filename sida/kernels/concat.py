"""Concatenation of the channels of two maps, each times a factor, in one pass forward and one backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.elements import empty_map, like_map, tile_size


def concat(a: Tensor, b: Tensor, a_factor: float = 1.0, b_factor: float = 1.0) -> Tensor:
    """``cat([a_factor a, b_factor b])`` of maps ``(N, A, H, W)`` and ``(N, B, H, W)``, in channels-last memory."""
    result: Tensor = _Concat.apply(a, b, a_factor, b_factor)
    return result


class _Concat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, a_factor: float, b_factor: float) -> Tensor:
        (a, a_stride), (b, b_stride) = like_map(a), like_map(b)
        n, a_width, height, width = a.shape
        ctx.widths, ctx.factors = (a_width, b.shape[1]), (a_factor, b_factor)
        wide = sum(ctx.widths)
        y = empty_map(a, n, wide, height, width)
        total = n * height * width
        _copy(a, y, total, a_width, a_stride, wide, a_factor)
        _copy(b, y[:, a_width:], total, ctx.widths[1], b_stride, wide, b_factor)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad, stride = like_map(grads[0])
        n, _, height, width = grad.shape
        parts, start = [], 0
        for size, factor in zip(ctx.widths, ctx.factors):
            part = grad[:, start : start + size]
            if factor != 1:
                scaled = empty_map(grad, n, size, height, width)
                _copy(part, scaled, n * height * width, size, stride, size, factor)
                part = scaled
            parts.append(part)
            start += size
        return (*parts, None, None)


def _copy(
    source: Tensor, target: Tensor, total: int, c: int, source_stride: int, target_stride: int, factor: float
) -> None:
    block, width, warps, tiles = tile_size(c)
    _copy_kernel[(triton.cdiv(total, block), tiles)](
        source, target, total, c, source_stride, target_stride, factor, block, width, num_warps=warps
    )


@triton.jit
def _copy_kernel(
    source, target, total, C, source_stride, target_stride, factor, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = (row < total) & (col < C)
    value = tl.load(source + row * source_stride + col, mask=inside, other=0.0).to(tl.float32) * factor
    tl.store(target + row * target_stride + col, value.to(target.dtype.element_ty), mask=inside)
