"""Kernels of :mod:`sida.kernels.group_norm` for small maps: one forward, one backward.

A program reads the channels of some groups of a sample at all positions, once for the sums and once for the result;
the second read hits the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sida.kernels.elements import dropped, silu
from sida.kernels.group_norm_factors import backward_factors, forward_factors, gradient_of_u, keep_factors


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
    there = (lane < STEP) & (channels < C)
    base = n.to(tl.int64) * positions * C
    # Deviations from a value of the same channel: one pass suffices, and a large mean costs no digits.
    pivot = tl.load(x + base + channels, mask=there, other=0.0).to(tl.float32)
    # Each thread sums its own positions; the threads' sums are added once, after the loop.
    total, square = tl.zeros((BLOCK, WIDTH), dtype=tl.float32), tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        inside = (row < positions) & there[None, :]
        values = tl.load(x + base + row * C + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        away = tl.where(inside, values - pivot[None, :], 0.0)
        total += away
        square += away * away
    off = tl.sum(total, 0) / positions
    mean, spread = pivot + off, tl.maximum(tl.sum(square, 0) - off * off * positions, 0.0)
    kind = lane // SIZE
    slope, level, centre, inverse = forward_factors(
        mean, spread, kind, channels, there, n, gamma, beta, before, before_stride, scale, scale_stride,
        after, after_stride, positions, SIZE, eps, BEFORE, SCALE, AFTER,
    )  # fmt: skip
    keep_factors(
        channel, group, mean, slope, level, centre, inverse, channels, there, n, C, G, SIZE, channel_plane, group_plane
    )
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        place = row * C + channels[None, :]
        inside = (row < positions) & there[None, :]
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
    there = (lane < STEP) & (channels < C)
    here = channel + n * C + channels
    mean = tl.load(here, mask=there, other=0.0)
    slope = tl.load(here + channel_plane, mask=there, other=0.0)
    level = tl.load(here + 2 * channel_plane, mask=there, other=0.0)
    total, moment = tl.zeros((BLOCK, WIDTH), dtype=tl.float32), tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        inside = (row < positions) & there[None, :]
        du, values = gradient_of_u(
            x, grad, y, n, row, channels[None, :], inside, slope[None, :], level[None, :], positions, C, stride,
            dropout, SILU, DROP,
        )  # fmt: skip
        total += du
        moment += du * (values - mean[None, :])
    p, q = backward_factors(
        tl.sum(total, 0), tl.sum(moment, 0), lane // SIZE, channel, group, out, channels, there, n, gamma, beta,
        before, before_stride, scale, scale_stride, positions, C, G, SIZE, channel_plane, group_plane, BEFORE, SCALE,
    )  # fmt: skip
    if DX:
        base = n.to(tl.int64) * positions
        for start in range(0, positions, BLOCK):
            row = start + tl.arange(0, BLOCK)[:, None]
            inside = (row < positions) & there[None, :]
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
