"""A data set of which only the classes are known: enough for a method that sees no image (ledger, 84)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from sida.config.datasets import DatasetConfig
from sida.data.count_labels import counts_of
from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.files.atomic import sha256_json


class ClassesOnly(Dataset):
    """Items with a class and no image, in the order of their classes.

    Args:
        shape: ``(N, C, H, W)`` of what networks see.
        counts: Items of each class; None without classes.
        name: For records.
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
        """Raises UserError: there are none."""
        raise UserError(f"data set {self.name}: has classes and no images; take the archive")


def open_classes(config: DatasetConfig, name: str, use_labels: bool, **views: Any) -> Dataset:
    """Opens a data set of kind ``counts``."""
    assert config.num_images is not None  # see DatasetSettings
    assert config.channels is not None
    assert config.resolution is not None
    counts = counts_of(str(config.counts)).counts if use_labels and config.counts != "none" else None
    shape = (sum(counts) if counts else config.num_images, config.channels, config.resolution, config.resolution)
    return ClassesOnly(shape, counts, name, **views)
