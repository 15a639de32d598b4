"""Sum at the end of a residual branch, ``clamp(a (branch + bias) + b skip)``, in one pass forward and one backward."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.plugins.kernels.pointwise import empty_map, flat_tile, like_map, read, row_of, tiles

_PROGRAMS = 1024


def residual(
    branch: Tensor,
    skip: Tensor,
    bias: Tensor | None = None,
    skip_bias: Tensor | None = None,
    share: float = 1.0,
    skip_share: float = 1.0,
    clip: float | None = None,
) -> Tensor:
    """``clamp(share (branch + bias + skip_bias) + skip_share skip)``, summed in float32.

    Args:
        branch: Map ``(N, C, H, W)``.
        skip: Map of the same shape and dtype.
        bias: Float32 ``(C,)``, or None.
        skip_bias: As ``bias``, which is then given too; the shares are equal.
        share: Factor of the branch and the biases.
        skip_share: Factor of the skip connection.
        clip: Bound of the result's magnitude; None means no bound.

    Returns:
        Map of the same dtype in channels-last memory.
    """
    return _Residual.apply(branch, skip, bias, skip_bias, share, skip_share, math.inf if clip is None else clip)


def fork(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a map ``(N, C, H, W)`` twice; the gradients of both are summed by one kernel."""
    return _Fork.apply(x)


def _sum(one: Tensor, other: Tensor, *rest: Any) -> Tensor:
    """Computes the sum; ``rest`` as in :func:`residual`, with an infinite bound instead of None."""
    assert one.shape == other.shape
    (one, one_stride), (other, stride) = like_map(one), like_map(other)
    n, c, height, width = one.shape
    y = empty_map(one, n, c, height, width)
    grid, sizes = tiles(n * height * width, c)
    _forward[grid](one, one_stride, other, stride, y, n * height * width, c, *rest, **sizes)
    return y


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, branch: Tensor, skip: Tensor, bias: Tensor | None, skip_bias: Tensor | None, *shares: float
    ) -> Tensor:
        y = _sum(branch, skip, *(None if v is None else v.float() for v in (bias, skip_bias)), *shares)
        ctx.shares = shares
        ctx.save_for_backward(None if shares[2] == math.inf else y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (y,), (share, skip_share, limit) = ctx.saved_tensors, ctx.shares
        grad, stride = like_map(grads[0])
        n, c, height, width = grad.shape
        wanted = ctx.needs_input_grad[2:4]
        untouched = share == 1 and y is None and stride == c
        branch_grad = grad if untouched else empty_map(grad, n, c, height, width)
        skip_grad = branch_grad if skip_share == share else empty_map(grad, n, c, height, width)
        (chunks, parts), sizes = tiles(n * height * width, c)
        programs = min(chunks, _PROGRAMS)
        partial = grad.new_empty((programs, c), dtype=torch.float32) if any(wanted) else None
        targets = None if untouched else branch_grad, None if skip_grad is branch_grad else skip_grad, partial
        if any(target is not None for target in targets):
            _backward[(programs, parts)](
                grad, stride, y, *targets, n * height * width, c, share, skip_share, limit, **sizes
            )
        # Both biases get the same sums, in separate memory, since gradients are added up in place.
        sums = iter(() if partial is None else partial.expand(sum(wanted), -1, -1).sum(1))
        return branch_grad, skip_grad, *(next(sums) if want else None for want in wanted), None, None, None


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        one, other = grads
        if one is None or other is None:
            return other if one is None else one
        return _sum(one, other, None, None, 1.0, 1.0, math.inf)


@triton.jit
def _forward(
    branch, branch_stride, skip, stride, y, total, C, bias, skip_bias, share, skip_share, limit,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, channels, inside = flat_tile(total, C, BLOCK, WIDTH)
    value = read(branch + row * branch_stride + channels[None, :], inside)
    if bias is not None:
        shift = row_of(bias, channels, C)
        if skip_bias is not None:
            shift += row_of(skip_bias, channels, C)
        value += shift
    value = value * share + read(skip + row * stride + channels[None, :], inside) * skip_share
    # These comparisons leave NaN as it is; minimum and maximum may drop it.
    value = tl.where(value > limit, limit, tl.where(value < -limit, -limit, value))
    tl.store(y + row * C + channels[None, :], value, mask=inside)


@triton.jit
def _backward(
    grad, stride, y, branch_grad, skip_grad, partial, total, C, share, skip_share, limit,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    channels = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    sums = tl.zeros((WIDTH,), dtype=tl.float32)
    for start in range(tl.program_id(0) * BLOCK, total, tl.num_programs(0) * BLOCK):
        row = (start + tl.arange(0, BLOCK)[:, None]).to(tl.int64)
        inside = (row < total) & (col < C)
        value = read(grad + row * stride + col, inside)
        if y is not None:
            value = tl.where(tl.abs(read(y + row * C + col, inside)) < limit, value, 0.0)
        if branch_grad is not None:
            tl.store(branch_grad + row * C + col, value * share, mask=inside)
        if skip_grad is not None:
            tl.store(skip_grad + row * C + col, value * skip_share, mask=inside)
        if partial is not None:
            sums += tl.sum(value * share, 0)
    if partial is not None:
        tl.store(partial + tl.program_id(0) * C + channels, sums, mask=channels < C)
