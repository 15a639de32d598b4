"""Upsampling by repetition and downsampling by 2×2 means, each the other's adjoint up to a factor."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.elements import empty_map, like_map, tile_size

_TILE = 2048


def double(x: Tensor) -> Tensor:
    """Repeats each position of ``(N, C, H, W)`` four times: ``(N, C, 2H, 2W)``, channels-last."""
    result: Tensor = _Double.apply(x)
    return result


def halve(x: Tensor) -> Tensor:
    """Means of 2×2 positions: ``(N, C, H/2, W/2)``, channels-last; H and W are even."""
    result: Tensor = _Halve.apply(x)
    return result


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _spread(x, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _gather(grads[0], 1.0)


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _gather(x, 0.25)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _spread(grads[0], 0.25)


def _spread(x: Tensor, factor: float) -> Tensor:
    x, stride = like_map(x)
    n, c, height, width = x.shape
    y = empty_map(x, n, c, 2 * height, 2 * width)
    _run(_spread_kernel, x, y, n * height * width, width, c, stride, factor)
    return y


def _gather(x: Tensor, factor: float) -> Tensor:
    x, stride = like_map(x)
    n, c, height, width = x.shape
    y = empty_map(x, n, c, height // 2, width // 2)
    _run(_gather_kernel, x, y, n * height * width // 4, width // 2, c, stride, factor)
    return y


def _run(kernel: Any, x: Tensor, y: Tensor, total: int, width: int, c: int, stride: int, factor: float) -> None:
    _, width_c, _, tiles = tile_size(c)
    block = max(1, _TILE // width_c)
    kernel[(triton.cdiv(total, block), tiles)](x, y, total, width, c, stride, factor, block, width_c, num_warps=4)


@triton.jit
def _spread_kernel(x, y, total, W, C, stride, factor, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = (position < total) & (col < C)
    value = tl.load(x + position * stride + col, mask=inside, other=0.0).to(tl.float32) * factor
    # Rows are numbered through the whole batch, so the sample's index is not needed.
    corner = (position // W) * 4 * W + (position % W) * 2
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            place = (corner + down * 2 * W + right) * C + col
            tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gather_kernel(x, y, total, W, C, stride, factor, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = (position < total) & (col < C)
    corner = (position // W) * 4 * W + (position % W) * 2
    value = tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            place = (corner + down * 2 * W + right) * stride + col
            value += tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + position * C + col, (value * factor).to(y.dtype.element_ty), mask=inside)
