"""Elementwise kernels, and the tiles and layouts that all kernels share.

SiLU with dropout, concatenation, resampling by two, and Adam's step. A feature map is a row of channels for each
position. An optional tensor of a kernel may be None; the compiled kernel then has no code for it.
"""

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
def read(pointers, inside):
    """Values in float32, and 0 where not ``inside``."""
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def row_of(vector, channels, C):
    """Entries of a vector as a row that fits a tile.

    The vector is loaded along one axis. If rows are loaded in two dimensions, the compiler gives the tile the rows'
    layout and moves every element through shared memory.
    """
    return tl.load(vector + channels, mask=channels < C, other=0.0)[None, :]


@triton.jit
def tile_of(positions, C, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """A program's tile on the grid (samples, tiles of positions, tiles of channels).

    Returns:
        Sample; positions ``(BLOCK, 1)``; channels ``(WIDTH,)``; whether the map has an element, ``(BLOCK, WIDTH)``.
    """
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    return tl.program_id(0), row, channels, (row < positions) & (channels[None, :] < C)


@triton.jit
def at(pointer, n, row, channels, positions, stride):
    """Pointers to the tile ``(row, channels)`` of a sample's map, whose positions are ``stride`` apart."""
    # A batch of maps may have more than 2³¹ elements.
    return pointer + n.to(tl.int64) * positions * stride + row * stride + channels[None, :]


@triton.jit
def flat_tile(total, C, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """As :func:`tile_of` on the grid (tiles of all samples' positions, tiles of channels), without the sample."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    return row, channels, (row < total) & (channels[None, :] < C)


@triton.jit
def dropped(u, seed, row, begin, C, probability, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Dropout on a tile: zeroes elements at random and scales the others up.

    A draw is a function of the seed and the element's index. One call of Philox serves four channels, since its seven
    rounds cost more than the rest of a pass.

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
    counter = row * ((C + 3) // 4) + begin // 4 + tl.arange(0, quarter)[None, :]
    a, b, c, d = tl.randint4x(tl.load(seed).to(tl.int32), counter, n_rounds=7)
    bits = tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK, WIDTH).to(tl.uint32, bitcast=True)
    limit = (tl.full((), 4294967296.0, tl.float32) * probability).to(tl.uint32)
    return tl.where(bits < limit, 0.0, u / (1 - probability))


@triton.jit
def undropped(du, y, inside, probability):
    """Gradient before dropout; the mask is not stored. An element with y = 0 was dropped, or its slope is nearly 0."""
    return tl.where(tl.load(y, mask=inside, other=0.0) != 0, du / (1 - probability), 0.0)


#: Smallest number of channels of a tile if several tiles divide a row: a cache line of half precision.
_NARROWEST = 64


def tiles(
    positions: int, channels: int, elements: int = 8192, warps: int = 8
) -> tuple[tuple[int, int], dict[str, int]]:
    """Numbers of tiles along positions and channels, and the size of a tile as arguments of a kernel.

    A tile has 32 ``elements`` for each of the threads that work on it. Its sides are powers of two, four channels at
    least. Tiles of 64 channels or more divide a row of channels such that the fewest lanes are idle: 192 channels are
    three tiles of 64 instead of three quarters of one tile of 256.
    """
    full_width = max(4, int(triton.next_power_of_2(channels)))
    widths = [full_width >> halvings for halvings in range(10) if halvings == 0 or full_width >> halvings >= _NARROWEST]
    width = min(widths, key=lambda width: triton.cdiv(channels, width) * width)
    block = max(1, elements // width)
    grid = triton.cdiv(positions, block), triton.cdiv(channels, width)
    return grid, {"BLOCK": block, "WIDTH": width, "num_warps": warps}


def channel_rows(x: Tensor) -> Tensor:
    """A map ``(N, C, H, W)`` with contiguous channels: the map itself, or a copy in channels-last memory."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def like_map(x: Tensor) -> tuple[Tensor, int]:
    """A map with contiguous channels, and the distance of its positions in memory.

    A slice of a wider map's channels is not copied.
    """
    n, c, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, c)
    rows = rows if c == 1 or rows.stride(1) == 1 else rows.contiguous()
    return rows.view(n, height, width, c).permute(0, 3, 1, 2), rows.stride(0)


def empty_map(like: Tensor, n: int, c: int, height: int, width: int) -> Tensor:
    """An uninitialised channels-last map of the dtype and on the device of another one."""
    return like.new_empty((n, height, width, c)).permute(0, 3, 1, 2)


def stride_of(rows: Tensor | None) -> int:
    """Distance of the samples' rows of a vector ``(N or 1, C)``; 0 where they share one."""
    return 0 if rows is None or len(rows) == 1 else rows.stride(0)


def optional_map(gradient: Tensor | None) -> tuple[Tensor | None, int]:
    """:func:`like_map` of a gradient, or None and 0 for a missing one."""
    return (None, 0) if gradient is None else like_map(gradient)


def activate(
    x: Tensor, slope: Tensor | None, level: Tensor | None, silu: bool, seed: Tensor | None, dropout: float
) -> Tensor:
    """``dropout(silu(slope x + level))`` of a map, channels-last.

    Args:
        x: ``(N, C, H, W)``, see :func:`channel_rows`.
        slope: Float32 ``(N or 1, C)`` with contiguous channels; None is 1.
        level: As ``slope``, of the same strides; None is 0.
        silu: Whether there is an activation.
        seed: Seed of the dropout; None drops nothing.
        dropout: Probability of zeroing an element.
    """
    n, c, height, width = x.shape
    grid, sizes = tiles(height * width, c)
    y = torch.empty_like(x)
    _activate[(n, *grid)](x, y, slope, level, stride_of(slope), seed, height * width, c, dropout, silu, **sizes)
    return y


@triton.jit
def _activate(
    x, y, slope, level, stride, seed, positions, C, dropout,
    SILU: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    n, row, channels, inside = tile_of(positions, C, BLOCK, WIDTH)
    u = read(at(x, n, row, channels, positions, C), inside)
    if slope is not None:
        u *= row_of(slope + n * stride, channels, C)
    if level is not None:
        u += row_of(level + n * stride, channels, C)
    if SILU:
        u = silu(u)
    if seed is not None:
        u = dropped(u, seed, n * positions + row, tl.program_id(2) * WIDTH, C, dropout, BLOCK, WIDTH)
    tl.store(at(y, n, row, channels, positions, C), u, mask=inside)


def scaled_silu(x: Tensor, scale: Tensor | None = None, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """``dropout(silu(x · scale))`` of a map ``(N, C, H, W)``, in channels-last memory, and x.

    Compute everything else that depends on x from the second result: one pass then sums both gradients.

    Args:
        x: float16, bfloat16 or float32.
        scale: Float32 ``(N or 1, C)``, or None.
        dropout: Probability p of zeroing an element; the others are divided by 1 − p.
    """
    return _ScaledSilu.apply(x, scale, dropout)


class _ScaledSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
        x = channel_rows(x)
        scale = None if scale is None else scale.float().contiguous()
        # A tensor, since a CUDA graph would repeat a number in each replay.
        seed = torch.randint(2**31, (1,), device=x.device) if dropout else None
        y = activate(x, scale, None, True, seed, dropout)
        ctx.save_for_backward(x, y if dropout else None, scale)
        ctx.dropout = dropout
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        y_grad, other_grad = grads
        if y_grad is None:
            return other_grad, None, None
        x, y, scale = ctx.saved_tensors
        n, c, height, width = x.shape
        grid, sizes = tiles(height * width, c)
        dx = torch.empty_like(x)
        partial = x.new_empty((n, grid[0], c), dtype=torch.float32) if ctx.needs_input_grad[1] else None
        _silu_backward[(n, *grid)](
            x, *like_map(y_grad), y, scale, stride_of(scale), *optional_map(other_grad), dx, partial, height * width, c,
            ctx.dropout, **sizes,
        )  # fmt: skip
        if partial is None:
            return dx, None, None
        return dx, partial.sum((0, 1))[None] if len(scale) == 1 else partial.sum(1), None


@triton.jit
def _silu_backward(
    x, grad, grad_stride, y, scale, stride, other_grad, other_stride, dx, partial, positions, C, dropout,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    n, row, channels, inside = tile_of(positions, C, BLOCK, WIDTH)
    value = read(at(x, n, row, channels, positions, C), inside)
    du = read(at(grad, n, row, channels, positions, grad_stride), inside)
    factor = tl.full((1, WIDTH), 1.0, tl.float32)
    if scale is not None:
        factor = row_of(scale + n * stride, channels, C)
    du = du * silu_slope(value * factor)
    if y is not None:
        du = undropped(du, at(y, n, row, channels, positions, C), inside, dropout)
    result = du * factor
    if other_grad is not None:
        result += read(at(other_grad, n, row, channels, positions, other_stride), inside)
    tl.store(at(dx, n, row, channels, positions, C), result, mask=inside)
    if partial is not None:
        target = partial + (n * tl.num_programs(1) + tl.program_id(1)) * C + channels
        tl.store(target, tl.sum(du * value, 0), mask=channels < C)


def concat(a: Tensor, b: Tensor, a_factor: float = 1.0, b_factor: float = 1.0) -> Tensor:
    """``cat([a_factor a, b_factor b])`` of maps ``(N, A, H, W)`` and ``(N, B, H, W)``, in channels-last memory."""
    return _Concat.apply(a, b, a_factor, b_factor)


class _Concat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, a_factor: float, b_factor: float) -> Tensor:
        n, _, height, width = a.shape
        ctx.widths, ctx.factors = (a.shape[1], b.shape[1]), (a_factor, b_factor)
        y = empty_map(a, n, sum(ctx.widths), height, width)
        for source, target, factor in zip((a, b), y.split(ctx.widths, 1), ctx.factors):
            _copy(*like_map(source), target, factor)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad, stride = like_map(grads[0])
        parts = [
            part if factor == 1 else _copy(part, stride, empty_map(grad, *part.shape), factor)
            for part, factor in zip(grad.split(ctx.widths, 1), ctx.factors)
        ]
        return (*parts, None, None)


def _copy(source: Tensor, stride: int, target: Tensor, factor: float) -> Tensor:
    """Writes ``factor source`` into a map or a part of its channels, and returns that."""
    assert source.shape == target.shape
    n, c, height, width = source.shape
    grid, sizes = tiles(n * height * width, c)
    _copied[grid](source, stride, target, target.stride(3), n * height * width, c, factor, **sizes)
    return target


@triton.jit
def _copied(source, stride, target, target_stride, total, C, factor, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    row, channels, inside = flat_tile(total, C, BLOCK, WIDTH)
    value = read(source + row * stride + channels[None, :], inside) * factor
    tl.store(target + row * target_stride + channels[None, :], value, mask=inside)


def double(x: Tensor) -> Tensor:
    """Repeats each position of ``(N, C, H, W)`` four times: ``(N, C, 2H, 2W)``, channels-last."""
    return _Resampled.apply(x, True, 1.0)


def halve(x: Tensor) -> Tensor:
    """Means of 2×2 positions: ``(N, C, H/2, W/2)``, channels-last; H and W are even."""
    assert x.shape[2] % 2 == x.shape[3] % 2 == 0
    return _Resampled.apply(x, False, 0.25)


class _Resampled(torch.autograd.Function):
    """Repetition (``up``) or sum of 2×2 positions, times a factor: each is the other's derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: bool, factor: float) -> Tensor:
        ctx.settings = not up, factor
        return _resampled(x, up, factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _resampled(grads[0], *ctx.settings), None, None


def _resampled(x: Tensor, up: bool, factor: float) -> Tensor:
    x, stride = like_map(x)
    n, c, height, width = x.shape
    y = empty_map(x, n, c, 2 * height, 2 * width) if up else empty_map(x, n, c, height // 2, width // 2)
    # The kernel goes through the positions of the smaller map.
    _, _, height, width = (x if up else y).shape
    grid, sizes = tiles(n * height * width, c, elements=2048, warps=4)
    _resample_by_two[grid](x, y, n * height * width, width, c, stride, factor, up, **sizes)
    return y


@triton.jit
def _resample_by_two(
    x, y, total, W, C, stride, factor, UP: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Copies each position of the smaller map to four of the larger map (``UP``), or sums these."""
    position, channels, inside = flat_tile(total, C, BLOCK, WIDTH)
    value = tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    if UP:
        value = read(x + position * stride + channels[None, :], inside) * factor
    # First of the four positions of the larger map. Rows are numbered through the whole batch.
    corner = (position // W) * 4 * W + (position % W) * 2
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            index = corner + down * 2 * W + right
            if UP:
                tl.store(y + index * C + channels[None, :], value, mask=inside)
            else:
                value += read(x + index * stride + channels[None, :], inside)
    if not UP:
        tl.store(y + position * C + channels[None, :], value * factor, mask=inside)


_ENTRIES, _PROGRAMS = 4096, 2048


def gradient_norm(gradient: Tensor, infinity: float) -> Tensor:
    """Float32 ``(2,)``: squared norm with NaN as 0 and ±∞ as ±``infinity``, and the number of such entries."""
    programs = min(triton.cdiv(gradient.numel(), _ENTRIES), _PROGRAMS)
    partial = gradient.new_empty((2, programs), dtype=torch.float32)
    _gradient_norm[(programs,)](gradient, partial, gradient.numel(), infinity, programs, _ENTRIES)
    # Partial sums may differ by many orders of magnitude.
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
    assert gradient.numel() == square.numel() == total
    # The corrections of both moments' bias are part of the rate and of a factor of the divisor.
    _step[(triton.cdiv(total, _ENTRIES),)](
        vector, gradient, mean, square, total, lr / (1 - betas[0] ** count), 1 - betas[0], 1 - betas[1],
        1 / math.sqrt(1 - betas[1] ** count), eps, infinity, math.inf if clip is None else clip, _ENTRIES,
    )  # fmt: skip


@triton.jit
def _guarded(value, infinity):
    """NaN as 0, and ±∞ as ±``infinity``."""
    value = tl.where(value != value, 0.0, value)
    value = tl.where(value == float("inf"), infinity, value)
    return tl.where(value == -float("inf"), -infinity, value)


@triton.jit
def _gradient_norm(gradient, partial, total, infinity, programs, BLOCK: tl.constexpr):
    square, wrong = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(tl.program_id(0) * BLOCK, total, programs * BLOCK):
        index = (start + tl.arange(0, BLOCK)).to(tl.int64)
        raw = tl.load(gradient + index, mask=index < total, other=0.0)
        value = _guarded(raw, infinity)
        square += value * value
        wrong += tl.where((raw != raw) | (tl.abs(raw) == float("inf")), 1.0, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(square, 0))
    tl.store(partial + programs + tl.program_id(0), tl.sum(wrong, 0))


@triton.jit
def _step(
    vector, gradient, mean, square, total, rate, mean_share, square_share, divisor_factor, eps, infinity, clip,
    BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < total
    value = _guarded(tl.load(gradient + index, mask=inside, other=0.0), infinity)
    value = tl.minimum(tl.maximum(value, -clip), clip)
    second = tl.load(square + index, mask=inside, other=0.0)
    second += square_share * (value * value - second)
    tl.store(square + index, second, mask=inside)
    if mean is not None:
        first = tl.load(mean + index, mask=inside, other=0.0)
        value = first + mean_share * (value - first)
        tl.store(mean + index, value, mask=inside)
    moved = tl.load(vector + index, mask=inside, other=0.0)
    moved -= rate * value / (tl.sqrt(second) * divisor_factor + eps)
    tl.store(vector + index, moved, mask=inside)
