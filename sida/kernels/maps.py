"""Feature maps in the layout of the kernels, a row of channels for each position, and sizes of tiles."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

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
