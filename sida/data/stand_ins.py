"""Data sets without real images: random images for timing a training, and classes without images."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np

from sida.config.datasets import DatasetConfig
from sida.data.count_labels import counts_of
from sida.data.dataset import Dataset
from sida.errors import SettingError, UserError
from sida.files.atomic import sha256_json

#: Number of different random images.
DRAWN = 1024


class RandomImages(Dataset):
    """Images of uniform noise, uint8, with alternating classes.

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


def open_noise(config: DatasetConfig, *, name: str, use_labels: bool, **views: Any) -> RandomImages:
    """Opens a data set of kind ``noise``.

    Raises:
        ValueError: The spec has no resolution or channels.
    """
    if config.resolution is None or config.channels is None:
        raise SettingError("resolution", "a data set of kind 'noise' needs resolution and channels", "add them")
    shape = (config.channels, config.resolution, config.resolution)
    return RandomImages(name, shape, (config.label_dim or 0) if use_labels else 0, **views)


class ClassesOnly(Dataset):
    """Items with a class and no image, sorted by class.

    Args:
        shape: Shape ``(N, C, H, W)`` of network input.
        counts: Number of items in each class; None without classes.
        name: Name for records.
        views: See :class:`Dataset`.
    """

    in_memory = True

    def __init__(
        self, shape: tuple[int, int, int, int], counts: tuple[int, ...] | None, name: str, **views: Any
    ) -> None:
        classes = None if counts is None else np.repeat(np.arange(len(counts)), counts)
        super().__init__(name, shape, classes, **views)
        self._facts = {"shape": shape, "counts": counts}

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of shape and counts."""
        return sha256_json(self._facts)

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Raises UserError, since there are no images."""
        raise UserError(f"data set {self.name}", "has classes and no images", "use the archive")


def open_classes(config: DatasetConfig, name: str, use_labels: bool, **views: Any) -> Dataset:
    """Opens a data set of kind ``counts``."""
    assert config.num_images is not None  # see DatasetSettings
    assert config.channels is not None
    assert config.resolution is not None
    counts = counts_of(str(config.counts)).counts if use_labels and config.counts != "none" else None
    shape = (sum(counts) if counts else config.num_images, config.channels, config.resolution, config.resolution)
    return ClassesOnly(shape, counts, name, **views)
