"""Operations on the elements of a tile that several kernels share."""

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

    The vector is loaded along one axis. If rows are loaded in two dimensions, the compiler gives the tile the rows'
    layout and moves every element through shared memory.
    """
    return tl.load(vector + channels, mask=channels < C, other=0.0)[None, :]


@triton.jit
def dropped(u, seed, row, begin, C, probability, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Dropout on a tile: zeroes elements at random and scales the others up.

    Draws are functions of the seed and the element's place. One call of Philox gives draws for four channels; its
    seven rounds cost more than the rest of a pass.

    Args:
        u: ``(BLOCK, WIDTH)``.
        seed: Pointer to an integer.
        row: Number of each position in the batch, ``(BLOCK, 1)``.
        begin: First channel; a multiple of 4.
        C: Channels of a position.
        probability: Probability of zeroing an element.
        BLOCK: Positions of the tile.
        WIDTH: Channels of the tile; a multiple of 4.
    """
    quarter: tl.constexpr = WIDTH // 4
    place = row * ((C + 3) // 4) + begin // 4 + tl.arange(0, quarter)[None, :]
    a, b, c, d = tl.randint4x(tl.load(seed).to(tl.int32), place, n_rounds=7)
    bits = tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK, WIDTH).to(tl.uint32, bitcast=True)
    limit = (tl.full((), 4294967296.0, tl.float32) * probability).to(tl.uint32)
    return tl.where(bits < limit, 0.0, u / (1 - probability))
