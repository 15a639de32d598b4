"""What several kernels do to each element of a tile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def silu(u):
    """``u`` times its sigmoid."""
    return u / (1 + tl.exp(-u))


@triton.jit
def silu_slope(u):
    """Derivative of :func:`silu`."""
    sigmoid = 1 / (1 + tl.exp(-u))
    return sigmoid * (1 + u * (1 - sigmoid))


@triton.jit
def dropped(u, seed, place, probability):
    """``u`` with elements set to 0 at random, the others scaled up; draws are functions of seed and place."""
    draws = tl.rand(tl.load(seed).to(tl.int32), place.to(tl.int32), n_rounds=7)
    return tl.where(draws < probability, 0.0, u / (1 - probability))
