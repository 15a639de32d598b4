"""Kernels that map elements to elements, and the tiles and layouts that all kernels share.

SiLU times a factor with dropout, concatenation, resampling by two, and Adam's step. A feature map is a row of channels
for each position.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def silu(u):
    """``u`` times its sigmoid."""
    return u / (1 + tl.exp(-u))


@triton.jit
def silu_slope(u):
    """Derivative of :func:`silu`."""
    sigmoid = 1 / (1 + tl.exp(-u))
    return sigmoid * (1 + u * (1 - sigmoid))


@triton.jit
def row_of(vector, channels, C):
    """Entries of a vector as a row that fits a tile.

    The vector is loaded along one axis. If rows are loaded in two dimensions, the compiler gives the tile the rows'
    layout and moves every element through shared memory.
    """
    return tl.load(vector + channels, mask=channels < C, other=0.0)[None, :]


@triton.jit
def dropped(u, seed, row, begin, C, probability, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Dropout on a tile: zeroes elements at random and scales the others up.

    Draws are functions of the seed and the element's place. One call of Philox gives draws for four channels; its
    seven rounds cost more than the rest of a pass.

    Args:
        u: ``(BLOCK, WIDTH)``.
        seed: Pointer to an integer.
        row: Number of each position in the batch, ``(BLOCK, 1)``.
        begin: First channel; a multiple of 4.
        C: Channels of a position.
        probability: Probability of zeroing an element.
        BLOCK: Positions of the tile.
        WIDTH: Channels of the tile; a multiple of 4.
    """
    quarter: tl.constexpr = WIDTH // 4
    place = row * ((C + 3) // 4) + begin // 4 + tl.arange(0, quarter)[None, :]
    a, b, c, d = tl.randint4x(tl.load(seed).to(tl.int32), place, n_rounds=7)
    bits = tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK, WIDTH).to(tl.uint32, bitcast=True)
    limit = (tl.full((), 4294967296.0, tl.float32) * probability).to(tl.uint32)
    return tl.where(bits < limit, 0.0, u / (1 - probability))


#: Elements of a tile: 32 for each of the threads that work on it, or 16.
_TILE, _WARPS = 8192, 8
#: Least channels of a tile of a divided row: a cache line of half precision.
_NARROWEST = 64
_NARROW_TILE, _NARROW_WARPS = 2048, 4


def channel_rows(x: Tensor) -> Tensor:
    """A map ``(N, C, H, W)`` with contiguous channels: the map itself, or a copy in channels-last memory."""
    if x.stride(1) == 1 and x.permute(0, 2, 3, 1).is_contiguous():
        return x
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, _strides(x.shape))


def like_map(x: Tensor) -> tuple[Tensor, int]:
    """A map with contiguous channels, and the distance of its positions in memory.

    A slice of a wider map's channels is not copied.
    """
    n, c, height, width = x.shape
    stride = x.stride(3) if width > 1 else (x.stride(2) if height > 1 else x.stride(0))
    even = (
        (c == 1 or x.stride(1) == 1)
        and stride >= c
        and (height == 1 or x.stride(2) == width * stride)
        and (n == 1 or x.stride(0) == height * width * stride)
    )
    return (x, stride) if even else (channel_rows(x), c)


def empty_map(like: Tensor, n: int, c: int, height: int, width: int) -> Tensor:
    """An uninitialised channels-last map of the dtype and on the device of another one."""
    return torch.empty_strided(
        (n, c, height, width), _strides((n, c, height, width)), dtype=like.dtype, device=like.device
    )


