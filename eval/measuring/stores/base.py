"""What every store of images can do."""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np


class ImageStore(abc.ABC):
    """Images by position.

    Attributes:
        path: The folder or file.
        count: Number of images.
        classes: Class of every image int64 (N,), or None.
        remarks: What must be said beside numbers of the images read so far.
    """

    path: Path
    count: int
    classes: np.ndarray | None = None
    remarks: tuple[str, ...] = ()

    @abc.abstractmethod
    def read(self, begin: int, end: int) -> np.ndarray:
        """Images ``begin … end − 1``, uint8 (N, H, W, C); reading forwards is fast."""

    @abc.abstractmethod
    def name(self, position: int) -> str:
        """Name of an image for messages."""

    @abc.abstractmethod
    def digest(self) -> str:
        """Changes when the images change."""
