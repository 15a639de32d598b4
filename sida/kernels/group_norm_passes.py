"""The kernels of :mod:`sida.kernels.group_norm`, in the order of their use: three passes forward, three backward.

Partial results lie as ``(quantity, N, chunks, C)``; ``plane`` is the distance of two quantities.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sida.kernels.elements import dropped, row_of, silu, silu_slope


@triton.jit
def moments(x, partial, positions, C, plane, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Mean and sum of squared deviations per channel over a chunk of positions."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.arange(0, WIDTH)[None, :]
    inside = (row < positions) & (col < C)
    base = n.to(tl.int64) * positions * C
    values = tl.load(x + base + row * C + col, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(positions - chunk * BLOCK, BLOCK).to(tl.float32)
    # Away from a value of the channel itself, so that a large mean costs no digits and one look suffices.
    channels = tl.arange(0, WIDTH)
    there = channels < C
    pivot = tl.load(x + base + chunk * BLOCK * C + channels, mask=there, other=0.0).to(tl.float32)
    away = tl.where(inside, values - pivot[None, :], 0.0)
    off = tl.sum(away, 0) / count
    square = tl.maximum(tl.sum(away * away, 0) - off * off * count, 0.0)
    place = (n * tl.num_programs(1) + chunk) * C + channels
    tl.store(partial + place, pivot + off, mask=there)
    tl.store(partial + plane + place, square, mask=there)


@triton.jit
def _vector(pointer, stride, n, channels, mask, THERE: tl.constexpr):
    """An optional vector's entries, or zeros."""
    value = tl.zeros_like(channels).to(tl.float32)
    if THERE:
        value = tl.load(pointer + n * stride + channels, mask=mask, other=0.0)
    return value


