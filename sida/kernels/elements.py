"""Operations on the elements of a tile that several kernels share, the layout of feature maps, and sizes of tiles.

A feature map is a row of channels for each position.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


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


#: Elements of a tile: 32 for each of the threads that work on it, or 16.
_TILE, _WARPS = 8192, 8
#: Least channels of a tile of a divided row: a cache line of half precision.
_NARROWEST = 64
_NARROW_TILE, _NARROW_WARPS = 2048, 4


def channel_rows(x: Tensor) -> Tensor:
    """A map ``(N, C, H, W)`` with contiguous channels: the map itself, or a copy in channels-last memory."""
    if x.stride(1) == 1 and x.permute(0, 2, 3, 1).is_contiguous():
        return x
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, _strides(x.shape))


def like_map(x: Tensor) -> tuple[Tensor, int]:
    """A map with contiguous channels, and the distance of its positions in memory.

    A slice of a wider map's channels is not copied.
    """
    n, c, height, width = x.shape
    stride = x.stride(3) if width > 1 else (x.stride(2) if height > 1 else x.stride(0))
    even = (
        (c == 1 or x.stride(1) == 1)
        and stride >= c
        and (height == 1 or x.stride(2) == width * stride)
        and (n == 1 or x.stride(0) == height * width * stride)
    )
    return (x, stride) if even else (channel_rows(x), c)


def empty_map(like: Tensor, n: int, c: int, height: int, width: int) -> Tensor:
    """An uninitialised channels-last map of the dtype and on the device of another one."""
    return torch.empty_strided(
        (n, c, height, width), _strides((n, c, height, width)), dtype=like.dtype, device=like.device
    )


def tile_size(channels: int) -> tuple[int, int, int, int]:
    """Positions and channels of a tile (powers of two, four channels at least), its warps, and tiles in a row.

    A row of channels is divided among tiles of 64 channels or more so that the fewest of their lanes are idle: 192
    channels are three tiles of 64 and not three quarters of one of 256.
    """
    width = max(4, int(triton.next_power_of_2(channels)))
    widths = [width >> halvings for halvings in range(10) if halvings == 0 or width >> halvings >= _NARROWEST]
    width = min(widths, key=lambda width: triton.cdiv(channels, width) * width)
    return max(1, _TILE // width), width, _WARPS, triton.cdiv(channels, width)


def narrow_tile(channels: int) -> tuple[int, int, int]:
    """As :func:`tile_size`, smaller: for programs that each read few channels at all positions."""
    width = max(4, int(triton.next_power_of_2(channels)))
    return max(1, _NARROW_TILE // width), width, _NARROW_WARPS


def _strides(shape: torch.Size | tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    _, c, height, width = shape
    return height * width * c, 1, width * c, c
