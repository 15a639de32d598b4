"""Factors of :mod:`sida.kernels.group_norm` computed from sums over positions, for the channels of whole groups.

A vector has one entry for each channel of a program; ``kind`` numbers the channel's group, and ``there`` is false for
lanes without a channel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sida.kernels.elements import silu_slope


@triton.jit
def over_group(vector, kind):
    """Sums a vector over each channel's group."""
    return tl.sum(tl.where(kind[:, None] == kind[None, :], vector[None, :], 0.0), 1)


@triton.jit
def entries(pointer, stride, n, channels, there, GIVEN: tl.constexpr):
    """Loads the entries of an optional vector, or zeros."""
    value = tl.zeros_like(channels).to(tl.float32)
    if GIVEN:
        value = tl.load(pointer + n * stride + channels, mask=there, other=0.0)
    return value


@triton.jit
def forward_factors(
    mean, square, kind, channels, there, n, gamma, beta, before, before_stride, scale, scale_stride,
    after, after_stride, positions, size, eps,
    BEFORE: tl.constexpr, SCALE: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """``u = slope x + level``, with the group's mean and 1/std, from each channel's mean and squared deviations.

    Source: Chan's combination of moments, over the channels of a group.
    """
    moved = tl.where(there, mean + entries(before, before_stride, n, channels, there, BEFORE), 0.0)
    centre = over_group(moved, kind) / size
    off = tl.where(there, moved - centre, 0.0)
    variance = over_group(square + off * off * positions, kind) / (size * positions)
    inverse = 1 / tl.sqrt(variance + eps)
    factor = 1 + entries(scale, scale_stride, n, channels, there, SCALE)
    slope = tl.load(gamma + channels, mask=there, other=0.0) * factor
    level = tl.load(beta + channels, mask=there, other=0.0) * factor
    level += entries(after, after_stride, n, channels, there, AFTER)
    # x + before − centre = (x − mean) + (moved − centre)
    return slope * inverse, (moved - centre - mean) * inverse * slope + level, centre, inverse


@triton.jit
def keep_factors(
    channel, group, mean, slope, level, centre, inverse, channels, there, n, C, G, size, channel_plane, group_plane
):  # fmt: skip
    """Stores mean and factors per channel, and mean and 1/std per group, for the backward pass."""
    here = channel + n * C + channels
    tl.store(here, mean, mask=there)
    tl.store(here + channel_plane, slope, mask=there)
    tl.store(here + 2 * channel_plane, level, mask=there)
    first = there & (channels % size == 0)
    tl.store(group + n * G + channels // size, centre, mask=first)
    tl.store(group + group_plane + n * G + channels // size, inverse, mask=first)


@triton.jit
def backward_factors(
    total, moment, kind, channel, group, out, channels, there, n, gamma, beta, before, before_stride,
    scale, scale_stride, positions, C, G, size, channel_plane, group_plane,
    BEFORE: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Computes p and q of ``dx = a du + p x + q`` from the sums of du and du (x − mean); stores vector gradients."""
    mean = tl.load(channel + n * C + channels, mask=there, other=0.0)
    centre = tl.load(group + n * G + channels // size, mask=there, other=0.0)
    inverse = tl.load(group + group_plane + n * G + channels // size, mask=there, other=0.0)
    shift = entries(before, before_stride, n, channels, there, BEFORE)
    # Sum of du times the normalised map.
    product = inverse * (moment + (mean + shift - centre) * total)
    factor = 1 + entries(scale, scale_stride, n, channels, there, SCALE)
    plain, bias = tl.load(gamma + channels, mask=there, other=0.0), tl.load(beta + channels, mask=there, other=0.0)
    slope = tl.where(there, plain * factor, 0.0)
    one = over_group(slope * total, kind) / (size * positions)
    two = over_group(slope * product, kind) / (size * positions)
    p = -inverse * inverse * two
    q = -inverse * one - p * (centre - shift)
    here = out + n * C + channels
    tl.store(here, product * factor, mask=there)
    tl.store(here + channel_plane, total * factor, mask=there)
    tl.store(here + 2 * channel_plane, slope * inverse * total + (p * mean + q) * positions, mask=there)
    tl.store(here + 3 * channel_plane, plain * product + bias * total, mask=there)
    tl.store(here + 4 * channel_plane, total, mask=there)
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
