"""Group normalisation fused with the shift, scale, activation and dropout around it in a U-Net block.

    u = (1 + scale) (γ (x + before − mean) / std + β) + after;    y = dropout(silu(u))

Maps are channels-last, so each position's channels are contiguous. Small maps take one kernel forward and one backward,
in which a program reads the channels of some groups of a sample at all positions, once for the sums and once for the
result; the second read hits the cache. The positions of large maps are shared among programs, in three passes each way:
partial statistics, their combination per group, one pass that writes y; backward partial sums, their combination, one
pass that writes dx. All gradients of the vectors follow from the sums. u, the normalised map and the mask are never
stored.

Source: group normalisation (arXiv:1803.08494); its use in U-Net blocks: EDM (arXiv:2206.00364), appendix F.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.pointwise import channel_rows, dropped, like_map, narrow_tile, row_of, silu, silu_slope, tile_size

#: Largest number of positions of a map that one kernel reads whole, twice.
MAX_WHOLE_POSITIONS = 1024


class Affine(NamedTuple):
    """Vectors of a normalisation; each but the first two may be None.

    Attributes:
        gamma: Float32 ``(C,)``, or that expanded to ``(N, C)``, whose gradient is not summed over the samples.
        beta: As ``gamma``.
        before: Shift of the map before normalisation, ``(N or 1, C)``: a convolution's bias, an embedding's shift.
        scale: Factor 1 + scale of the normalised map, ``(N or 1, C)``.
        after: Shift of the scaled map, ``(N or 1, C)``.
    """

    gamma: Tensor
    beta: Tensor
    before: Tensor | None = None
    scale: Tensor | None = None
    after: Tensor | None = None


def norm_act(
    x: Tensor,
    affine: Affine,
    groups: int,
    eps: float,
    silu: bool = True,
    dropout: float = 0.0,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Normalises and activates a map ``(N, C, H, W)``: y as in the module's equation, and x itself.

    y has the dtype of x and lies in channels-last memory. Compute everything else that depends on x from the second
    result: both gradients are then summed in the last pass.

    Args:
        x: float16, bfloat16 or float32.
        affine: Vectors of the normalisation.
        groups: Number of groups; divides C.
        eps: Constant added to the variance.
        silu: Whether SiLU follows.
        dropout: Probability p of zeroing an element; the others are divided by 1 − p.
        recompute: Whether :func:`sida.kernels.fused.recomputed` is used with y.
    """
    result: tuple[Tensor, Tensor] = _NormAct.apply(x, *affine, groups, eps, silu, dropout, recompute)
    return result


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        affine, (groups, eps, silu, dropout, recompute) = Affine(*rest[:5]), rest[5:]
        affine = Affine(*(None if v is None else _rows(v) for v in affine))  # type: ignore[arg-type]
        x = channel_rows(x)
        n, c = x.shape[:2]
        # Per sample and channel: its mean, and the two factors of u = a x + b; per group: mean and 1/std.
        channel, group = x.new_empty((3, n, c), dtype=torch.float32), x.new_empty((2, n, groups), dtype=torch.float32)
        seed = torch.randint(2**31, (1,), device=x.device) if dropout else None
        y = (_whole if _is_small(x) else _in_passes)(_Norm(x, affine, channel, group, silu, dropout), seed, eps)
        ctx.save_for_backward(
            x, y if dropout and not recompute else None, seed if recompute else None, channel, group, *affine
        )
        ctx.settings = silu, dropout
        ctx.remake = _NormAct.remake
        ctx.set_materialize_grads(False)
        return y, x.view_as(x)

    @staticmethod
    def remake(ctx: Any) -> Tensor:
        """Recomputes y from the tensors saved for the backward pass."""
        x, _, seed, channel, *_ = ctx.saved_tensors
        return _applied(x, channel, seed, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        of_y, beside = grads
        if of_y is None:
            return beside, *[None] * 10
        x, y, seed, channel, group, *vectors = ctx.saved_tensors
        if seed is not None:
            y = _NormAct.remake(ctx)
        norm = _Norm(x, Affine(*vectors), channel, group, *ctx.settings)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        out = (_gradient_whole if _is_small(x) else _gradient_in_passes)(norm, of_y, y, beside, dx)
        return (dx, *_vector_gradients(out, norm.affine, ctx.needs_input_grad[1:6]), None, None, None, None, None)


class _Norm(NamedTuple):
    """Arguments of :func:`norm_act`, and factors per channel and group that the forward pass fills."""

    x: Tensor
    affine: Affine
    channel: Tensor
    group: Tensor
    silu: bool
    dropout: float


def _is_small(x: Tensor) -> bool:
    return x.shape[2] * x.shape[3] <= MAX_WHOLE_POSITIONS


def _step(c: int, groups: int) -> tuple[int, int]:
    """Channels of a group, and channels of a program: whole groups, at least 16 and a multiple of 8."""
    size = c // groups
    count = next(count for count in range(1, 17) if count * size >= 16 and count * size % 8 == 0)
    return size, count * size


def _whole(norm: _Norm, seed: Tensor | None, eps: float) -> Tensor:
    """Computes y by one kernel; fills ``channel`` and ``group``."""
    x, affine, channel, group, silu, dropout = norm
    n, c, height, width = x.shape
    groups = group.shape[2]
    size, step = _step(c, groups)
    block, width_c, warps = narrow_tile(step)
    y = torch.empty_like(x)
    norm_whole[(triton.cdiv(c, step), n)](
        x, y, channel, group, x if seed is None else seed, *_with_strides(affine, x), height * width, c, groups, eps,
        n * c, n * groups, dropout, size, step, silu, seed is not None, *_given(affine), block, width_c,
        num_warps=warps,
    )  # fmt: skip
    return y


def _gradient_whole(norm: _Norm, of_y: Tensor, y: Tensor | None, beside: Tensor | None, dx: Tensor | None) -> Tensor:
    """Gradients ``(5, N, C)`` of the vectors per sample: γ, β, before, scale, after; fills ``dx``."""
    x, affine, channel, group, silu, dropout = norm
    n, c, height, width = x.shape
    groups = group.shape[2]
    size, step = _step(c, groups)
    block, width_c, warps = narrow_tile(step)
    (grad, stride), (other, other_stride) = like_map(of_y), (x, c) if beside is None else like_map(beside)
    out = x.new_empty((5, n, c), dtype=torch.float32)
    gradient_whole[(triton.cdiv(c, step), n)](
        x, grad, x if y is None else y, channel, group, other, x if dx is None else dx, out,
        *_with_strides(affine, x)[:-2], height * width, c, groups, stride, other_stride, n * c, n * groups, dropout,
        size, step, silu, dropout > 0, beside is not None, dx is not None, *_given(affine)[:2], block, width_c,
        num_warps=warps,
    )  # fmt: skip
    return out


def _in_passes(norm: _Norm, seed: Tensor | None, eps: float) -> Tensor:
    """Computes y by three kernels; see :func:`_whole`."""
    x, affine, channel, group, silu, dropout = norm
    n, c, height, width = x.shape
    positions, groups = height * width, group.shape[2]
    block, width_c, warps, tiles = tile_size(c)
    chunks = triton.cdiv(positions, block)
    partial = x.new_empty((2, n, chunks, c), dtype=torch.float32)
    moments[(n, chunks, tiles)](x, partial, positions, c, n * chunks * c, block, width_c, num_warps=warps)
    combine_moments[(n, groups)](
        partial, channel, group, *_with_strides(affine, x), positions, c, groups, eps, n * chunks * c, n * c,
        n * groups, chunks, block, _power(chunks), _power(c // groups), *_given(affine), num_warps=1,
    )  # fmt: skip
    return _applied(x, channel, seed, silu, dropout)


def _gradient_in_passes(
    norm: _Norm, of_y: Tensor, y: Tensor | None, beside: Tensor | None, dx: Tensor | None
) -> Tensor:
    """Computes the gradients by three kernels; see :func:`_gradient_whole`."""
    x, affine, channel, group, silu, dropout = norm
    n, c, height, width = x.shape
    positions, groups = height * width, group.shape[2]
    block, width_c, warps, tiles = tile_size(c)
    chunks = triton.cdiv(positions, block)
    grad, stride = like_map(of_y)
    partial = x.new_empty((2, n, chunks, c), dtype=torch.float32)
    masked = x if y is None else y
    norm_sums[(n, chunks, tiles)](
        x, grad, masked, channel, partial, positions, c, stride, n * chunks * c, n * c, dropout,
        silu, dropout > 0, block, width_c, num_warps=warps,
    )  # fmt: skip
    # Factors of dx = a du + p x + q.
    factors, out = x.new_empty((2, n, c), dtype=torch.float32), x.new_empty((5, n, c), dtype=torch.float32)
    combine_sums[(n, groups)](
        partial, channel, group, factors, out, *_with_strides(affine, x)[:-2], positions, c, groups, n * chunks * c,
        n * c, n * groups, chunks, _power(chunks), _power(c // groups), *_given(affine)[:2], num_warps=1,
    )  # fmt: skip
    if dx is not None:
        other, other_stride = (x, c) if beside is None else like_map(beside)
        input_gradient[(n, chunks, tiles)](
            x, grad, masked, channel, factors, other, dx, positions, c, stride, other_stride, n * c, dropout,
            silu, dropout > 0, beside is not None, block, width_c, num_warps=warps,
        )  # fmt: skip
    return out


def _applied(x: Tensor, channel: Tensor, seed: Tensor | None, silu: bool, dropout: float) -> Tensor:
    """Computes y from the factors per channel; ``seed`` is that of the dropout."""
    n, c, height, width = x.shape
    block, width_c, warps, tiles = tile_size(c)
    y = torch.empty_like(x)
    norm_apply[(n, triton.cdiv(height * width, block), tiles)](
        x, y, channel, x if seed is None else seed, height * width, c, n * c, dropout, silu, seed is not None,
        block, width_c, num_warps=warps,
    )  # fmt: skip
    return y


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


def _rows(vector: Tensor) -> Tensor:
    """A vector in float32 whose channels are contiguous."""
    vector = vector.float()
    return vector if vector.stride(-1) == 1 else vector.contiguous()


def _power(number: int) -> int:
    return int(triton.next_power_of_2(number))


def _with_strides(affine: Affine, filler: Tensor) -> list[Any]:
    """γ, β, then each optional vector with the stride of its samples (0: shared)."""
    arguments: list[Any] = [affine.gamma, affine.beta]
    for vector in affine[2:]:
        stride = 0 if vector is None or vector.shape[0] == 1 else vector.stride(0)
        arguments += [filler if vector is None else vector, stride]
    return arguments


def _given(affine: Affine) -> tuple[bool, bool, bool]:
    """Whether each of the optional vectors is given."""
    return affine.before is not None, affine.scale is not None, affine.after is not None


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
