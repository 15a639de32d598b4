"""Resizing with Pillow, for variants of feature networks that other tools define."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def resize_clean(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resizes as clean-fid's ``clean`` mode: each channel in float32 by Pillow's antialiased bicubic filter.

    Args:
        images: uint8 (N, 3, H, W).
        size: New height and width.

    Returns:
        float32 (N, 3, size, size) on the CPU, clipped to 0..255, not rounded.

    Source: Parmar et al. 2022 (arXiv:2104.11222), section 3; GaParmar/clean-fid:cleanfid/resize.py.
    """
    from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", False, "bicubic", (size, size))
    return _each(resize, images)


def resize_bytes(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resizes as dgm-eval: the uint8 image by Pillow's antialiased bicubic filter, rounded to uint8.

    Args:
        images: uint8 (N, 3, H, W).
        size: New height and width.

    Returns:
        uint8 (N, 3, size, size) on the CPU.
    """
    from PIL import Image

    return _each(lambda p: np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)), images)


def _each(resize: Callable[[np.ndarray], np.ndarray], images: torch.Tensor) -> torch.Tensor:
    """Applies a function of one picture (H, W, C) to every image (N, C, H, W)."""
    pictures = images.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    return torch.from_numpy(np.stack([resize(p) for p in pictures])).permute(0, 3, 1, 2).contiguous()
