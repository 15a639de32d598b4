"""Drawn images in the shape of a data set: what times a training where the data are not needed."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np

from sida.config.datasets import DatasetConfig
from sida.data.dataset import Dataset

#: Images that are drawn; they come again and again.
DRAWN = 1024


class Noise(Dataset):
    """Images of uniform noise, uint8, with classes in turn.

    Args:
        name: Name for records.
        shape: ``(C, H, W)``.
        classes: Number of classes, at most :data:`DRAWN`; 0 is unconditional.
        views: See :class:`~sida.data.Dataset`.
    """

    in_memory = True

    def __init__(self, name: str, shape: tuple[int, int, int], classes: int, **views: Any) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (DRAWN, *shape), np.uint8)
        super().__init__(name, (DRAWN, *shape), np.arange(DRAWN) % classes if classes else None, **views)

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Images uint8 ``(N, C, H, W)``."""
        return self._pixels[raw_indices]

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all pixels."""
        return hashlib.sha256(self._pixels.tobytes()).hexdigest()


def open_noise(config: DatasetConfig, *, name: str, use_labels: bool, **views: Any) -> Noise:
    """The data set of a spec of kind ``noise``.

    Raises:
        ValueError: The spec does not say the shape.
    """
    if config.resolution is None or config.channels is None:
        raise ValueError("resolution: a data set of kind 'noise' needs resolution and channels; add them")
    shape = (config.channels, config.resolution, config.resolution)
    return Noise(name, shape, (config.label_dim or 0) if use_labels else 0, **views)
