"""Group normalisation fused with the shift, scale, activation and dropout around it in a U-Net block.

    u = (1 + scale) (γ (x + before − mean) / std + β) + after;    y = dropout(silu(u))

Maps are channels-last, so each position's channels are contiguous. Small maps take one kernel forward and one backward:
a program reads the channels of some groups of a sample at all positions, once for the sums and once for the result; the
second read hits the cache. The positions of large maps are divided among programs, in three passes each way: partial
statistics, their combination per group, one pass that writes y; backward partial sums, their combination, one pass that
writes dx. All gradients of the vectors follow from the sums. u, the normalised map and the mask are never stored.

Source: group normalisation (arXiv:1803.08494); its use in U-Net blocks: EDM (arXiv:2206.00364), appendix F.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.plugins.kernels.pointwise import (
    activate,
    at,
    channel_rows,
    dropped,
    like_map,
    optional_map,
    read,
    silu,
    silu_slope,
    stride_of,
    tile_of,
    tiles,
    undropped,
)

#: Largest number of positions of a map that one program reads completely, twice.
MAX_WHOLE_POSITIONS = 1024


class Affine(NamedTuple):
    """Vectors of a normalisation; each but the first two may be None.

    Attributes:
        gamma: Float32 ``(C,)``, or expanded to ``(N, C)``; then the gradient is not summed over the samples.
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
    x: Tensor, affine: Affine, groups: int, eps: float, silu: bool = True, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Normalises and activates a map ``(N, C, H, W)``: y as in the module's equation, and x itself.

    y has the dtype of x and channels-last memory. Compute everything else that depends on x from the second result: the
    last pass then sums both gradients.

    Args:
        x: float16, bfloat16 or float32.
        affine: Vectors of the normalisation.
        groups: Number of groups; divides C.
        eps: Constant added to the variance.
        silu: Whether SiLU follows.
        dropout: Probability p of zeroing an element; the others are divided by 1 − p.
    """
    assert x.ndim == 4
    assert x.shape[1] % groups == 0
    return _NormAct.apply(x, *affine, groups, eps, silu, dropout)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        vectors, (groups, eps, silu, dropout) = [_rows(v) for v in rest[:5]], rest[5:]
        x = channel_rows(x)
        n, c = x.shape[:2]
        # The kernels fill them. Per sample and channel: mean, and both factors of u = a x + b; per group: mean, 1/std.
        channel, group = x.new_empty((3, n, c), dtype=torch.float32), x.new_empty((2, n, groups), dtype=torch.float32)
        # A tensor, since a CUDA graph would repeat a number in each replay.
        seed = torch.randint(2**31, (1,), device=x.device) if dropout else None
        y = _normalised(x, channel, group, _with_strides(vectors), eps, silu, seed, dropout)
        # y tells which elements were dropped.
        ctx.save_for_backward(x, y if dropout else None, channel, group, *vectors)
        ctx.settings = silu, dropout
        # Missing gradients stay None, so that no kernel reads zeros.
        ctx.set_materialize_grads(False)
        # The view brings the gradients of all other uses of x to ``backward``.
        return y, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        y_grad, other_grad = grads
        if y_grad is None:
            return other_grad, *[None] * 9
        x, y, channel, group, *vectors = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        maps = (x, *like_map(y_grad), y, *optional_map(other_grad), dx)
        # No gradient depends on the value of the last vector, ``after``.
        out = _gradients(maps, channel, group, _with_strides(vectors[:4]), *ctx.settings)
        return dx, *_vector_gradients(out, vectors, ctx.needs_input_grad[1:6]), None, None, None, None


def _rows(vector: Tensor | None) -> Tensor | None:
    """A vector in float32 whose channels are contiguous."""
    if vector is None:
        return None
    vector = vector.float()
    return vector if vector.stride(-1) == 1 else vector.contiguous()


def _with_strides(vectors: list[Any]) -> list[Any]:
    """γ, β, then each optional vector with the stride of its samples."""
    return [*vectors[:2], *(value for vector in vectors[2:] for value in (vector, stride_of(vector)))]


def _vector_gradients(out: Tensor, vectors: list[Any], wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """Brings gradients ``(5, N, C)`` to the vectors' shapes: vectors that a batch shares get the sum over the batch."""
    shared = [want and (v.ndim == 1 or len(v) == 1) for v, want in zip(vectors, wanted)]
    summed = out.sum(1) if any(shared) else out
    return [
        (summed[i].reshape(vector.shape) if shared[i] else out[i]) if wanted[i] else None
        for i, vector in enumerate(vectors)
    ]


