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
from torch import Tensor

from sida.kernels.group_norm_triton import (
    combine_moments,
    combine_sums,
    gradient_whole,
    input_gradient,
    moments,
    norm_apply,
    norm_sums,
    norm_whole,
)
from sida.kernels.pointwise import channel_rows, like_map, narrow_tile, tile_size

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
