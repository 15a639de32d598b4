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
def row_of(vector, channels, C):
    """Entries of a vector as a row that fits a tile.

    They are loaded as one axis: of two loads of a row and one of a tile the compiler gave the tile the rows' layout,
    and moved every element through shared memory for it.
    """
    return tl.load(vector + channels, mask=channels < C, other=0.0)[None, :]


@triton.jit
def dropped(u, seed, tile, probability, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """A tile with elements set to 0 at random, the others scaled up; draws are functions of seed and tile number.

    One call of Philox gives draws for four elements; its seven rounds cost more than all else in a pass.
    """
    quarter: tl.constexpr = WIDTH // 4
    place = (tile * BLOCK + tl.arange(0, BLOCK)[:, None]) * quarter + tl.arange(0, quarter)[None, :]
    a, b, c, d = tl.randint4x(tl.load(seed).to(tl.int32), place, n_rounds=7)
    bits = tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK, WIDTH).to(tl.uint32, bitcast=True)
    limit = (tl.full((), 4294967296.0, tl.float32) * probability).to(tl.uint32)
    return tl.where(bits < limit, 0.0, u / (1 - probability))