@triton.jit
def combine_moments(
    partial,
    channel,
    group,
    gamma,
    beta,
    before,
    before_stride,
    scale,
    scale_stride,
    after,
    after_stride,
    positions,
    C,
    G,
    eps,
    plane,
    channel_plane,
    group_plane,
    chunks,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BEFORE: tl.constexpr,
    SCALE: tl.constexpr,
    AFTER: tl.constexpr,
):
    """Chan's combination of partial moments, first over chunks, then over the channels of a group."""
    n, g = tl.program_id(0), tl.program_id(1)
    size = C // G
    lane = tl.arange(0, WIDTH)
    channels, inside = g * size + lane, lane < size
    chunk = tl.arange(0, CHUNKS)[:, None]
    there = (chunk < chunks) & inside[None, :]
    place = (n * chunks + chunk) * C + channels[None, :]
    counts = tl.where(chunk < chunks, tl.minimum(positions - chunk * BLOCK, BLOCK), 0).to(tl.float32)
    means = tl.load(partial + place, mask=there, other=0.0)
    squares = tl.load(partial + plane + place, mask=there, other=0.0)
    mean = tl.sum(means * counts, 0) / positions
    away = tl.where(there, means - mean[None, :], 0.0)
    square = tl.sum(squares + away * away * counts, 0)
    moved = mean + _vector(before, before_stride, n, channels, inside, BEFORE)
    centre = tl.sum(tl.where(inside, moved, 0.0), 0) / size
    off = tl.where(inside, moved - centre, 0.0)
    variance = tl.sum(square + off * off * positions, 0) / (size * positions)
    inverse = 1 / tl.sqrt(variance + eps)
    factor = 1 + _vector(scale, scale_stride, n, channels, inside, SCALE)
    slope = tl.load(gamma + channels, mask=inside, other=0.0) * factor
    level = tl.load(beta + channels, mask=inside, other=0.0) * factor
    level += _vector(after, after_stride, n, channels, inside, AFTER)
    here = channel + n * C + channels
    tl.store(here, mean, mask=inside)
    tl.store(here + channel_plane, slope * inverse, mask=inside)
    # x + before − centre = (x − mean) + (moved − centre)
    tl.store(here + 2 * channel_plane, (moved - centre - mean) * inverse * slope + level, mask=inside)
    tl.store(group + n * G + g, centre)
    tl.store(group + group_plane + n * G + g, inverse)


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
    """Y of a chunk, from the factors per channel."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.arange(0, WIDTH)
    col = channels[None, :]
    inside = (row < positions) & (col < C)
    base = n.to(tl.int64) * positions * C
    offset = row * C + col
    values = tl.load(x + base + offset, mask=inside, other=0.0).to(tl.float32)
    u = row_of(channel + plane + n * C, channels, C) * values + row_of(channel + 2 * plane + n * C, channels, C)
    if SILU:
        u = silu(u)
    if DROP:
        u = dropped(u, seed, n * tl.num_programs(1) + chunk, dropout, BLOCK, WIDTH)
    tl.store(y + base + offset, u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _du(x, grad, y, channel, n, row, col, positions, C, stride, plane, dropout, SILU: tl.constexpr, DROP: tl.constexpr):
    """Gradient of u, and x, at a tile. Where y is 0 it was dropped (or its derivative is as good as 0)."""
    # Factors are loaded as rows here, not by `row_of`: in the layout that tiles then get, sums over positions stay
    # within a thread, and a thread holds the factors of fewer channels (64 registers instead of 100).
    inside = (row < positions) & (col < C)
    base = n.to(tl.int64) * positions
    values = tl.load(x + base * C + row * C + col, mask=inside, other=0.0).to(tl.float32)
    du = tl.load(grad + base * stride + row * stride + col, mask=inside, other=0.0).to(tl.float32)
    if DROP:
        kept = tl.load(y + base * C + row * C + col, mask=inside, other=0.0) != 0
        du = tl.where(kept, du / (1 - dropout), 0.0)
    if SILU:
        slope = tl.load(channel + plane + n * C + col, mask=col < C, other=0.0)
        level = tl.load(channel + 2 * plane + n * C + col, mask=col < C, other=0.0)
        du = du * silu_slope(slope * values + level)
    return du, values


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
    col = tl.arange(0, WIDTH)[None, :]
    du, values = _du(x, grad, y, channel, n, row, col, positions, C, stride, plane, dropout, SILU, DROP)
    mean = tl.load(channel + n * C + col, mask=col < C, other=0.0)
    channels = tl.arange(0, WIDTH)
    place = (n * tl.num_programs(1) + chunk) * C + channels
    tl.store(partial + place, tl.sum(du, 0), mask=channels < C)
    tl.store(partial + partial_plane + place, tl.sum(du * (values - mean), 0), mask=channels < C)


@triton.jit
def combine_sums(
    partial,
    channel,
    group,
    factors,
    out,
    gamma,
    beta,
    before,
    before_stride,
    scale,
    scale_stride,
    after,
    after_stride,
    positions,
    C,
    G,
    plane,
    channel_plane,
    group_plane,
    chunks,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BEFORE: tl.constexpr,
    SCALE: tl.constexpr,
    AFTER: tl.constexpr,
):
    """Per group: the factors of dx, and the gradients of the vectors."""
    n, g = tl.program_id(0), tl.program_id(1)
    size = C // G
    lane = tl.arange(0, WIDTH)
    channels, inside = g * size + lane, lane < size
    chunk = tl.arange(0, CHUNKS)[:, None]
    there = (chunk < chunks) & inside[None, :]
    place = (n * chunks + chunk) * C + channels[None, :]
    total = tl.sum(tl.load(partial + place, mask=there, other=0.0), 0)
    moment = tl.sum(tl.load(partial + plane + place, mask=there, other=0.0), 0)
    mean = tl.load(channel + n * C + channels, mask=inside, other=0.0)
    centre, inverse = tl.load(group + n * G + g), tl.load(group + group_plane + n * G + g)
    shift = _vector(before, before_stride, n, channels, inside, BEFORE)
    # Sum of du times the normalised map.
    product = inverse * (moment + (mean + shift - centre) * total)
    factor = 1 + _vector(scale, scale_stride, n, channels, inside, SCALE)
    plain, bias = tl.load(gamma + channels, mask=inside, other=0.0), tl.load(beta + channels, mask=inside, other=0.0)
    slope = tl.where(inside, plain * factor, 0.0)
    one = tl.sum(slope * total, 0) / (size * positions)
    two = tl.sum(slope * product, 0) / (size * positions)
    p = -inverse * inverse * two
    q = -inverse * one - p * (centre - shift)
    here = n * C + channels
    tl.store(factors + here, tl.zeros_like(shift) + p, mask=inside)
    tl.store(factors + channel_plane + here, q, mask=inside)
    tl.store(out + here, product * factor, mask=inside)
    tl.store(out + channel_plane + here, total * factor, mask=inside)
    tl.store(out + 2 * channel_plane + here, slope * inverse * total + (p * mean + q) * positions, mask=inside)
    tl.store(out + 3 * channel_plane + here, plain * product + bias * total, mask=inside)
    tl.store(out + 4 * channel_plane + here, total, mask=inside)


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
    """Gradient of x at a chunk: ``a du + p x + q``, and what came for x from elsewhere."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.arange(0, WIDTH)[None, :]
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
