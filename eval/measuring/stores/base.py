"""Base class of stores of images."""

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
        remarks: Remarks on the images read so far, for the report.
        side: Height and width that a protocol asks for, or None; then other pictures are not decoded.
    """

    path: Path
    count: int
    classes: np.ndarray | None = None
    remarks: tuple[str, ...] = ()
    side: int | None = None

    @abc.abstractmethod
    def read(self, begin: int, end: int) -> np.ndarray:
        """Images ``begin … end − 1``, uint8 (N, H, W, C); reading forwards is fast."""

    @abc.abstractmethod
    def name(self, position: int) -> str:
        """Name of an image for messages."""

    @abc.abstractmethod
    def digest(self) -> str:
        """Digest that changes if the images change."""
