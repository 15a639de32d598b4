"""Affine warps with wavelet-filtered resampling: small matrix products before and after one grid sample.

Upsampling ×2 (with mirrored borders) and downsampling ×2 are linear and separable, so each is a matrix per axis:

    out = D_y · sample(U_y · image · U_xᵀ, affine grid) · D_xᵀ

The filter is the orthogonal low-pass of the symlet with six vanishing moments: D·U is the identity, so an image
without warp can be skipped. Source of the construction: NVlabs/edm:training/augment.py; Karras et al.,
"Training GANs with limited data" (arXiv:2006.06676), appendix B.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from sida.runtime.devices import to_device

#: Low-pass coefficients of the symlet "sym6" (I. Daubechies, Ten Lectures on Wavelets, table 6.3); sum √2.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
_TAPS = len(SYM6)
_REACH = _TAPS // 4  # original pixels beyond a border that either filter uses


def warp(images: torch.Tensor, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Warps images: the value at output position q comes from input position ``linear @ q + offset``.

    Positions are (x, y) in pixels, relative to the image centre; the image is mirrored beyond its borders.

    Args:
        images: float32 ``(N, C, H, W)``.
        linear: float32 ``(N, 2, 2)``, on any device.
        offset: float32 ``(N, 2)``, on the device of ``linear``.

    Returns:
        float32 ``(N, C, H, W)``. Images with the identity are bit-identical.
    """
    moved = ((linear != torch.eye(2, device=linear.device)).flatten(1).any(1) | (offset != 0).any(1)).nonzero()[:, 0]
    if len(moved) == 0:
        return images
    if len(moved) == len(images):
        return _warp_all(images, linear, offset)
    rows = to_device(moved, images.device)
    result = images.clone()
    result[rows] = _warp_all(images[rows], linear[moved], offset[moved])
    return result


def _warp_all(images: torch.Tensor, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    left, top, right, bottom = _margins(linear, offset, width, height)
    up_x = _sent_to(_upsampling(width, left, right), images)
    up_y = _sent_to(_upsampling(height, top, bottom), images)
    fine = up_y @ images @ up_x.T

    # Both grids have half-pixel steps; the filter's even length shifts the fine grid by half of such a step.
    out_size = torch.tensor([2.0 * (width + 2 * _REACH), 2.0 * (height + 2 * _REACH)], device=linear.device)
    in_size = torch.tensor([2.0 * (width + left + right), 2.0 * (height + top + bottom)], device=linear.device)
    shift = torch.tensor([(left - right) / 2, (top - bottom) / 2], device=linear.device)
    start = 2 * (shift + offset) + linear.sum(2) / 2 - 0.5
    # affine_grid measures both grids from their centres in units of half their size.
    theta = torch.cat([linear * out_size, 2 * start[:, :, None]], 2) / in_size[:, None]
    shape = [len(images), images.shape[1], 2 * (height + 2 * _REACH), 2 * (width + 2 * _REACH)]
    grid = torch.nn.functional.affine_grid(_sent_to(theta, images), shape, align_corners=False)
    fine = torch.nn.functional.grid_sample(fine, grid, padding_mode="zeros", align_corners=False)
    return _sent_to(_downsampling(height), images) @ fine @ _sent_to(_downsampling(width), images).T


def _sent_to(tensor: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return to_device(tensor.to(images.dtype), images.device)


def _margins(linear: torch.Tensor, offset: torch.Tensor, width: int, height: int) -> tuple[int, int, int, int]:
    """Mirrored pixels (left, top, right, bottom) that the images of the batch need."""
    reach = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=linear.device)
    spread = linear.abs() @ reach  # largest |linear @ corner| along each axis
    lowest, highest = (offset - spread).amin(0), (offset + spread).amax(0)
    needed = torch.cat([-lowest, highest]) + 2 * _REACH - torch.cat([reach, reach])
    # At least the filters' reach.
    low = torch.tensor([2.0 * _REACH], device=linear.device)
    high = torch.tensor([width - 1, height - 1] * 2, device=linear.device)
    left, top, right, bottom = torch.minimum(torch.maximum(needed, low), high).ceil().int().tolist()
    return left, top, right, bottom


def mirrored(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Mirrors int64 positions beyond an axis of ``size`` back into it, without repeating border pixels."""
    period = max(2 * (size - 1), 1)
    folded = positions % period
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(folded)


@functools.lru_cache(maxsize=1024)
def _upsampling(size: int, before: int, after: int) -> torch.Tensor:
    """Matrix ``(2 (before + size + after), size)`` that mirrors the borders, then doubles the rate."""
    padded = size + before + after
    rows = 2 * np.arange(padded)[:, None] + np.arange(_TAPS) - _TAPS // 2 + 1
    columns = np.broadcast_to(np.arange(padded)[:, None], rows.shape)
    inside = (rows >= 0) & (rows < 2 * padded)
    filtering = np.zeros((2 * padded, padded))
    filtering[rows[inside], columns[inside]] = np.broadcast_to(SYM6, rows.shape)[inside]
    mirroring = np.zeros((padded, size))
    mirroring[np.arange(padded), mirrored(torch.arange(padded) - before, size).numpy()] = 1
    return torch.from_numpy((filtering @ mirroring).astype(np.float32))


@functools.lru_cache(maxsize=256)
def _downsampling(size: int) -> torch.Tensor:
    """Matrix ``(size, 2 (size + 2 reach))`` that halves the rate and drops the filter's reach on both sides."""
    matrix = np.zeros((size, 2 * (size + 2 * _REACH)))
    for row in range(size):
        start = 2 * (row + _REACH) - _TAPS // 2 + 1
        matrix[row, start : start + _TAPS] = SYM6
    return torch.from_numpy(matrix.astype(np.float32))
