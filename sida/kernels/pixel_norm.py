"""EDM2's pixel normalisation: rows of channels scaled to root mean square one, and their SiLU beside them.

Source: EDM2 (arXiv:2312.02696), equation 30 and section B.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.elements import silu, silu_slope
from sida.kernels.maps import rows

_TILE, _WARPS = 4096, 4


def pixel_norm(x: Tensor, eps: float) -> Tensor:
    """``x / (rms + eps)`` of each row: ``(R, C)``, contiguous, any float dtype."""
    result: Tensor = _PixelNorm.apply(x, eps, False)
    return result


def pixel_norm_silu(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``y = x / (rms + eps)`` over the channels of a map ``(N, C, H, W)``, and ``silu(y)``; channels-last."""
    x = rows(x)
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    y, s = _PixelNorm.apply(flat, eps, True)
    n, c, height, width = x.shape
    back = lambda t: t.view(n, height, width, c).permute(0, 3, 1, 2)
    return back(y), back(s)


class _PixelNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, silu: bool) -> Any:
        x = x.contiguous()
        total, c = x.shape
        y, divisor = torch.empty_like(x), x.new_empty((total,), dtype=torch.float32)
        s = torch.empty_like(x) if silu else y
        block, width = _tile(c)
        _forward[(triton.cdiv(total, block),)](x, y, s, divisor, total, c, eps, silu, block, width, num_warps=_WARPS)
        ctx.save_for_backward(y, divisor)
        ctx.settings = eps, silu
        ctx.set_materialize_grads(False)
        return (y, s) if silu else y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        y, divisor = ctx.saved_tensors
        eps, silu = ctx.settings
        total, c = y.shape
        of_y = None if grads[0] is None else grads[0].contiguous()
        of_s = None if not silu or grads[1] is None else grads[1].contiguous()
        if of_y is None and of_s is None:
            return None, None, None
        dx = torch.empty_like(y)
        block, width = _tile(c)
        _backward[(triton.cdiv(total, block),)](
            y,
            divisor,
            y if of_y is None else of_y,
            y if of_s is None else of_s,
            dx,
            total,
            c,
            eps,
            of_y is not None,
            of_s is not None,
            block,
            width,
            num_warps=_WARPS,
        )
        return dx, None, None


def _tile(c: int) -> tuple[int, int]:
    width = int(triton.next_power_of_2(c))
    return max(1, _TILE // width), width


@triton.jit
def _forward(x, y, s, divisor, total, C, eps, SILU: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    col = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < total) & (col < C)
    place = row[:, None] * C + col
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    by = tl.sqrt(tl.sum(value * value, 1) / C) + eps
    value = value / by[:, None]
    tl.store(divisor + row, by, mask=row < total)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)
    if SILU:
        tl.store(s + place, silu(value).to(s.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    y,
    divisor,
    of_y,
    of_s,
    dx,
    total,
    C,
    eps,
    Y: tl.constexpr,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    col = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < total) & (col < C)
    place = row[:, None] * C + col
    value = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
    by = tl.load(divisor + row, mask=row < total, other=1.0)
    grad = tl.zeros_like(value)
    if Y:
        grad += tl.load(of_y + place, mask=inside, other=0.0).to(tl.float32)
    if S:
        grad += tl.load(of_s + place, mask=inside, other=0.0).to(tl.float32) * silu_slope(value)
    # d rms / dx = x / (C rms); a row of zeros has no direction.
    rms = by - eps
    along = tl.sum(grad * value, 1) / (C * tl.where(rms > 0, rms, 1.0))
    result = grad / by[:, None] - value * along[:, None]
    tl.store(dx + place, result.to(dx.dtype.element_ty), mask=inside)
