"""Opens data sets from their specs, and counts their classes.

Two data sets need no archive: scikit-learn's digits (1797 images, 8×8 grey, part of that package), and classes without
images.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sida.assets.cache import fetch
from sida.assets.registry import is_counted
from sida.config.datasets import DATASET_KINDS, DatasetConfig, Split, dataset_spec
from sida.config.labels import LabelCounts, load_labels
from sida.config.lookup import foreign_faults
from sida.config.settings import from_mapping, load_spec
from sida.data.archive import READER, SECONDS
from sida.data.dataset import Dataset, ImageArchive, InMemory, Sketch
from sida.errors import UserError, settings_in
from sida.files.atomic import sha256_json
from sida.files.convert import convert
from sida.files.ordinary import open_ordinary, size_on_disk
from sida.late import torch


def load_dataset(spec: Mapping[str, Any] | DatasetConfig, where: str = "dataset") -> Dataset:
    """Opens a data set and checks it against its spec.

    Args:
        spec: Mapping of the fields of :class:`DatasetConfig`. A custom ``kind`` is ``module:function``, called as
            ``function(config, name=..., use_labels=..., max_size=..., random_seed=..., xflip=...)``; it passes the five
            keywords to the :class:`Dataset` that it returns.
        where: Place named in errors.

    Raises:
        UserError: The spec is wrong, a file is missing or broken, or the data contradict the spec.
    """
    config = spec if isinstance(spec, DatasetConfig) else from_mapping(DatasetConfig, spec, where)
    open_kind = DATASET_KINDS.find(config.kind, f"{where}.kind")
    views = {name: getattr(config, name) for name in ("name", "max_size", "random_seed", "xflip")}
    views["use_labels"] = config.labels and config.label_dim != 0
    with settings_in(where), foreign_faults(f"{where}.kind", inspect.getmodule(open_kind)):
        dataset = open_kind(config, **views)
    if not isinstance(dataset, Dataset):
        raise UserError(f"{where}.kind", f"'{config.kind}' returned {type(dataset).__name__}, not a sida.data.Dataset")
    renamed = {"num_images": "raw_count", "channels": "num_channels"}
    # The digest comes last and only if the spec has it, since computing it may read every byte.
    for key in ("num_images", "resolution", "channels", "label_dim", "sha256"):
        expected = getattr(config, key)
        if expected is not None and expected != (actual := getattr(dataset, renamed.get(key, key))):
            fault = f"{config.path or config.name} has {actual}, the spec says {expected}"
            raise UserError(f"{where}.{key}", fault, "correct the spec, or fetch or prepare the data again")
    return dataset


def open_dataset(text: str, where: str) -> Dataset:
    """Opens the data set that a user names: an archive or folder, a name in ``config/datasets.yaml``, or a JSON spec.

    Raises:
        UserError: See :func:`load_dataset`.
    """
    if text.lstrip().startswith("{"):
        return load_dataset(load_spec(text, where), where)
    path = Path(text)
    is_file = path.exists() or path.suffix or os.sep in text
    return ImageArchive(text) if is_file else load_dataset(dataset_spec(text, where), where)


def open_stored(config: DatasetConfig, **views: Any) -> ImageArchive:
    """Opens an archive or folder; its content decides the kind."""
    path = os.path.expanduser(str(config.path))
    return ImageArchive(path, cache=config.cache, latents=config.latents, spread=config.spread, **views)


class ClassesOnly(Dataset):
    """Data set of kind ``counts``: items with a class and no image, sorted by class.

    Args:
        config: Settings with counts and sizes.
        use_labels: False leaves the classes out.
        views: See :class:`Dataset`.
    """

    in_memory = True

    def __init__(self, config: DatasetConfig, use_labels: bool, **views: Any) -> None:
        counts = counts_of(str(config.counts)).counts if use_labels and config.counts != "none" else None
        number = sum(counts) if counts else config.num_images
        # All sizes are given (DatasetSettings).
        shape: Any = (number, config.channels, config.resolution, config.resolution)
        classes = None if counts is None else np.repeat(np.arange(len(counts)), counts)
        super().__init__(raw_shape=shape, labels=classes, **views)
        self._facts = {"shape": shape, "counts": counts}

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of shape and counts."""
        return sha256_json(self._facts)

    @property
    def sketch(self) -> Sketch:
        """Sketch of no image."""
        return Sketch()

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Raises UserError: there are no images."""
        raise UserError(f"data set {self.name}", "has classes and no images", "use the archive")


def counts_of(name: str | os.PathLike[str]) -> LabelCounts:
    """Class counts by name: from a file (:func:`sida.config.labels.find_labels`), or those of an asset's labels.

    Raises:
        UserError: There are no such counts, the file is broken, or the download fails.
    """
    if not is_counted(name):
        return load_labels(name)
    path = fetch(str(name))
    with open_ordinary(path) as stream:
        seconds = size_on_disk(stream) * SECONDS
        _, arrays = convert(f"{READER}:labels", stream, path, [("", None)], None, seconds=seconds)
    classes = arrays.get("labels", np.empty(0))
    if not len(classes):
        raise UserError(path, "names no classes", "fetch it again")
    return LabelCounts(str(name), len(classes), tuple(np.bincount(classes).tolist()), f"labels of {path.name}")


def check_labels(labels: LabelCounts, spec: Mapping[str, Any], where: str) -> None:
    """Compares counts with the data set of a spec: its size and, if the data set is present, all its classes.

    Raises:
        UserError: They differ.
    """
    sizes = {"num_images": labels.images, "label_dim": len(labels.counts)}
    for key, size in sizes.items():
        if size != (spec.get(key) or size):
            raise UserError(where, f"'{labels.name}' has {key} {size:,}, the data set {spec[key]:,}", "get it again")
    path = spec.get("path")
    if (path is not None and not Path(os.path.expanduser(path)).exists()) or spec.get("label_dim") == 0:
        return
    dataset = load_dataset({**spec, "max_size": None, "xflip": False, "cache": False}, where)
    counts = np.bincount(dataset.class_indices.numpy(), minlength=len(labels.counts))
    # bincount is at least as long as the counts: the archive may have classes beyond the last counted one.
    expected = np.pad(labels.counts, (0, len(counts) - len(labels.counts)))
    if len(wrong := np.flatnonzero(counts != expected)):
        fault = f"{path or dataset.name} has other numbers of {len(wrong)} classes than '{labels.name}' counts"
        raise UserError(where, f"{fault}, first of class {wrong[0]}", "is it the right and complete data set?")


#: Images of each class in the split ``held-out``.
HELD_OUT_PER_CLASS = 30


class Digits(InMemory):
    """scikit-learn's digits as uint8: pixel v in 0..16 becomes ``round(v * 255 / 16)``, and v/8 - 1 for networks.

    Args:
        name: Name for records.
        use_labels: False makes the data set unconditional.
        split: Part of the images, see :func:`digits_of_split`, in the order of the whole set.
        views: See :class:`~sida.data.Dataset` (mirrored digits are not digits).
    """

    def __init__(self, name: str = "digits", use_labels: bool = True, split: Split = "all", **views: Any) -> None:
        pixels, self._classes = _read_digits()
        # The whole set must not be copied: a copy has another memory layout, and training then rounds differently.
        if split != "all":
            indices = digits_of_split(split)
            pixels, self._classes = pixels[indices], self._classes[indices]
        super().__init__(name, pixels, self._classes if use_labels else None, **views)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of all pixels followed by all class indices, of the split's images only."""
        return hashlib.sha256(self.pixels.tobytes() + self._classes.tobytes()).hexdigest()