def _part(c: int, groups: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Channels of a group and of a program (whole groups, at least 16 and a multiple of 8), and the size of a tile."""
    size = c // groups
    # 16 channels of half precision are one 32-byte sector of memory; 8 make one 16-byte load.
    step = next(count * size for count in range(1, 17) if count * size >= 16 and count * size % 8 == 0)
    width = int(triton.next_power_of_2(step))
    return (size, step), {"BLOCK": max(1, 2048 // width), "WIDTH": width, "num_warps": 4}


def _normalised(
    x: Tensor, channel: Tensor, group: Tensor, vectors: list[Any], eps: float, silu: bool, seed: Tensor | None,
    dropout: float,
) -> Tensor:  # fmt: skip
    """Computes y, by one kernel or three; fills ``channel`` and ``group``."""
    n, c, height, width = x.shape
    positions, groups = height * width, group.shape[2]
    if positions <= MAX_WHOLE_POSITIONS:
        (size, step), sizes = _part(c, groups)
        y = torch.empty_like(x)
        norm_whole[(triton.cdiv(c, step), n)](
            x, y, channel, group, *vectors, seed, positions, c, eps, dropout, silu, size, step, **sizes
        )
        return y
    (chunks, parts), sizes = tiles(positions, c)
    partial = channel.new_empty((2, n, chunks, c))
    moments[(n, chunks, parts)](x, partial, positions, c, **sizes)
    combine_moments[(n, groups)](
        partial, channel, group, *vectors, positions, c, eps, chunks, sizes["BLOCK"], *_powers(chunks, c // groups),
        num_warps=1,
    )  # fmt: skip
    return activate(x, channel[1], channel[2], silu, seed, dropout)


def _gradients(
    maps: tuple[Any, ...], channel: Tensor, group: Tensor, vectors: list[Any], silu: bool, dropout: float
) -> Tensor:
    """Gradients ``(5, N, C)`` of the vectors per sample: γ, β, before, scale, after; fills dx, the last map."""
    *inputs, other_grad, other_stride, dx = maps
    n, c, height, width = maps[0].shape
    positions, groups = height * width, group.shape[2]
    out = channel.new_empty((5, n, c))
    if positions <= MAX_WHOLE_POSITIONS:
        (size, step), sizes = _part(c, groups)
        gradient_whole[(triton.cdiv(c, step), n)](
            *maps, channel, group, out, *vectors, positions, c, dropout, silu, size, step, **sizes
        )
        return out
    (chunks, parts), sizes = tiles(positions, c)
    partial = channel.new_empty((2, n, chunks, c))
    norm_sums[(n, chunks, parts)](*inputs, channel, partial, positions, c, dropout, silu, **sizes)
    # Factors of dx = a du + p x + q.
    factors = channel.new_empty((2, n, c))
    combine_sums[(n, groups)](
        partial, channel, group, factors, out, *vectors, positions, c, chunks, *_powers(chunks, c // groups),
        num_warps=1,
    )  # fmt: skip
    if dx is not None:
        input_gradient[(n, chunks, parts)](
            *inputs, channel, factors, other_grad, other_stride, dx, positions, c, dropout, silu, **sizes
        )
    return out


def _powers(chunks: int, size: int) -> tuple[int, int]:
    return int(triton.next_power_of_2(chunks)), int(triton.next_power_of_2(size))


# The following kernels compute factors from sums over positions, for the channels of complete groups. A vector has one
# entry for each channel of a program; ``kind`` is the number of the channel's group, and ``valid`` is false for lanes
# without a channel. Partial results of large maps have the shape ``(quantity, N, chunks, C)``.


@triton.jit
def over_group(vector, kind):
    """Sums a vector over each channel's group."""
    return tl.sum(tl.where(kind[:, None] == kind[None, :], vector[None, :], 0.0), 1)


@triton.jit
def entries(pointer, stride, n, channels, valid):
    """Loads the entries of an optional vector, or zeros."""
    value = tl.zeros_like(channels).to(tl.float32)
    if pointer is not None:
        value = tl.load(pointer + n * stride + channels, mask=valid, other=0.0)
    return value


@triton.jit
def forward_factors(
    mean, square, kind, channels, valid, n, N, channel, group, gamma, beta, before, before_stride, scale, scale_stride,
    after, after_stride, positions, C, size, eps,
):  # fmt: skip
    """``u = slope x + level`` from each channel's mean and squared deviations.

    Stores mean and factors per channel, and the group's mean and 1/std, for the backward pass.

    Source: Chan's combination of moments, over the channels of a group.
    """
    moved = tl.where(valid, mean + entries(before, before_stride, n, channels, valid), 0.0)
    centre = over_group(moved, kind) / size
    deviation = tl.where(valid, moved - centre, 0.0)
    variance = over_group(square + deviation * deviation * positions, kind) / (size * positions)
    inverse = 1 / tl.sqrt(variance + eps)
    factor = 1 + entries(scale, scale_stride, n, channels, valid)
    slope = read(gamma + channels, valid) * factor
    level = read(beta + channels, valid) * factor
    level += entries(after, after_stride, n, channels, valid)
    # x + before − centre = (x − mean) + (moved − centre)
    level = (moved - centre - mean) * inverse * slope + level
    slope = slope * inverse
    target = channel + n * C + channels
    tl.store(target, mean, mask=valid)
    tl.store(target + N * C, slope, mask=valid)
    tl.store(target + 2 * N * C, level, mask=valid)
    first = valid & (channels % size == 0)
    target = group + n * (C // size) + channels // size
    tl.store(target, centre, mask=first)
    tl.store(target + N * (C // size), inverse, mask=first)
    return slope, level


@triton.jit
def backward_factors(
    total, moment, kind, channels, valid, n, N, channel, group, out, gamma, beta, before, before_stride,
    scale, scale_stride, positions, C, size,
):  # fmt: skip
    """Computes p and q of ``dx = a du + p x + q`` from the sums of du and du (x − mean); stores vector gradients."""
    mean = tl.load(channel + n * C + channels, mask=valid, other=0.0)
    source = group + n * (C // size) + channels // size
    centre, inverse = tl.load(source, mask=valid, other=0.0), tl.load(source + N * (C // size), mask=valid, other=0.0)
    shift = entries(before, before_stride, n, channels, valid)
    # Sum of du times the normalised map.
    product = inverse * (moment + (mean + shift - centre) * total)
    factor = 1 + entries(scale, scale_stride, n, channels, valid)
    plain, bias = read(gamma + channels, valid), read(beta + channels, valid)
    slope = tl.where(valid, plain * factor, 0.0)
    mean_du = over_group(slope * total, kind) / (size * positions)
    mean_product = over_group(slope * product, kind) / (size * positions)
    p = -inverse * inverse * mean_product
    q = -inverse * mean_du - p * (centre - shift)
    target = out + n * C + channels
    tl.store(target, product * factor, mask=valid)
    tl.store(target + N * C, total * factor, mask=valid)
    tl.store(target + 2 * N * C, slope * inverse * total + (p * mean + q) * positions, mask=valid)
    tl.store(target + 3 * N * C, plain * product + bias * total, mask=valid)
    tl.store(target + 4 * N * C, total, mask=valid)
    return p, q


@triton.jit
def gradient_of_u(
    x, grad, stride, y, n, row, channels, inside, slope, level, positions, C, dropout, SILU: tl.constexpr
):  # fmt: skip
    """Gradient of u, and x, at a tile."""
    values = read(at(x, n, row, channels, positions, C), inside)
    du = read(at(grad, n, row, channels, positions, stride), inside)
    if y is not None:
        du = undropped(du, at(y, n, row, channels, positions, C), inside, dropout)
    if SILU:
        du = du * silu_slope(slope * values + level)
    return du, values


@triton.jit
def moments(x, partial, positions, C, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Mean and sum of squared deviations per channel over a chunk of positions."""
    n, row, channels, inside = tile_of(positions, C, BLOCK, WIDTH)
    chunk, chunks, valid = tl.program_id(1), tl.num_programs(1), channels < C
    values = read(at(x, n, row, channels, positions, C), inside)
    count = tl.minimum(positions - chunk * BLOCK, BLOCK).to(tl.float32)
    # Deviations from a value of the same channel: one pass suffices, and a large mean costs no digits.
    pivot = read(x + n.to(tl.int64) * positions * C + chunk * BLOCK * C + channels, valid)
    deviation = tl.where(inside, values - pivot[None, :], 0.0)
    mean_deviation = tl.sum(deviation, 0) / count
    square = tl.maximum(tl.sum(deviation * deviation, 0) - mean_deviation * mean_deviation * count, 0.0)
    target = partial + (n * chunks + chunk) * C + channels
    tl.store(target, pivot + mean_deviation, mask=valid)
    tl.store(target + tl.num_programs(0) * chunks * C, square, mask=valid)


@triton.jit
def combine_moments(
    partial, channel, group, gamma, beta, before, before_stride, scale, scale_stride, after, after_stride,
    positions, C, eps, chunks, BLOCK: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Combines partial moments (Chan's formula), first over chunks, then over the channels of a group."""
    n, N, size = tl.program_id(0), tl.num_programs(0), C // tl.num_programs(1)
    lane, chunk = tl.arange(0, WIDTH), tl.arange(0, CHUNKS)[:, None]
    channels, valid = tl.program_id(1) * size + lane, lane < size
    index, inside = (n * chunks + chunk) * C + channels[None, :], (chunk < chunks) & valid[None, :]
    counts = tl.where(chunk < chunks, tl.minimum(positions - chunk * BLOCK, BLOCK), 0).to(tl.float32)
    means = read(partial + index, inside)
    squares = read(partial + N * chunks * C + index, inside)
    mean = tl.sum(means * counts, 0) / positions
    deviation = tl.where(inside, means - mean[None, :], 0.0)
    square = tl.sum(squares + deviation * deviation * counts, 0)
    forward_factors(
        mean, square, lane * 0, channels, valid, n, N, channel, group, gamma, beta, before, before_stride,
        scale, scale_stride, after, after_stride, positions, C, size, eps,
    )  # fmt: skip


@triton.jit
def chunk_of_du(x, grad, stride, y, channel, n, row, channels, inside, positions, C, dropout, SILU: tl.constexpr):
    """See :func:`gradient_of_u`; also the slope."""
    # Factors are loaded as rows in two dimensions, not by `row_of`: tiles then get a layout in which sums over
    # positions stay within a thread, and a thread holds the factors of fewer channels (64 registers instead of 100).
    source, valid = channel + n * C + channels[None, :], channels[None, :] < C
    plane = tl.num_programs(0) * C
    slope, level = read(source + plane, valid), read(source + 2 * plane, valid)
    du, values = gradient_of_u(
        x, grad, stride, y, n, row, channels, inside, slope, level, positions, C, dropout, SILU
    )  # fmt: skip
    return du, values, slope


@triton.jit
def norm_sums(
    x, grad, stride, y, channel, partial, positions, C, dropout,
    SILU: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sums of du and of du (x − channel mean) over a chunk, per channel."""
    n, row, channels, inside = tile_of(positions, C, BLOCK, WIDTH)
    du, values, _ = chunk_of_du(
        x, grad, stride, y, channel, n, row, channels, inside, positions, C, dropout, SILU
    )  # fmt: skip
    mean = read(channel + n * C + channels[None, :], channels[None, :] < C)
    target = partial + (n * tl.num_programs(1) + tl.program_id(1)) * C + channels
    plane = tl.num_programs(0) * tl.num_programs(1) * C
    tl.store(target, tl.sum(du, 0), mask=channels < C)
    tl.store(target + plane, tl.sum(du * (values - mean), 0), mask=channels < C)


@triton.jit
def combine_sums(
    partial, channel, group, factors, out, gamma, beta, before, before_stride, scale, scale_stride,
    positions, C, chunks, CHUNKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Computes the factors of dx and the gradients of the vectors, per group."""
    n, N, size = tl.program_id(0), tl.num_programs(0), C // tl.num_programs(1)
    lane, chunk = tl.arange(0, WIDTH), tl.arange(0, CHUNKS)[:, None]
    channels, valid = tl.program_id(1) * size + lane, lane < size
    index, inside = (n * chunks + chunk) * C + channels[None, :], (chunk < chunks) & valid[None, :]
    total = tl.sum(read(partial + index, inside), 0)
    moment = tl.sum(read(partial + N * chunks * C + index, inside), 0)
    p, q = backward_factors(
        total, moment, lane * 0, channels, valid, n, N, channel, group, out, gamma, beta, before, before_stride,
        scale, scale_stride, positions, C, size,
    )  # fmt: skip
    tl.store(factors + n * C + channels, p, mask=valid)
    tl.store(factors + N * C + n * C + channels, q, mask=valid)


@triton.jit
def store_dx(dx, result, other_grad, other_stride, n, row, channels, inside, positions, C):
    """Stores the gradient of x at a tile, plus the gradient from other operations."""
    if other_grad is not None:
        result += read(at(other_grad, n, row, channels, positions, other_stride), inside)
    tl.store(at(dx, n, row, channels, positions, C), result, mask=inside)


@triton.jit
def input_gradient(
    x, grad, stride, y, channel, factors, other_grad, other_stride, dx, positions, C, dropout,
    SILU: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradient of x at a chunk: ``a du + p x + q``."""
    n, row, channels, inside = tile_of(positions, C, BLOCK, WIDTH)
    du, values, slope = chunk_of_du(
        x, grad, stride, y, channel, n, row, channels, inside, positions, C, dropout, SILU
    )  # fmt: skip
    source, valid = factors + n * C + channels[None, :], channels[None, :] < C
    result = slope * du + read(source, valid) * values + read(source + tl.num_programs(0) * C, valid)
    store_dx(dx, result, other_grad, other_stride, n, row, channels, inside, positions, C)


@triton.jit
def norm_whole(
    x, y, channel, group, gamma, beta, before, before_stride, scale, scale_stride, after, after_stride,
    seed, positions, C, eps, dropout,
    SILU: tl.constexpr, SIZE: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Computes y of ``STEP`` channels of a sample, and the factors for the backward pass."""
    n, lane = tl.program_id(1), tl.arange(0, WIDTH)
    channels = tl.program_id(0) * STEP + lane
    valid = (lane < STEP) & (channels < C)
    # Deviations from a value of the same channel: one pass suffices, and a large mean costs no digits.
    pivot = read(x + n.to(tl.int64) * positions * C + channels, valid)
    # Each thread sums its own positions; the threads' sums are added once, after the loop.
    total, square = tl.zeros((BLOCK, WIDTH), dtype=tl.float32), tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        inside = (row < positions) & valid[None, :]
        deviation = tl.where(inside, read(at(x, n, row, channels, positions, C), inside) - pivot[None, :], 0.0)
        total += deviation
        square += deviation * deviation
    mean_deviation = tl.sum(total, 0) / positions
    mean = pivot + mean_deviation
    spread = tl.maximum(tl.sum(square, 0) - mean_deviation * mean_deviation * positions, 0.0)
    slope, level = forward_factors(
        mean, spread, lane // SIZE, channels, valid, n, tl.num_programs(1), channel, group, gamma, beta,
        before, before_stride, scale, scale_stride, after, after_stride, positions, C, SIZE, eps,
    )  # fmt: skip
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        inside = (row < positions) & valid[None, :]
        u = slope[None, :] * read(at(x, n, row, channels, positions, C), inside) + level[None, :]
        if SILU:
            u = silu(u)
        if seed is not None:
            u = dropped(u, seed, n * positions + row, tl.program_id(0) * STEP, C, dropout, BLOCK, WIDTH)
        tl.store(at(y, n, row, channels, positions, C), u, mask=inside)


@triton.jit
def gradient_whole(
    x, grad, stride, y, other_grad, other_stride, dx, channel, group, out, gamma, beta, before, before_stride,
    scale, scale_stride, positions, C, dropout,
    SILU: tl.constexpr, SIZE: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of the vectors for ``STEP`` channels of a sample, and of x."""
    n, N, lane = tl.program_id(1), tl.num_programs(1), tl.arange(0, WIDTH)
    channels = tl.program_id(0) * STEP + lane
    valid = (lane < STEP) & (channels < C)
    target = channel + n * C + channels
    mean, slope, level = read(target, valid), read(target + N * C, valid), read(target + 2 * N * C, valid)
    total, moment = tl.zeros((BLOCK, WIDTH), dtype=tl.float32), tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for start in range(0, positions, BLOCK):
        row = start + tl.arange(0, BLOCK)[:, None]
        inside = (row < positions) & valid[None, :]
        du, values = gradient_of_u(
            x, grad, stride, y, n, row, channels, inside, slope[None, :], level[None, :], positions, C, dropout, SILU
        )
        total += du
        moment += du * (values - mean[None, :])
    p, q = backward_factors(
        tl.sum(total, 0), tl.sum(moment, 0), lane // SIZE, channels, valid, n, N, channel, group, out, gamma, beta,
        before, before_stride, scale, scale_stride, positions, C, SIZE,
    )  # fmt: skip
    if dx is not None:
        for start in range(0, positions, BLOCK):
            row = start + tl.arange(0, BLOCK)[:, None]
            inside = (row < positions) & valid[None, :]
            du, values = gradient_of_u(
                x, grad, stride, y, n, row, channels, inside, slope[None, :], level[None, :], positions, C, dropout,
                SILU,
            )  # fmt: skip
            result = slope[None, :] * du + p[None, :] * values + q[None, :]
            store_dx(dx, result, other_grad, other_stride, n, row, channels, inside, positions, C)
