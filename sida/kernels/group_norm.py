"""Group normalisation with everything that stands beside it in a U-Net block, in three passes over a feature map.

    u = (1 + scale) (γ (x + before − mean) / std + β) + after;    y = dropout(silu(u))

Maps are channels-last, so each position's channels are contiguous. Forward: partial statistics, their combination per
group, and one pass that writes y. Backward: partial sums, their combination, one pass that writes dx; all gradients of
the vectors follow from the sums. u, the normalised map and the mask are never stored.

Source: group normalisation (arXiv:1803.08494); its use in U-Net blocks: EDM (arXiv:2206.00364), appendix F.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.elements import dropped, silu, silu_slope
from sida.kernels.maps import like_map, rows, tile


class Affine(NamedTuple):
    """Vectors of a normalisation; each but the first two may be None.

    Attributes:
        gamma: Float32 ``(C,)``.
        beta: Float32 ``(C,)``.
        before: Added to the map first, ``(N or 1, C)``: a convolution's bias, an embedding's shift.
        scale: See the module, ``(N or 1, C)``.
        after: See the module, ``(N or 1, C)``.
    """

    gamma: Tensor
    beta: Tensor
    before: Tensor | None = None
    scale: Tensor | None = None
    after: Tensor | None = None


def norm_act(x: Tensor, affine: Affine, groups: int, eps: float, silu: bool = True, dropout: float = 0.0) -> Tensor:
    """The module's y for a map ``(N, C, H, W)``, of the same dtype and in channels-last memory.

    Args:
        x: float16, bfloat16 or float32.
        affine: Vectors.
        groups: Number of groups; divides C.
        eps: Added to the variance.
        silu: Whether the activation follows.
        dropout: Probability of zeroing an element; kept ones are scaled by its complement's inverse.
    """
    result: Tensor = _NormAct.apply(x, *affine, groups, eps, silu, dropout)
    return result


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        affine, (groups, eps, silu, dropout) = Affine(*rest[:5]), rest[5:]
        affine = Affine(*(None if v is None else v.float().contiguous() for v in affine))  # type: ignore[arg-type]
        x = rows(x)
        n, c, height, width = x.shape
        positions = height * width
        block, width_c, warps = tile(c)
        chunks = triton.cdiv(positions, block)
        partial = x.new_empty((2, n, chunks, c), dtype=torch.float32)
        _moments[(n, chunks)](x, partial, positions, c, n * chunks * c, block, width_c, num_warps=warps)
        # Per sample and channel: its mean, and the two factors of u = a x + b; per group: mean and 1/std.
        channel, group = x.new_empty((3, n, c), dtype=torch.float32), x.new_empty((2, n, groups), dtype=torch.float32)
        _combine_moments[(n, groups)](
            partial,
            channel,
            group,
            *_with_strides(affine, x),
            positions,
            c,
            groups,
            eps,
            n * chunks * c,
            n * c,
            n * groups,
            chunks,
            block,
            _power(chunks),
            _power(c // groups),
            **_there(affine),
            num_warps=1,
        )
        y = torch.empty_like(x)
        seed = torch.randint(2**31, (1,), device=x.device) if dropout else x
        _apply[(n, chunks)](
            x, y, channel, seed, positions, c, n * c, dropout, silu, dropout > 0, block, width_c, num_warps=warps
        )
        ctx.save_for_backward(x, y if dropout else None, channel, group, *affine)
        ctx.settings = groups, silu, dropout
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y, channel, group, *vectors = ctx.saved_tensors
        affine = Affine(*vectors)
        groups, silu, dropout = ctx.settings
        n, c, height, width = x.shape
        positions = height * width
        block, width_c, warps = tile(c)
        chunks = triton.cdiv(positions, block)
        grad, stride = like_map(grads[0])
        partial = x.new_empty((2, n, chunks, c), dtype=torch.float32)
        masked = x if y is None else y
        flags = (n * c, dropout, silu, dropout > 0, block, width_c)
        _sums[(n, chunks)](
            x, grad, masked, channel, partial, positions, c, stride, n * chunks * c, *flags, num_warps=warps
        )
        # Factors of dx = a du + p x + q, and the vectors' gradients per sample: γ, β, before, scale, after.
        factors, out = x.new_empty((2, n, c), dtype=torch.float32), x.new_empty((5, n, c), dtype=torch.float32)
        _combine_sums[(n, groups)](
            partial,
            channel,
            group,
            factors,
            out,
            *_with_strides(affine, x),
            positions,
            c,
            groups,
            n * chunks * c,
            n * c,
            n * groups,
            chunks,
            _power(chunks),
            _power(c // groups),
            **_there(affine),
            num_warps=1,
        )
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            _input_gradient[(n, chunks)](
                x, grad, masked, channel, factors, dx, positions, c, stride, *flags, num_warps=warps
            )
        wanted = ctx.needs_input_grad[1:6]
        return (dx, *_vector_gradients(out, affine, wanted), None, None, None, None)


def _vector_gradients(out: Tensor, affine: Affine, wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """Gradients ``(5, N, C)`` in the vectors' shapes: those shared by the batch are summed over it, all at once."""
    shared = [want and v is not None and (v.ndim == 1 or v.shape[0] == 1) for want, v in zip(wanted, affine)]
    summed = out.sum(1) if any(shared) else None
    result: list[Tensor | None] = []
    for index, (want, vector) in enumerate(zip(wanted, affine)):
        if not want or vector is None:
            result.append(None)
        elif shared[index] and summed is not None:
            result.append(summed[index].reshape(vector.shape))
        else:
            result.append(out[index])
    return result


