"""Resizing with Pillow, for the variants that other tools define; the published protocols resize elsewhere."""

from __future__ import annotations

import numpy as np
import torch


def resize_clean(images: torch.Tensor, size: int) -> torch.Tensor:
    """clean-fid's ``clean`` mode: each channel as float32 by Pillow's antialiased bicubic filter, clipped to 0..255.

    Args:
        images: uint8 (N, C, H, W).
        size: New height and width.

    Returns:
        float32 (N, C, size, size) on the CPU, not rounded.

    Source: Parmar et al. 2022 (arXiv:2104.11222), section 3; GaParmar/clean-fid:cleanfid/resize.py.
    """
    from PIL import Image

    channels = images.cpu().to(torch.float32).numpy()
    resized = [
        [np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC)) for channel in image]
        for image in channels
    ]
    return torch.from_numpy(np.array(resized, dtype=np.float32).clip(0, 255))


def resize_bytes(images: torch.Tensor, size: int) -> torch.Tensor:
    """dgm-eval's way: the whole uint8 image by Pillow's antialiased bicubic filter, rounded to uint8 again.

    Args:
        images: uint8 (N, 3, H, W).
        size: New height and width.

    Returns:
        uint8 (N, 3, size, size) on the CPU.
    """
    from PIL import Image

    pictures = images.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    resized = [np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in pictures]
    return torch.from_numpy(np.array(resized)).permute(0, 3, 1, 2).contiguous()
