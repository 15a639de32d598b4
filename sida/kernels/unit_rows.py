"""EDM2's weight normalisation: the weights of each output scaled to unit length, times a gain, in the map's dtype.

Source: EDM2 (arXiv:2312.02696), equations 47 and 66.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def unit_rows(weight: Tensor, gain: Tensor | float, eps: float, dtype: torch.dtype) -> Tensor:
    """``gain · weight / (norm + eps √K)`` with the norm of each output's K weights.

    Args:
        weight: Float32 ``(out, ...)``, dense in memory with the outputs outermost.
        gain: Number, or tensor ``()``.
        eps: Constant of the formula above.
        dtype: Type of the result, which has the memory layout of ``weight``.
    """
    tensor = isinstance(gain, Tensor)
    result: Tensor = _UnitRows.apply(weight, gain if tensor else None, 1.0 if tensor else float(gain), eps, dtype)
    return result


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor | None, factor: float, eps: float, dtype: torch.dtype) -> Tensor:
        weight = weight.detach()
        out, size = weight.shape[0], weight[0].numel()
        y = torch.empty_like(weight, dtype=dtype)
        lengths = weight.new_empty((out,))
        offset = eps * math.sqrt(size)
        _forward[(out,)](
            weight, y, lengths, weight if gain is None else gain, factor, offset, size, gain is not None, _BLOCK
        )
        ctx.save_for_backward(weight, gain, lengths)
        ctx.settings = factor, offset
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        weight, gain, lengths = ctx.saved_tensors
        factor, offset = ctx.settings
        grad = grads[0]
        if grad.stride() != weight.stride():
            grad = torch.empty_like(weight, dtype=grad.dtype).copy_(grad)
        out, size = weight.shape[0], weight[0].numel()
        dw, along = torch.empty_like(weight), weight.new_empty((out,))
        there = gain is not None
        _backward[(out,)](
            weight, grad, dw, lengths, along, gain if there else weight, factor, offset, size, there, _BLOCK
        )
        of_gain = (along / (lengths + offset)).sum() if ctx.needs_input_grad[1] else None
        return dw, of_gain, None, None, None


@triton.jit
def _forward(weight, y, lengths, gain, factor, offset, size, GAIN: tl.constexpr, BLOCK: tl.constexpr):
    base = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        total += value * value
    length = tl.sqrt(tl.sum(total, 0))
    tl.store(lengths + tl.program_id(0), length)
    scale = factor / (length + offset)
    if GAIN:
        scale *= tl.load(gain)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        tl.store(y + base + place, (value * scale).to(y.dtype.element_ty), mask=place < size)


@triton.jit
def _backward(weight, grad, dw, lengths, along, gain, factor, offset, size, GAIN: tl.constexpr, BLOCK: tl.constexpr):
    """Gradient of w: s g − w (g·w) s / (norm (norm + offset)) with s = gain / (norm + offset)."""
    base = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        total += value * tl.load(grad + base + place, mask=place < size, other=0.0).to(tl.float32)
    product = tl.sum(total, 0)
    tl.store(along + tl.program_id(0), product)
    length = tl.load(lengths + tl.program_id(0))
    scale = factor / (length + offset)
    if GAIN:
        scale *= tl.load(gain)
    back = product * scale / (tl.where(length > 0, length, 1.0) * (length + offset))
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(weight + base + place, mask=place < size, other=0.0)
        beside = tl.load(grad + base + place, mask=place < size, other=0.0).to(tl.float32)
        tl.store(dw + base + place, beside * scale - value * back, mask=place < size)