def _power(number: int) -> int:
    return int(triton.next_power_of_2(number))


def _with_strides(affine: Affine, filler: Tensor) -> list[Any]:
    """γ, β, then each optional vector with the stride of its samples (0: shared)."""
    arguments: list[Any] = [affine.gamma, affine.beta]
    for vector in affine[2:]:
        stride = 0 if vector is None or vector.shape[0] == 1 else vector.shape[1]
        arguments += [filler if vector is None else vector, stride]
    return arguments


def _there(affine: Affine) -> dict[str, bool]:
    """Which of the optional vectors there are."""
    return {name.upper(): getattr(affine, name) is not None for name in ("before", "scale", "after")}


@triton.jit
def _moments(x, partial, positions, C, plane, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
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
def _combine_moments(
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
def _apply(
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
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.arange(0, WIDTH)[None, :]
    inside = (row < positions) & (col < C)
    base = n.to(tl.int64) * positions * C
    offset = row * C + col
    values = tl.load(x + base + offset, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(channel + plane + n * C + col, mask=col < C, other=0.0)
    level = tl.load(channel + 2 * plane + n * C + col, mask=col < C, other=0.0)
    u = slope * values + level
    if SILU:
        u = silu(u)
    if DROP:
        u = dropped(u, seed, n * positions * C + offset, dropout)
    tl.store(y + base + offset, u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _du(x, grad, y, channel, n, row, col, positions, C, stride, plane, dropout, SILU: tl.constexpr, DROP: tl.constexpr):
    """Gradient of u, and x, at a tile. Where y is 0 it was dropped (or its derivative is as good as 0)."""
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
def _sums(
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
def _combine_sums(
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
def _input_gradient(
    x,
    grad,
    y,
    channel,
    factors,
    dx,
    positions,
    C,
    stride,
    plane,
    dropout,
    SILU: tl.constexpr,
    DROP: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    n, chunk = tl.program_id(0), tl.program_id(1)
    row = chunk * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.arange(0, WIDTH)[None, :]
    du, values = _du(x, grad, y, channel, n, row, col, positions, C, stride, plane, dropout, SILU, DROP)
    inside = (row < positions) & (col < C)
    a = tl.load(channel + plane + n * C + col, mask=col < C, other=0.0)
    p = tl.load(factors + n * C + col, mask=col < C, other=0.0)
    q = tl.load(factors + plane + n * C + col, mask=col < C, other=0.0)
    result = a * du + p * values + q
    place = n.to(tl.int64) * positions * C + row * C + col
    tl.store(dx + place, result.to(dx.dtype.element_ty), mask=inside)
