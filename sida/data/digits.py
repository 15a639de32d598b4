"""The embedded data set: scikit-learn's 1797 handwritten digits, 8×8 grey, without download."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.config.datasets import DatasetConfig, Split
from sida.data.dataset import Dataset

#: Images of each class in the split ``held-out``.
HELD_OUT_PER_CLASS = 30


class Digits(Dataset):
    """scikit-learn's digits as uint8: pixel v in 0..16 becomes ``round(v * 255 / 16)``, and v/8 - 1 for networks.

    Args:
        name: Name for records.
        use_labels: False makes the data set unconditional.
        max_size: See :class:`~sida.data.Dataset`.
        random_seed: See :class:`~sida.data.Dataset`.
        xflip: See :class:`~sida.data.Dataset` (mirrored digits are not digits; off by default).
        split: Part of the images, see :func:`split_indices`, in the order of the whole set.
    """

    in_memory = True

    def __init__(
        self,
        name: str = "digits",
        use_labels: bool = True,
        max_size: int | None = None,
        random_seed: int = 0,
        xflip: bool = False,
        split: Split = "all",
    ) -> None:
        images, classes = _read()
        chosen = split_indices(split)
        # The whole set must not be copied: a copy has another memory layout, and training then rounds differently.
        whole = split == "all"
        self._pixels: np.ndarray = images if whole else images[chosen]
        self._classes: np.ndarray = classes if whole else classes[chosen]
        shape = (len(chosen), 1, 8, 8)
        super().__init__(name, shape, self._classes if use_labels else None, max_size, random_seed, xflip)

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Images uint8 ``(N, 1, 8, 8)``."""
        return self._pixels[raw_indices]

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all pixels followed by all class indices, of the split's images only."""
        return hashlib.sha256(self._pixels.tobytes() + self._classes.tobytes()).hexdigest()


def open_digits(config: DatasetConfig, **views: Any) -> Digits:
    """Opens the digits."""
    return Digits(**views, split=config.split)


def shuffled(seed: int = 0) -> torch.Tensor:
    """Indices of all 1797 digits in random order, int64.

    The order of seed 0 splits the digits between the embedded networks: the first 360 trained the backbone of GDD's
    discriminator (:mod:`sida.networks.backbones`), the others the feature network (``eval/features/digits.py``).
    """
    return torch.randperm(len(_read()[0]), generator=torch.Generator().manual_seed(seed))


def split_indices(split: Split) -> np.ndarray:
    """Indices of the images of a split, int64, ascending.

    ``held-out`` has 300 images: of each class the first 30 of :func:`shuffled`. All are among the 360 images on which
    the feature network was not trained, so neither a generator trained on ``train`` nor the network that selects it has
    seen them; GDD's backbone has seen all 300. ``train`` has the other 1497. The classes have equal numbers, since
    class frequencies that differ from the generator's would count as a distance.

    Digits of one writer may be in both parts: the data set does not name writers.
    """
    classes = _read()[1]
    if split == "all":
        return np.arange(len(classes), dtype=np.int64)
    order = shuffled().numpy()
    picked = [order[classes[order] == label][:HELD_OUT_PER_CLASS] for label in range(10)]
    held_out = np.sort(np.concatenate(picked))
    return held_out if split == "held-out" else np.setdiff1d(order, held_out)


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """``(images uint8 (1797, 1, 8, 8), classes int64 (1797,))``."""
    values, target = _values()
    pixels = np.minimum(255, np.round(values * (255 / 16))).astype(np.uint8)
    return pixels[:, None], target.astype(np.int64)


def _values() -> tuple[np.ndarray, np.ndarray]:
    """``(images (1797, 8, 8), classes (1797,))`` of scikit-learn's ``load_digits``, float64 from 0 to 16.

    They are read from scikit-learn's file if possible: its import takes longer than a small job.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "datasets/data/digits.csv.gz")
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target
