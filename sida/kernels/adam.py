"""Adam with guarded and clipped gradients on one vector, in two passes: the gradient's norm, then the step."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _PROGRAMS = 4096, 2048


def gradient_norm(gradient: Tensor, infinity: float) -> Tensor:
    """Float32 ``(2,)``: squared norm with NaN as 0 and ±∞ as ±``infinity``, and the number of such entries."""
    programs = min(triton.cdiv(gradient.numel(), _BLOCK), _PROGRAMS)
    partial = gradient.new_empty((2, programs), dtype=torch.float32)
    _gradient_norm[(programs,)](gradient, partial, gradient.numel(), infinity, programs, _BLOCK)
    return partial.sum(1, dtype=torch.float64).float()


def adam_step(
    vector: Tensor,
    gradient: Tensor,
    mean: Tensor | None,
    square: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    count: int,
    infinity: float,
    clip: float | None,
) -> None:
    """Step number ``count`` (from 1) of :class:`sida.training.optimizer.Adam` against the guarded, clipped gradient.

    All vectors are float32 ``(P,)``; ``vector`` and the moments are changed in place, the gradient is not.
    """
    total = vector.numel()
    _step[(triton.cdiv(total, _BLOCK),)](
        vector,
        gradient,
        square if mean is None else mean,
        square,
        total,
        lr / (1 - betas[0] ** count),
        1 - betas[0],
        1 - betas[1],
        1 / math.sqrt(1 - betas[1] ** count),
        eps,
        infinity,
        float("inf") if clip is None else clip,
        mean is not None,
        _BLOCK,
    )


@triton.jit
def _guarded(value, infinity):
    value = tl.where(value != value, 0.0, value)
    value = tl.where(value == float("inf"), infinity, value)
    return tl.where(value == -float("inf"), -infinity, value)


@triton.jit
def _gradient_norm(gradient, partial, total, infinity, programs, BLOCK: tl.constexpr):
    square, wrong = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(tl.program_id(0) * BLOCK, total, programs * BLOCK):
        place = (start + tl.arange(0, BLOCK)).to(tl.int64)
        raw = tl.load(gradient + place, mask=place < total, other=0.0)
        value = _guarded(raw, infinity)
        square += value * value
        wrong += tl.where((raw != raw) | (tl.abs(raw) == float("inf")), 1.0, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(square, 0))
    tl.store(partial + programs + tl.program_id(0), tl.sum(wrong, 0))


@triton.jit
def _step(
    vector, gradient, mean, square, total, rate, mean_share, square_share, divisor_factor, eps, infinity, clip,
    MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    value = _guarded(tl.load(gradient + place, mask=inside, other=0.0), infinity)
    value = tl.minimum(tl.maximum(value, -clip), clip)
    second = tl.load(square + place, mask=inside, other=0.0)
    second += square_share * (value * value - second)
    tl.store(square + place, second, mask=inside)
    if MEAN:
        first = tl.load(mean + place, mask=inside, other=0.0)
        value = first + mean_share * (value - first)
        tl.store(mean + place, value, mask=inside)
    moved = tl.load(vector + place, mask=inside, other=0.0)
    moved -= rate * value / (tl.sqrt(second) * divisor_factor + eps)
    tl.store(vector + place, moved, mask=inside)
