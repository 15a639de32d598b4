"""Kernels of :mod:`sida.kernels.group_norm`, which launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from sida.kernels.pointwise import dropped, row_of, silu, silu_slope

# Kernels compute factors from sums over positions, for the channels of whole groups. A vector has one entry for each
# channel of a program; ``kind`` numbers the channel's group, and ``valid`` is false for lanes without a channel.
# Partial results of large maps have the shape ``(quantity, N, chunks, C)``; ``plane`` is two quantities' distance.


@triton.jit
def over_group(vector, kind):
    """Sums a vector over each channel's group."""
    return tl.sum(tl.where(kind[:, None] == kind[None, :], vector[None, :], 0.0), 1)


@triton.jit
def entries(pointer, stride, n, channels, valid, GIVEN: tl.constexpr):
    """Loads the entries of an optional vector, or zeros."""
    value = tl.zeros_like(channels).to(tl.float32)
    if GIVEN:
        value = tl.load(pointer + n * stride + channels, mask=valid, other=0.0)
    return value


@triton.jit
def forward_factors(
    mean, square, kind, channels, valid, n, gamma, beta, before, before_stride, scale, scale_stride,
    after, after_stride, positions, size, eps,
    BEFORE: tl.constexpr, SCALE: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """``u = slope x + level``, with the group's mean and 1/std, from each channel's mean and squared deviations.

    Source: Chan's combination of moments, over the channels of a group.
    """
    moved = tl.where(valid, mean + entries(before, before_stride, n, channels, valid, BEFORE), 0.0)
    centre = over_group(moved, kind) / size
    off = tl.where(valid, moved - centre, 0.0)
    variance = over_group(square + off * off * positions, kind) / (size * positions)
    inverse = 1 / tl.sqrt(variance + eps)
    factor = 1 + entries(scale, scale_stride, n, channels, valid, SCALE)
    slope = tl.load(gamma + channels, mask=valid, other=0.0) * factor
    level = tl.load(beta + channels, mask=valid, other=0.0) * factor
    level += entries(after, after_stride, n, channels, valid, AFTER)
    # x + before − centre = (x − mean) + (moved − centre)
    return slope * inverse, (moved - centre - mean) * inverse * slope + level, centre, inverse


@triton.jit
def keep_factors(
    channel, group, mean, slope, level, centre, inverse, channels, valid, n, C, G, size, channel_plane, group_plane
):  # fmt: skip
    """Stores mean and factors per channel, and mean and 1/std per group, for the backward pass."""
    target = channel + n * C + channels
    tl.store(target, mean, mask=valid)
    tl.store(target + channel_plane, slope, mask=valid)
    tl.store(target + 2 * channel_plane, level, mask=valid)
    first = valid & (channels % size == 0)
    tl.store(group + n * G + channels // size, centre, mask=first)
    tl.store(group + group_plane + n * G + channels // size, inverse, mask=first)


@triton.jit
def backward_factors(
    total, moment, kind, channel, group, out, channels, valid, n, gamma, beta, before, before_stride,
    scale, scale_stride, positions, C, G, size, channel_plane, group_plane,
    BEFORE: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Computes p and q of ``dx = a du + p x + q`` from the sums of du and du (x − mean); stores vector gradients."""
    mean = tl.load(channel + n * C + channels, mask=valid, other=0.0)
    centre = tl.load(group + n * G + channels // size, mask=valid, other=0.0)
    inverse = tl.load(group + group_plane + n * G + channels // size, mask=valid, other=0.0)
    shift = entries(before, before_stride, n, channels, valid, BEFORE)
    # Sum of du times the normalised map.
    product = inverse * (moment + (mean + shift - centre) * total)
    factor = 1 + entries(scale, scale_stride, n, channels, valid, SCALE)
    plain, bias = tl.load(gamma + channels, mask=valid, other=0.0), tl.load(beta + channels, mask=valid, other=0.0)
    slope = tl.where(valid, plain * factor, 0.0)
    one = over_group(slope * total, kind) / (size * positions)
    two = over_group(slope * product, kind) / (size * positions)
    p = -inverse * inverse * two
    q = -inverse * one - p * (centre - shift)
    target = out + n * C + channels
    tl.store(target, product * factor, mask=valid)
    tl.store(target + channel_plane, total * factor, mask=valid)
    tl.store(target + 2 * channel_plane, slope * inverse * total + (p * mean + q) * positions, mask=valid)
    tl.store(target + 3 * channel_plane, plain * product + bias * total, mask=valid)
    tl.store(target + 4 * channel_plane, total, mask=valid)
    return p, q


@triton.jit
def gradient_of_u(
    x, grad, y, n, row, col, inside, slope, level, positions, C, stride, dropout,
    SILU: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Gradient of u, and x, at a tile. An element with y = 0 was dropped, or its derivative is nearly 0."""
    base = n.to(tl.int64) * positions
    values = tl.load(x + base * C + row * C + col, mask=inside, other=0.0).to(tl.float32)
    du = tl.load(grad + base * stride + row * stride + col, mask=inside, other=0.0).to(tl.float32)
    if DROP:
        kept = tl.load(y + base * C + row * C + col, mask=inside, other=0.0) != 0
        du = tl.where(kept, du / (1 - dropout), 0.0)
    if SILU:
        du = du * silu_slope(slope * values + level)
    return du, values


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
    valid = channels < C
    pivot = tl.load(x + base + chunk * BLOCK * C + channels, mask=valid, other=0.0).to(tl.float32)
    away = tl.where(inside, values - pivot[None, :], 0.0)
    off = tl.sum(away, 0) / count
    square = tl.maximum(tl.sum(away * away, 0) - off * off * count, 0.0)
    place = (n * tl.num_programs(1) + chunk) * C + channels
    tl.store(partial + place, pivot + off, mask=valid)
    tl.store(partial + plane + place, square, mask=valid)


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
    channels, valid = tl.program_id(1) * size + lane, lane < size
    chunk = tl.arange(0, CHUNKS)[:, None]
    inside = (chunk < chunks) & valid[None, :]
    place = (n * chunks + chunk) * C + channels[None, :]
    counts = tl.where(chunk < chunks, tl.minimum(positions - chunk * BLOCK, BLOCK), 0).to(tl.float32)
    means = tl.load(partial + place, mask=inside, other=0.0)
    squares = tl.load(partial + plane + place, mask=inside, other=0.0)
    mean = tl.sum(means * counts, 0) / positions
    away = tl.where(inside, means - mean[None, :], 0.0)
    square = tl.sum(squares + away * away * counts, 0)
    slope, level, centre, inverse = forward_factors(
        mean, square, lane * 0, channels, valid, n, gamma, beta, before, before_stride, scale, scale_stride,
        after, after_stride, positions, size, eps, BEFORE, SCALE, AFTER,
    )  # fmt: skip
    keep_factors(
        channel, group, mean, slope, level, centre, inverse, channels, valid, n, C, G, size, channel_plane, group_plane
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
    channels, valid = tl.program_id(1) * size + lane, lane < size
    chunk = tl.arange(0, CHUNKS)[:, None]
    inside = (chunk < chunks) & valid[None, :]
    place = (n * chunks + chunk) * C + channels[None, :]
    total = tl.sum(tl.load(partial + place, mask=inside, other=0.0), 0)
    moment = tl.sum(tl.load(partial + plane + place, mask=inside, other=0.0), 0)
    p, q = backward_factors(
        total, moment, lane * 0, channel, group, out, channels, valid, n, gamma, beta, before, before_stride,
        scale, scale_stride, positions, C, G, size, channel_plane, group_plane, BEFORE, SCALE,
    )  # fmt: skip
    tl.store(factors + n * C + channels, p, mask=valid)
    tl.store(factors + channel_plane + n * C + channels, q, mask=valid)


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


@triton.jit
def norm_whole(
    x, y, channel, group, seed, gamma, beta, before, before_stride, scale, scale_stride, after, after_stride,
    positions, C, G, eps, channel_plane, group_plane, dropout,
    SIZE: tl.constexpr, STEP: tl.constexpr, SILU: tl.constexpr, DROP: tl.constexpr,
    BEFORE: tl.constexpr, SCALE: tl.constexpr, AFTER: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Computes y of ``STEP`` channels of a sample, and the factors for the backward pass."""
    n, lane = tl.program_id(1), tl.arange(0, WIDTH)
    begin = tl.program_id(0) * STEP
    channels = begin + lane
    valid = (lane < STEP) & (channels < C)
    base = n.to(tl.int64) * positions * C
    # Deviations from a value of the same channel: one pass suffices, and a large mean costs no digits.
    pivot = tl.load(x + base + channels, mask=valid, other=0.0).to(tl.float32)
    # Each thread sums its own positions; the threads' sums are added once, after the loop.
    total, square = tl.zeros((BLOCK, WIDTH), dtype=tl.float32), tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        inside = (row < positions) & valid[None, :]
        values = tl.load(x + base + row * C + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        away = tl.where(inside, values - pivot[None, :], 0.0)
        total += away
        square += away * away
    off = tl.sum(total, 0) / positions
    mean, spread = pivot + off, tl.maximum(tl.sum(square, 0) - off * off * positions, 0.0)
    kind = lane // SIZE
    slope, level, centre, inverse = forward_factors(
        mean, spread, kind, channels, valid, n, gamma, beta, before, before_stride, scale, scale_stride,
        after, after_stride, positions, SIZE, eps, BEFORE, SCALE, AFTER,
    )  # fmt: skip
    keep_factors(
        channel, group, mean, slope, level, centre, inverse, channels, valid, n, C, G, SIZE, channel_plane, group_plane
    )
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        place = row * C + channels[None, :]
        inside = (row < positions) & valid[None, :]
        u = slope[None, :] * tl.load(x + base + place, mask=inside, other=0.0).to(tl.float32) + level[None, :]
        if SILU:
            u = silu(u)
        if DROP:
            u = dropped(u, seed, n * positions + row, begin, C, dropout, BLOCK, WIDTH)
        tl.store(y + base + place, u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def gradient_whole(
    x, grad, y, channel, group, beside, dx, out, gamma, beta, before, before_stride, scale, scale_stride,
    positions, C, G, stride, beside_stride, channel_plane, group_plane, dropout,
    SIZE: tl.constexpr, STEP: tl.constexpr, SILU: tl.constexpr, DROP: tl.constexpr, BESIDE: tl.constexpr,
    DX: tl.constexpr, BEFORE: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of the vectors for ``STEP`` channels of a sample, and of x, with that from other operations."""
    n, lane = tl.program_id(1), tl.arange(0, WIDTH)
    channels = tl.program_id(0) * STEP + lane
    valid = (lane < STEP) & (channels < C)
    target = channel + n * C + channels
    mean = tl.load(target, mask=valid, other=0.0)
    slope = tl.load(target + channel_plane, mask=valid, other=0.0)
    level = tl.load(target + 2 * channel_plane, mask=valid, other=0.0)
    total, moment = tl.zeros((BLOCK, WIDTH), dtype=tl.float32), tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        inside = (row < positions) & valid[None, :]
        du, values = gradient_of_u(
            x, grad, y, n, row, channels[None, :], inside, slope[None, :], level[None, :], positions, C, stride,
            dropout, SILU, DROP,
        )  # fmt: skip
        total += du
        moment += du * (values - mean[None, :])
    p, q = backward_factors(
        tl.sum(total, 0), tl.sum(moment, 0), lane // SIZE, channel, group, out, channels, valid, n, gamma, beta,
        before, before_stride, scale, scale_stride, positions, C, G, SIZE, channel_plane, group_plane, BEFORE, SCALE,
    )  # fmt: skip
    if DX:
        base = n.to(tl.int64) * positions
        for start in range(0, positions, BLOCK):
            row = start + tl.arange(0, BLOCK)[:, None]
            inside = (row < positions) & valid[None, :]
            du, values = gradient_of_u(
                x, grad, y, n, row, channels[None, :], inside, slope[None, :], level[None, :], positions, C, stride,
                dropout, SILU, DROP,
            )  # fmt: skip
            result = slope[None, :] * du + p[None, :] * values + q[None, :]
            if BESIDE:
                place = base * beside_stride + row * beside_stride + channels[None, :]
                result += tl.load(beside + place, mask=inside, other=0.0).to(tl.float32)
            place = base * C + row * C + channels[None, :]
            tl.store(dx + place, result.to(dx.dtype.element_ty), mask=inside)