def tile_size(channels: int) -> tuple[int, int, int, int]:
    """Positions and channels of a tile (powers of two, four channels at least), its warps, and tiles in a row.

    A row of channels is divided among tiles of 64 channels or more so that the fewest of their lanes are idle: 192
    channels are three tiles of 64 and not three quarters of one of 256.
    """
    width = max(4, int(triton.next_power_of_2(channels)))
    widths = [width >> halvings for halvings in range(10) if halvings == 0 or width >> halvings >= _NARROWEST]
    width = min(widths, key=lambda width: triton.cdiv(channels, width) * width)
    return max(1, _TILE // width), width, _WARPS, triton.cdiv(channels, width)


def narrow_tile(channels: int) -> tuple[int, int, int]:
    """As :func:`tile_size`, smaller: for programs that each read few channels at all positions."""
    width = max(4, int(triton.next_power_of_2(channels)))
    return max(1, _NARROW_TILE // width), width, _NARROW_WARPS


def _strides(shape: torch.Size | tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    _, c, height, width = shape
    return height * width * c, 1, width * c, c


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
        _silu_backward[(n, chunks, tiles)](
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
    _silu_forward[(n, triton.cdiv(positions, block), tiles)](
        x, y, factor, x if seed is None else seed, positions, c, stride, dropout, scale is not None, seed is not None,
        block, width_c, num_warps=warps,
    )  # fmt: skip
    return y


def _with_stride(scale: Tensor | None, filler: Tensor) -> tuple[Tensor, int]:
    return (filler, 0) if scale is None else (scale, 0 if scale.shape[0] == 1 else scale.shape[1])


@triton.jit
def _silu_forward(
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
def _silu_backward(
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


_RESAMPLED = 2048


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
    block = max(1, _RESAMPLED // width_c)
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


_ENTRIES, _PROGRAMS = 4096, 2048


def gradient_norm(gradient: Tensor, infinity: float) -> Tensor:
    """Float32 ``(2,)``: squared norm with NaN as 0 and ±∞ as ±``infinity``, and the number of such entries."""
    programs = min(triton.cdiv(gradient.numel(), _ENTRIES), _PROGRAMS)
    partial = gradient.new_empty((2, programs), dtype=torch.float32)
    _gradient_norm[(programs,)](gradient, partial, gradient.numel(), infinity, programs, _ENTRIES)
    return partial.sum(1, dtype=torch.float64).float()


def adam_step(
    vector: Tensor,
    gradient: Tensor,
    mean: Tensor | None,
    square: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    count: int,
    infinity: float,
    clip: float | None,
) -> None:
    """Step number ``count`` (from 1) of :class:`sida.training.optimizer.Adam` against the guarded, clipped gradient.

    All vectors are float32 ``(P,)``; ``vector`` and the moments are changed in place, the gradient is not.
    """
    total = vector.numel()
    _step[(triton.cdiv(total, _ENTRIES),)](
        vector, gradient, square if mean is None else mean, square, total, lr / (1 - betas[0] ** count), 1 - betas[0],
        1 - betas[1], 1 / math.sqrt(1 - betas[1] ** count), eps, infinity, float("inf") if clip is None else clip,
        mean is not None, _ENTRIES,
    )  # fmt: skip


@triton.jit
def _guarded(value, infinity):
    value = tl.where(value != value, 0.0, value)
    value = tl.where(value == float("inf"), infinity, value)
    return tl.where(value == -float("inf"), -infinity, value)


@triton.jit
def _gradient_norm(gradient, partial, total, infinity, programs, BLOCK: tl.constexpr):
    square, wrong = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(tl.program_id(0) * BLOCK, total, programs * BLOCK):
        place = (start + tl.arange(0, BLOCK)).to(tl.int64)
        raw = tl.load(gradient + place, mask=place < total, other=0.0)
        value = _guarded(raw, infinity)
        square += value * value
        wrong += tl.where((raw != raw) | (tl.abs(raw) == float("inf")), 1.0, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(square, 0))
    tl.store(partial + programs + tl.program_id(0), tl.sum(wrong, 0))


@triton.jit
def _step(
    vector, gradient, mean, square, total, rate, mean_share, square_share, divisor_factor, eps, infinity, clip,
    MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    value = _guarded(tl.load(gradient + place, mask=inside, other=0.0), infinity)
    value = tl.minimum(tl.maximum(value, -clip), clip)
    second = tl.load(square + place, mask=inside, other=0.0)
    second += square_share * (value * value - second)
    tl.store(square + place, second, mask=inside)
    if MEAN:
        first = tl.load(mean + place, mask=inside, other=0.0)
        value = first + mean_share * (value - first)
        tl.store(mean + place, value, mask=inside)
    moved = tl.load(vector + place, mask=inside, other=0.0)
    moved -= rate * value / (tl.sqrt(second) * divisor_factor + eps)
    tl.store(vector + place, moved, mask=inside)
