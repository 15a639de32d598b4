"""Sum at the end of a residual branch, ``clamp(a (branch + bias) + b skip)``, in one pass forward and one backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sida.kernels.pointwise import empty_map, like_map, row_of, tile_size

_PROGRAMS = 1024


class ResidualFactors(NamedTuple):
    """Factors and bound of a residual sum.

    Attributes:
        branch: Factor of the branch and its bias.
        skip: Factor of the skip connection.
        clip: Bound of the result's magnitude; None is no bound.
    """

    branch: float = 1.0
    skip: float = 1.0
    clip: float | None = None


#: Factors of the plain sum.
PLAIN_SUM = ResidualFactors()


def residual(
    branch: Tensor,
    skip: Tensor,
    bias: Tensor | None = None,
    shares: ResidualFactors = PLAIN_SUM,
    skip_bias: Tensor | None = None,
) -> Tensor:
    """``clamp(shares.branch (branch + bias + skip_bias) + shares.skip skip)``, summed in float32.

    Args:
        branch: Map ``(N, C, H, W)``.
        skip: Map of the same shape and dtype.
        bias: Float32 ``(C,)``, or None.
        shares: Factors and bound; those of branch and skip are equal if there is a ``skip_bias``.
        skip_bias: As ``bias``, which is then given too.

    Returns:
        Map of the same dtype in channels-last memory.
    """
    result: Tensor = _Residual.apply(branch, skip, bias, skip_bias, shares)
    return result


def add(
    one: Tensor,
    other: Tensor,
    bias: Tensor | None = None,
    shares: ResidualFactors = PLAIN_SUM,
    skip_bias: Tensor | None = None,
) -> Tensor:
    """Computes :func:`residual` without gradient."""
    (one, one_stride), (other, stride) = like_map(one), like_map(other)
    n, c, height, width = one.shape
    block, width_c, warps, tiles = tile_size(c)
    total = n * height * width
    y = empty_map(one, n, c, height, width)
    _forward[(triton.cdiv(total, block), tiles)](
        one, other, one if bias is None else bias.float(), one if skip_bias is None else skip_bias.float(), y, total, c,
        one_stride, stride, shares.branch, shares.skip, float("inf") if shares.clip is None else shares.clip,
        bias is not None, skip_bias is not None, block, width_c, num_warps=warps,
    )  # fmt: skip
    return y


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        branch: Tensor,
        skip: Tensor,
        bias: Tensor | None,
        skip_bias: Tensor | None,
        shares: ResidualFactors,
    ) -> Tensor:
        y = add(branch, skip, bias, shares, skip_bias)
        ctx.shares = shares
        ctx.save_for_backward(None if shares.clip is None else y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        shares: ResidualFactors = ctx.shares
        grad, stride = like_map(grads[0])
        n, c, height, width = grad.shape
        untouched = shares.branch == 1 and y is None and stride == c
        of_branch = grad if untouched else empty_map(grad, n, c, height, width)
        of_skip = of_branch if shares.skip == shares.branch else empty_map(grad, n, c, height, width)
        summed = any(ctx.needs_input_grad[2:4])
        block, width_c, warps, tiles = tile_size(c)
        total = n * height * width
        programs = min(triton.cdiv(total, block), _PROGRAMS)
        partial = grad.new_empty((programs if summed else 0, c), dtype=torch.float32)
        if not untouched or of_skip is not of_branch or summed:
            _backward[(programs, tiles)](
                grad, grad if y is None else y, of_branch, of_skip, partial, total, c, stride, shares.branch,
                shares.skip, float("inf") if shares.clip is None else shares.clip, y is not None, not untouched,
                of_skip is not of_branch, summed, block, width_c, num_warps=warps,
            )  # fmt: skip
        # Of both biases the same sums, in separate memory: gradients are added up in place.
        wanted = ctx.needs_input_grad[2:4]
        sums = iter(partial.expand(sum(wanted), -1, -1).sum(1) if summed else ())
        return of_branch, of_skip, *(next(sums) if want else None for want in wanted), None


@triton.jit
def _forward(
    branch, skip, bias, skip_bias, y, total, C, branch_stride, stride, share, skip_share, limit,
    BIAS: tl.constexpr, SKIP_BIAS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    channels = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    inside = (row < total) & (col < C)
    value = tl.load(branch + row * branch_stride + col, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        more = row_of(bias, channels, C)
        if SKIP_BIAS:
            more += row_of(skip_bias, channels, C)
        value += more
    value = value * share + tl.load(skip + row * stride + col, mask=inside, other=0.0).to(tl.float32) * skip_share
    # A NaN stays one.
    value = tl.where(value > limit, limit, tl.where(value < -limit, -limit, value))
    tl.store(y + row * C + col, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad, y, of_branch, of_skip, partial, total, C, stride, share, skip_share, limit,
    CLIP: tl.constexpr, BRANCH: tl.constexpr, SKIP: tl.constexpr, SUM: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    channels = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    col = channels[None, :]
    sums = tl.zeros((WIDTH,), dtype=tl.float32)
    for start in range(tl.program_id(0) * BLOCK, total, tl.num_programs(0) * BLOCK):
        row = (start + tl.arange(0, BLOCK)[:, None]).to(tl.int64)
        inside = (row < total) & (col < C)
        value = tl.load(grad + row * stride + col, mask=inside, other=0.0).to(tl.float32)
        if CLIP:
            result = tl.load(y + row * C + col, mask=inside, other=0.0).to(tl.float32)
            value = tl.where(tl.abs(result) < limit, value, 0.0)
        if BRANCH:
            tl.store(of_branch + row * C + col, (value * share).to(of_branch.dtype.element_ty), mask=inside)
        if SKIP:
            tl.store(of_skip + row * C + col, (value * skip_share).to(of_skip.dtype.element_ty), mask=inside)
        if SUM:
            sums += tl.sum(value * share, 0)
    if SUM:
        tl.store(partial + tl.program_id(0) * C + channels, sums, mask=channels < C)


def fork(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a map ``(N, C, H, W)`` twice; the gradients of both are summed by one kernel."""
    ways: tuple[Tensor, Tensor] = _Fork.apply(x)
    return ways


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
        return add(one, other)
