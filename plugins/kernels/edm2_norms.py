"""EDM2's normalisations: of pixels, optionally with SiLU, and of weights, times a gain, in the map's dtype.

The channels of each position are scaled to a root mean square of one, the weights of each output to unit length.

Source: EDM2 (arXiv:2312.02696), equations 30, 47 and 66, and section B.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.plugins.kernels.pointwise import read, silu, silu_slope


def pixel_norm(x: Tensor, eps: float) -> Tensor:
    """``x / (rms + eps)`` of each row: ``(R, C)``, any float dtype."""
    assert x.ndim == 2
    y, _ = _PixelNorm.apply(x, eps, False)
    return y


def pixel_norm_silu(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``y = x / (rms + eps)`` over the channels of a map ``(N, C, H, W)``, and ``silu(y)``; channels-last."""
    n, c, height, width = x.shape
    results = _PixelNorm.apply(x.permute(0, 2, 3, 1).reshape(-1, c), eps, True)
    y, s = (rows.view(n, height, width, c).permute(0, 3, 1, 2) for rows in results)
    return y, s


class _PixelNorm(torch.autograd.Function):
    """y of rows and, if wanted, its SiLU.

    The backward pass needs x or y. With SiLU x is kept; without it y, which attention keeps anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, silu: bool) -> tuple[Tensor, Tensor | None]:
        x = x.contiguous()
        y, s = torch.empty_like(x), torch.empty_like(x) if silu else None
        divisor = x.new_empty(len(x), dtype=torch.float32)
        grid, sizes = _tiles(*x.shape)
        _pixels_forward[grid](x, y, s, divisor, *x.shape, eps, **sizes)
        ctx.save_for_backward(x if silu else y, divisor)
        ctx.settings = eps, not silu
        ctx.set_materialize_grads(False)
        return y, s

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if all(grad is None for grad in grads):
            return None, None, None
        saved, divisor = ctx.saved_tensors
        dx = torch.empty_like(saved)
        grid, sizes = _tiles(*saved.shape)
        contiguous = (None if grad is None else grad.contiguous() for grad in grads)
        _pixels_backward[grid](saved, divisor, *contiguous, dx, *saved.shape, *ctx.settings, **sizes)
        return dx, None, None


def _tiles(total: int, c: int) -> tuple[tuple[int], dict[str, int]]:
    """Number and size of tiles of whole rows, see :func:`sida.plugins.kernels.pointwise.tiles`."""
    width = int(triton.next_power_of_2(c))
    block = max(1, 4096 // width)
    return (triton.cdiv(total, block),), {"BLOCK": block, "WIDTH": width, "num_warps": 4}


@triton.jit
def _rows(total, C, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of a program, indices of their elements, and whether these exist."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    col = tl.arange(0, WIDTH)[None, :]
    return row, row[:, None] * C + col, (row[:, None] < total) & (col < C)


@triton.jit
def _pixels_forward(x, y, s, divisor, total, C, eps, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    row, index, inside = _rows(total, C, BLOCK, WIDTH)
    value = read(x + index, inside)
    denominator = tl.sqrt(tl.sum(value * value, 1) / C) + eps
    value = value / denominator[:, None]
    tl.store(divisor + row, denominator, mask=row < total)
    if y is not None:
        tl.store(y + index, value, mask=inside)
    if s is not None:
        tl.store(s + index, silu(value), mask=inside)


@triton.jit
def _pixels_backward(
    saved, divisor, y_grad, s_grad, dx, total, C, eps,
    NORMALISED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, index, inside = _rows(total, C, BLOCK, WIDTH)
    value = read(saved + index, inside)
    denominator = tl.load(divisor + row, mask=row < total, other=1.0)
    if not NORMALISED:
        value = value / denominator[:, None]
    grad = tl.zeros_like(value)
    if y_grad is not None:
        grad += read(y_grad + index, inside)
    if s_grad is not None:
        grad += read(s_grad + index, inside) * silu_slope(value)
    # d rms / dx = x / (C rms), taken as 0 for a row of zeros.
    rms = denominator - eps
    along = tl.sum(grad * value, 1) / (C * tl.where(rms > 0, rms, 1.0))
    tl.store(dx + index, grad / denominator[:, None] - value * along[:, None], mask=inside)


_BLOCK = 1024


def unit_rows(weight: Tensor, gain: Tensor | float, eps: float, dtype: torch.dtype) -> Tensor:
    """``gain · weight / (norm + eps √K)`` with the norm of each output's K weights.

    Args:
        weight: Float32 ``(out, ...)``, dense in memory with the outputs outermost.
        gain: Number, or tensor ``()``.
        eps: Constant of the formula above.
        dtype: Type of the result, which has the memory layout of ``weight``.
    """
    return _UnitRows.apply(weight, *((gain, 1.0) if isinstance(gain, Tensor) else (None, gain)), eps, dtype)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor | None, factor: float, eps: float, dtype: torch.dtype) -> Tensor:
        weight = weight.detach()
        out, size = weight.shape[0], weight[0].numel()
        y = torch.empty_like(weight, dtype=dtype)
        lengths = weight.new_empty((out,))
        ctx.settings = factor, eps * math.sqrt(size), size
        _rows_forward[(out,)](weight, y, lengths, gain, *ctx.settings, _BLOCK)
        ctx.save_for_backward(weight, gain, lengths)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        weight, gain, lengths = ctx.saved_tensors
        grad = grads[0]
        # The kernel walks through both by one index.
        if grad.stride() != weight.stride():
            grad = torch.empty_like(weight, dtype=grad.dtype).copy_(grad)
        dw, along = torch.empty_like(weight), torch.empty_like(lengths)
        _rows_backward[(len(weight),)](weight, grad, dw, lengths, along, gain, *ctx.settings, _BLOCK)
        gain_grad = (along / (lengths + ctx.settings[1])).sum() if ctx.needs_input_grad[1] else None
        return dw, gain_grad, None, None, None


@triton.jit
def _rows_forward(weight, y, lengths, gain, factor, offset, size, BLOCK: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        index = start + tl.arange(0, BLOCK)
        value = read(weight + base + index, index < size)
        total += value * value
    length = tl.sqrt(tl.sum(total, 0))
    tl.store(lengths + tl.program_id(0), length)
    scale = factor / (length + offset)
    if gain is not None:
        scale *= tl.load(gain)
    for start in range(0, size, BLOCK):
        index = start + tl.arange(0, BLOCK)
        value = read(weight + base + index, index < size)
        tl.store(y + base + index, value * scale, mask=index < size)


@triton.jit
def _rows_backward(weight, grad, dw, lengths, along, gain, factor, offset, size, BLOCK: tl.constexpr):
    """Gradient of w: s g − w (g·w) s / (norm (norm + offset)) with s = gain / (norm + offset)."""
    base = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        index = start + tl.arange(0, BLOCK)
        value = read(weight + base + index, index < size)
        total += value * read(grad + base + index, index < size)
    product = tl.sum(total, 0)
    tl.store(along + tl.program_id(0), product)
    length = tl.load(lengths + tl.program_id(0))
    scale = factor / (length + offset)
    if gain is not None:
        scale *= tl.load(gain)
    back = product * scale / (tl.where(length > 0, length, 1.0) * (length + offset))
    for start in range(0, size, BLOCK):
        index = start + tl.arange(0, BLOCK)
        value = read(weight + base + index, index < size)
        grad_value = read(grad + base + index, index < size)
        tl.store(dw + base + index, grad_value * scale - value * back, mask=index < size)
