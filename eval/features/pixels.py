"""Raw pixels as features: a distance without any trained network.

Resizing with Pillow, for variants of feature networks that other tools define.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from eval.features.base import Extractor
from sida.files.atomic import sha256_json


class PixelExtractor(Extractor):
    """Pixels in [-1, 1], flattened; ``num_features`` is known after the first batch (0 before)."""

    name = "pixels"
    sha256 = sha256_json({"extractor": "pixels", "map": "x / 127.5 - 1, flattened"})
    num_features = 0

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = images.flatten(1).to(torch.float32) / 127.5 - 1
        self.num_features = features.shape[1]
        return features, None


_POOL = 8


def resize_clean(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resizes as clean-fid's ``clean`` mode: each channel in float32 by Pillow's antialiased bicubic filter.

    Args:
        images: uint8 (N, 3, H, W).
        size: New height and width.

    Returns:
        float32 (N, 3, size, size) on the CPU, clipped to 0..255, not rounded.

    Source: Parmar et al. 2022 (arXiv:2104.11222), section 3; GaParmar/clean-fid:cleanfid/resize.py.
    """
    return _resized(images, size, np.float32)


def resize_bytes(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resizes as dgm-eval: the uint8 image by Pillow's antialiased bicubic filter, rounded to uint8.

    Args:
        images: uint8 (N, 3, H, W).
        size: New height and width.

    Returns:
        uint8 (N, 3, size, size) on the CPU.
    """
    return _resized(images, size, np.uint8)


def _resized(images: torch.Tensor, size: int, dtype: type[np.generic]) -> torch.Tensor:
    """Resizes every channel of every image as numbers of ``dtype``, in threads: Pillow works without Python's lock.

    Pillow's filter treats channels alike, so channels of a picture give the same alone as together.
    """
    from PIL import Image

    planes = images.cpu().flatten(0, 1).numpy()
    result = torch.empty((*images.shape[:2], size, size), dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
    targets = result.flatten(0, 1).numpy()

    def resize(index: int) -> None:
        plane = Image.fromarray(planes[index].astype(dtype, copy=False))
        np.clip(np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)), 0, 255, out=targets[index])

    with ThreadPoolExecutor(min(_POOL, os.cpu_count() or 1)) as pool:
        list(pool.map(resize, range(len(planes))))
    return result
