"""EDM2's normalisations: of pixels, optionally with SiLU, and of weights, times a gain, in the map's dtype.

The channels of each position are scaled to root mean square one; the weights of each output to unit length.

Source: EDM2 (arXiv:2312.02696), equations 30, 47 and 66, and section B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.pointwise import channel_rows, silu, silu_slope

_TILE, _WARPS = 4096, 4


def pixel_norm(x: Tensor, eps: float) -> Tensor:
    """``x / (rms + eps)`` of each row: ``(R, C)``, contiguous, any float dtype."""
    result: Tensor = _PixelNorm.apply(x, eps)
    return result


def pixel_norm_silu(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``y = x / (rms + eps)`` over the channels of a map ``(N, C, H, W)``, and ``silu(y)``; channels-last.

    The second result can be recomputed (:func:`sida.kernels.fused.recomputed`).
    """
    result: tuple[Tensor, Tensor] = _PixelNormSilu.apply(x, eps)
    return result


class _PixelNorm(torch.autograd.Function):
    """Saves y for the backward pass, which attention saves anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, divisor = torch.empty_like(x), x.new_empty((len(x),), dtype=torch.float32)
        _normalise(x, y, None, divisor, eps)
        ctx.save_for_backward(y, divisor)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        y, divisor = ctx.saved_tensors
        return _gradient(y, divisor, grads[0].contiguous(), None, ctx.eps, normalised=True), None


class _PixelNormSilu(torch.autograd.Function):
    """Saves x for the backward pass, from which both results can be recomputed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x = channel_rows(x)
        flat = _flat(x)
        y, s, divisor = (torch.empty_like(flat), torch.empty_like(flat), flat.new_empty(len(flat), dtype=torch.float32))
        _normalise(flat, y, s, divisor, eps)
        ctx.save_for_backward(x, divisor)
        ctx.eps, ctx.remake = eps, _PixelNormSilu.remake
        ctx.set_materialize_grads(False)
        return _as_map(y, x), _as_map(s, x)

    @staticmethod
    def remake(ctx: Any) -> Tensor:
        """Recomputes ``silu(y)`` from the tensors saved for the backward pass."""
        x, divisor = ctx.saved_tensors
        s = torch.empty_like(_flat(x))
        _normalise(_flat(x), None, s, divisor, ctx.eps)
        return _as_map(s, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, divisor = ctx.saved_tensors
        of_y, of_s = (None if grad is None else _flat(grad).contiguous() for grad in grads)
        if of_y is None and of_s is None:
            return None, None
        return _as_map(_gradient(_flat(x), divisor, of_y, of_s, ctx.eps, normalised=False), x), None


def _flat(x: Tensor) -> Tensor:
    """A map ``(N, C, H, W)`` as ``(R, C)``: a view where its channels are contiguous."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _as_map(flat: Tensor, like: Tensor) -> Tensor:
    n, c, height, width = like.shape
    return flat.view(n, height, width, c).permute(0, 3, 1, 2)


def _normalise(x: Tensor, y: Tensor | None, s: Tensor | None, divisor: Tensor, eps: float) -> None:
    """Writes y and its SiLU where they are given, and the divisor of x."""
    total, c = x.shape
    block, width = _tile(c)
    _pixels_forward[(triton.cdiv(total, block),)](
        x, x if y is None else y, x if s is None else s, divisor, total, c, eps, y is not None, s is not None,
        block, width, num_warps=_WARPS,
    )  # fmt: skip


def _gradient(
    kept: Tensor, divisor: Tensor, of_y: Tensor | None, of_s: Tensor | None, eps: float, normalised: bool
) -> Tensor:
    """Gradient of x ``(R, C)``; ``kept`` is y where ``normalised``, else x."""
    total, c = kept.shape
    block, width = _tile(c)
    dx = torch.empty_like(kept)
    _pixels_backward[(triton.cdiv(total, block),)](
        kept, divisor, kept if of_y is None else of_y, kept if of_s is None else of_s, dx, total, c, eps,
        normalised, of_y is not None, of_s is not None, block, width, num_warps=_WARPS,
    )  # fmt: skip
    return dx


def _tile(c: int) -> tuple[int, int]:
    width = int(triton.next_power_of_2(c))
    return max(1, _TILE // width), width


@triton.jit
def _pixels_forward(
    x, y, s, divisor, total, C, eps, Y: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    col = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < total) & (col < C)
    place = row[:, None] * C + col
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    by = tl.sqrt(tl.sum(value * value, 1) / C) + eps
    value = value / by[:, None]
    tl.store(divisor + row, by, mask=row < total)
    if Y:
        tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)
    if S:
        tl.store(s + place, silu(value).to(s.dtype.element_ty), mask=inside)


@triton.jit
def _pixels_backward(
    kept, divisor, of_y, of_s, dx, total, C, eps,
    NORMALISED: tl.constexpr, Y: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    col = tl.arange(0, WIDTH)[None, :]
    inside = (row[:, None] < total) & (col < C)
    place = row[:, None] * C + col
    value = tl.load(kept + place, mask=inside, other=0.0).to(tl.float32)
    by = tl.load(divisor + row, mask=row < total, other=1.0)
    if not NORMALISED:
        value = value / by[:, None]
    grad = tl.zeros_like(value)
    if Y:
        grad += tl.load(of_y + place, mask=inside, other=0.0).to(tl.float32)
    if S:
        grad += tl.load(of_s + place, mask=inside, other=0.0).to(tl.float32) * silu_slope(value)
    # d rms / dx = x / (C rms), taken as 0 for a row of zeros.
    rms = by - eps
    along = tl.sum(grad * value, 1) / (C * tl.where(rms > 0, rms, 1.0))
    result = grad / by[:, None] - value * along[:, None]
    tl.store(dx + place, result.to(dx.dtype.element_ty), mask=inside)


_BLOCK = 1024


def unit_rows(weight: Tensor, gain: Tensor | float, eps: float, dtype: torch.dtype) -> Tensor:
    """``gain · weight / (norm + eps √K)`` with the norm of each output's K weights.

    Args:
        weight: Float32 ``(out, ...)``, dense in memory with the outputs outermost.
        gain: Number, or tensor ``()``.
        eps: Constant of the formula above.
        dtype: Type of the result, which has the memory layout of ``weight``.
    """
    tensor = isinstance(gain, Tensor)
    result: Tensor = _UnitRows.apply(weight, gain if tensor else None, 1.0 if tensor else float(gain), eps, dtype)
    return result


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor | None, factor: float, eps: float, dtype: torch.dtype) -> Tensor:
        weight = weight.detach()
        out, size = weight.shape[0], weight[0].numel()
        y = torch.empty_like(weight, dtype=dtype)
        lengths = weight.new_empty((out,))
        offset = eps * math.sqrt(size)
        _rows_forward[(out,)](
            weight, y, lengths, weight if gain is None else gain, factor, offset, size, gain is not None, _BLOCK
        )
        ctx.save_for_backward(weight, gain, lengths)
        ctx.settings = factor, offset
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        weight, gain, lengths = ctx.saved_tensors
        factor, offset = ctx.settings
        grad = grads[0]
        if grad.stride() != weight.stride():
            grad = torch.empty_like(weight, dtype=grad.dtype).copy_(grad)
        out, size = weight.shape[0], weight[0].numel()
        dw, along = torch.empty_like(weight), weight.new_empty((out,))
        has_gain = gain is not None
        _rows_backward[(out,)](
            weight, grad, dw, lengths, along, gain if has_gain else weight, factor, offset, size, has_gain, _BLOCK
        )
        of_gain = (along / (lengths + offset)).sum() if ctx.needs_input_grad[1] else None
        return dw, of_gain, None, None, None


@triton.jit
def _rows_forward(weight, y, lengths, gain, factor, offset, size, GAIN: tl.constexpr, BLOCK: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        total += value * value
    length = tl.sqrt(tl.sum(total, 0))
    tl.store(lengths + tl.program_id(0), length)
    scale = factor / (length + offset)
    if GAIN:
        scale *= tl.load(gain)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        tl.store(y + base + place, (value * scale).to(y.dtype.element_ty), mask=place < size)


@triton.jit
def _rows_backward(
    weight, grad, dw, lengths, along, gain, factor, offset, size, GAIN: tl.constexpr, BLOCK: tl.constexpr
):
    """Gradient of w: s g − w (g·w) s / (norm (norm + offset)) with s = gain / (norm + offset)."""
    base = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        total += value * tl.load(grad + base + place, mask=place < size, other=0.0).to(tl.float32)
    product = tl.sum(total, 0)
    tl.store(along + tl.program_id(0), product)
    length = tl.load(lengths + tl.program_id(0))
    scale = factor / (length + offset)
    if GAIN:
        scale *= tl.load(gain)
    back = product * scale / (tl.where(length > 0, length, 1.0) * (length + offset))
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        beside = tl.load(grad + base + place, mask=place < size, other=0.0).to(tl.float32)
        tl.store(dw + base + place, beside * scale - value * back, mask=place < size)