def open_digits(config: DatasetConfig, **views: Any) -> Digits:
    """Opens the digits."""
    return Digits(**views, split=config.split)


def shuffled_digits(seed: int = 0) -> torch.Tensor:
    """Indices of all 1797 digits in random order, int64.

    The order of seed 0 splits the digits between the embedded networks: the first 360 trained the backbone of GDD's
    discriminator (:mod:`sida.networks.discriminators`), the others the feature network (``eval/features/digits.py``).
    """
    return torch.randperm(len(_read_digits()[0]), generator=torch.Generator().manual_seed(seed))


def digits_of_split(split: Split) -> np.ndarray:
    """Indices of the images of a split, int64, ascending.

    ``held-out`` has 300 images: of each class the first 30 of :func:`shuffled_digits`. All are among the 360 images on
    which the feature network was not trained, so they are new both to a generator trained on ``train`` and to the
    network that selects it; GDD's backbone was trained on all 300. ``train`` has the other 1497. The classes have equal
    numbers, since class frequencies that differ from the generator's would count as a distance.

    Digits of one writer may be in both parts: the data set does not name writers.
    """
    classes = _read_digits()[1]
    if split == "all":
        return np.arange(len(classes), dtype=np.int64)
    order = shuffled_digits().numpy()
    picked = [order[classes[order] == label][:HELD_OUT_PER_CLASS] for label in range(10)]
    held_out = np.sort(np.concatenate(picked))
    return held_out if split == "held-out" else np.setdiff1d(order, held_out)


@functools.cache
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """``(images uint8 (1797, 1, 8, 8), classes int64 (1797,))``."""
    # The file of load_digits() itself: the package's import takes longer than a small job.
    path = importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",")
    pixels = np.minimum(255, np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16))).astype(np.uint8)
    assert pixels.shape == (1797, 8, 8)
    return pixels[:, None], table[:, -1].astype(np.int64)
