"""The embedded data set: 1797 handwritten digits, 8×8 grey, that come with scikit-learn (no download)."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np

from sida.data.dataset import Dataset
from sida.settings.datasets import DatasetConfig


class Digits(Dataset):
    """scikit-learn's digits as uint8; pixel v in 0..16 becomes ``round(v * 255 / 16)``, so networks see v/8 - 1.

    Args:
        name: Name for records.
        use_labels: False makes the data set unconditional.
        max_size: See :class:`~sida.data.Dataset`.
        random_seed: See :class:`~sida.data.Dataset`.
        xflip: See :class:`~sida.data.Dataset` (mirrored digits are not digits; off by default).
    """

    in_memory = True

    def __init__(
        self,
        name: str = "digits",
        use_labels: bool = True,
        max_size: int | None = None,
        random_seed: int = 0,
        xflip: bool = False,
    ) -> None:
        images, classes = _read()
        shape = (len(images), 1, 8, 8)
        super().__init__(name, shape, classes if use_labels else None, max_size, random_seed, xflip)

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Images uint8 ``(N, 1, 8, 8)``."""
        return _read()[0][raw_indices]

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all pixels followed by all class indices."""
        images, classes = _read()
        return hashlib.sha256(images.tobytes() + classes.tobytes()).hexdigest()


def open_digits(config: DatasetConfig, **views: Any) -> Digits:
    """The digits as a data set."""
    return Digits(**views)


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """``(images uint8 (1797, 1, 8, 8), classes int64 (1797,))``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.minimum(255, np.round(bunch.images * (255 / 16))).astype(np.uint8)
    return pixels[:, None], bunch.target.astype(np.int64)
