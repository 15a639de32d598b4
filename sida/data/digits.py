"""The embedded data set: 1797 handwritten digits, 8×8 grey, that come with scikit-learn (no download)."""

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
    """scikit-learn's digits as uint8; pixel v in 0..16 becomes ``round(v * 255 / 16)``, so networks see v/8 - 1.

    Args:
        name: Name for records.
        use_labels: False makes the data set unconditional.
        max_size: See :class:`~sida.data.Dataset`.
        random_seed: See :class:`~sida.data.Dataset`.
        xflip: See :class:`~sida.data.Dataset` (mirrored digits are not digits; off by default).
        split: Which images there are, see :func:`split_indices`; their order is that of the whole set.
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
        # Of the whole set the arrays themselves: a copy has another layout in memory, and training rounds otherwise.
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
    """The digits as a data set."""
    return Digits(**views, split=config.split)


def shuffled(seed: int = 0) -> torch.Tensor:
    """The indices of all 1797 digits in a random order, int64.

    By that of seed 0 the embedded networks share the digits between them: the first 360 trained the backbone of GDD's
    discriminator (:mod:`sida.discriminator.digits`), all others the measuring network (``eval/features/digits.py``).
    """
    return torch.randperm(len(_read()[0]), generator=torch.Generator().manual_seed(seed))


def split_indices(split: Split) -> np.ndarray:
    """Indices of the images of a split, int64, ascending.

    ``held-out`` has 300 images, of each class the first 30 of :func:`shuffled`. All of them are among the 360 that the
    measuring network never saw, so neither a generator trained on ``train`` nor the network by which it is chosen has
    seen one; GDD's backbone has seen all 300. ``train`` has the other 1497. Equal numbers of each class, because other
    class frequencies than the generator's would count as a distance.

    The digits of one writer are in both: the set does not say who wrote which.
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
    """``(images (1797, 8, 8), classes (1797,))`` as scikit-learn's ``load_digits`` gives them, float64 from 0 to 16.

    Read from its file where it lies in its place: scikit-learn takes longer to start than a small job to work.
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
