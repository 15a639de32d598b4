"""An example of a custom data set that is in no file: gratings of light and dark, a class per direction.

docs/own-pictures.md names it in a preset as ``kind: docs.examples.gratings:open_gratings``.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np

from sida.config.datasets import DatasetConfig
from sida.data import Dataset

COUNT, SIZE, DIRECTIONS = 1024, 8, 4


class Gratings(Dataset):
    """Grey gratings uint8 ``(N, 1, 8, 8)``; image i depends on i alone.

    Args:
        use_labels: False makes the data set unconditional.
        **views: See :class:`sida.data.Dataset`.
    """

    def __init__(self, use_labels: bool = True, **views: Any) -> None:
        classes = np.arange(COUNT) % DIRECTIONS if use_labels else None
        super().__init__(raw_shape=(COUNT, 1, SIZE, SIZE), labels=classes, **views)

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Images at indices: a wave of random phase and length along the direction of the class."""
        return np.stack([grating(int(index)) for index in raw_indices])

    @functools.cached_property
    def sha256(self) -> str:
        """Of all pixels."""
        return hashlib.sha256(self.raw_images(np.arange(COUNT)).tobytes()).hexdigest()


def grating(index: int) -> np.ndarray:
    """One image, uint8 ``(1, 8, 8)``."""
    random = np.random.default_rng(index)
    angle = np.pi * (index % DIRECTIONS) / DIRECTIONS
    y, x = np.mgrid[:SIZE, :SIZE]
    wave = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / random.uniform(3, 5) + random.uniform(0, 6))
    return np.round(127.5 * (1 + wave)).astype(np.uint8)[None]


def open_gratings(config: DatasetConfig, **views: Any) -> Gratings:
    """Opens the data set; ``config`` has the settings of the preset, ``path`` among them."""
    return Gratings(**views)
