"""Kernels of :mod:`sida.kernels.group_norm` for large maps: three passes forward, three backward.

Partial results have the shape ``(quantity, N, chunks, C)``; ``plane`` is the distance of two quantities.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sida.kernels.elements import dropped, row_of, silu
from sida.kernels.group_norm_factors import backward_factors, forward_factors, gradient_of_u, keep_factors


@triton.jit
def moments(x, partial, positions, C, plane, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Mean and sum of squared deviations per channel over a chunk of positions."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    inside = (row < positions) & (col < C)
    base = n.to(tl.int64) * positions * C
    values = tl.load(x + base + row * C + col, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(positions - chunk * BLOCK, BLOCK).to(tl.float32)
    # Deviations from a value of the same channel: one pass suffices, and a large mean costs no digits.
    there = channels < C
    pivot = tl.load(x + base + chunk * BLOCK * C + channels, mask=there, other=0.0).to(tl.float32)
    away = tl.where(inside, values - pivot[None, :], 0.0)
    off = tl.sum(away, 0) / count
    square = tl.maximum(tl.sum(away * away, 0) - off * off * count, 0.0)
    place = (n * tl.num_programs(1) + chunk) * C + channels
    tl.store(partial + place, pivot + off, mask=there)
    tl.store(partial + plane + place, square, mask=there)


@triton.jit
def combine_moments(
    partial, channel, group, gamma, beta, before, before_stride, scale, scale_stride, after, after_stride,
    positions, C, G, eps, plane, channel_plane, group_plane, chunks,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
    BEFORE: tl.constexpr, SCALE: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """Combines partial moments (Chan's formula), first over chunks, then over the channels of a group."""
    n, size = tl.program_id(0), C // G
    lane = tl.arange(0, WIDTH)
    channels, there = tl.program_id(1) * size + lane, lane < size
    chunk = tl.arange(0, CHUNKS)[:, None]
    inside = (chunk < chunks) & there[None, :]
    place = (n * chunks + chunk) * C + channels[None, :]
    counts = tl.where(chunk < chunks, tl.minimum(positions - chunk * BLOCK, BLOCK), 0).to(tl.float32)
    means = tl.load(partial + place, mask=inside, other=0.0)
    squares = tl.load(partial + plane + place, mask=inside, other=0.0)
    mean = tl.sum(means * counts, 0) / positions
    away = tl.where(inside, means - mean[None, :], 0.0)
    square = tl.sum(squares + away * away * counts, 0)
    slope, level, centre, inverse = forward_factors(
        mean, square, lane * 0, channels, there, n, gamma, beta, before, before_stride, scale, scale_stride,
        after, after_stride, positions, size, eps, BEFORE, SCALE, AFTER,
    )  # fmt: skip
    keep_factors(
        channel, group, mean, slope, level, centre, inverse, channels, there, n, C, G, size, channel_plane, group_plane
    )


@triton.jit
def norm_apply(
    x,
    y,
    channel,
    seed,
    positions,
    C,
    plane,
    dropout,
    SILU: tl.constexpr,
    DROP: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Computes y of a chunk from the factors per channel."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    inside = (row < positions) & (col < C)
    base = n.to(tl.int64) * positions * C
    offset = row * C + col
    values = tl.load(x + base + offset, mask=inside, other=0.0).to(tl.float32)
    u = row_of(channel + plane + n * C, channels, C) * values + row_of(channel + 2 * plane + n * C, channels, C)
    if SILU:
        u = silu(u)
    if DROP:
        u = dropped(u, seed, n * positions + row, tl.program_id(2) * WIDTH, C, dropout, BLOCK, WIDTH)
    tl.store(y + base + offset, u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _du(x, grad, y, channel, n, row, col, positions, C, stride, plane, dropout, SILU: tl.constexpr, DROP: tl.constexpr):
    """See :func:`gradient_of_u`."""
    # Factors are loaded as rows in two dimensions, not by `row_of`: in the layout that tiles then get, sums over
    # positions stay within a thread, which holds the factors of fewer channels (64 registers instead of 100).
    slope = tl.load(channel + plane + n * C + col, mask=col < C, other=0.0)
    level = tl.load(channel + 2 * plane + n * C + col, mask=col < C, other=0.0)
    inside = (row < positions) & (col < C)
    return gradient_of_u(x, grad, y, n, row, col, inside, slope, level, positions, C, stride, dropout, SILU, DROP)


@triton.jit
def norm_sums(
    x,
    grad,
    y,
    channel,
    partial,
    positions,
    C,
    stride,
    partial_plane,
    plane,
    dropout,
    SILU: tl.constexpr,
    DROP: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Sums of du and of du (x − channel mean) over a chunk, per channel."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    du, values = _du(x, grad, y, channel, n, row, col, positions, C, stride, plane, dropout, SILU, DROP)
    mean = tl.load(channel + n * C + col, mask=col < C, other=0.0)
    place = (n * tl.num_programs(1) + chunk) * C + channels
    tl.store(partial + place, tl.sum(du, 0), mask=channels < C)
    tl.store(partial + partial_plane + place, tl.sum(du * (values - mean), 0), mask=channels < C)


@triton.jit
def combine_sums(
    partial, channel, group, factors, out, gamma, beta, before, before_stride, scale, scale_stride,
    positions, C, G, plane, channel_plane, group_plane, chunks,
    CHUNKS: tl.constexpr, WIDTH: tl.constexpr, BEFORE: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Computes the factors of dx and the gradients of the vectors, per group."""
    n, size = tl.program_id(0), C // G
    lane = tl.arange(0, WIDTH)
    channels, there = tl.program_id(1) * size + lane, lane < size
    chunk = tl.arange(0, CHUNKS)[:, None]
    inside = (chunk < chunks) & there[None, :]
    place = (n * chunks + chunk) * C + channels[None, :]
    total = tl.sum(tl.load(partial + place, mask=inside, other=0.0), 0)
    moment = tl.sum(tl.load(partial + plane + place, mask=inside, other=0.0), 0)
    p, q = backward_factors(
        total, moment, lane * 0, channel, group, out, channels, there, n, gamma, beta, before, before_stride,
        scale, scale_stride, positions, C, G, size, channel_plane, group_plane, BEFORE, SCALE,
    )  # fmt: skip
    tl.store(factors + n * C + channels, p, mask=there)
    tl.store(factors + channel_plane + n * C + channels, q, mask=there)


@triton.jit
def input_gradient(
    x,
    grad,
    y,
    channel,
    factors,
    beside,
    dx,
    positions,
    C,
    stride,
    beside_stride,
    plane,
    dropout,
    SILU: tl.constexpr,
    DROP: tl.constexpr,
    BESIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Gradient of x at a chunk: ``a du + p x + q``, plus the gradient of x from other operations."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    du, values = _du(x, grad, y, channel, n, row, col, positions, C, stride, plane, dropout, SILU, DROP)
    inside = (row < positions) & (col < C)
    a = tl.load(channel + plane + n * C + col, mask=col < C, other=0.0)
    p = tl.load(factors + n * C + col, mask=col < C, other=0.0)
    q = tl.load(factors + plane + n * C + col, mask=col < C, other=0.0)
    result = a * du + p * values + q
    base = n.to(tl.int64) * positions
    if BESIDE:
        other = tl.load(beside + base * beside_stride + row * beside_stride + col, mask=inside, other=0.0)
        result += other.to(tl.float32)
    tl.store(dx + base * C + row * C + col, result.to(dx.dtype.element_ty), mask=inside)
