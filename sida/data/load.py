"""Opening of data sets from their specs, and check of a whole data set: its images, its classes, damaged images."""

from __future__ import annotations

import collections
import inspect
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sida.config.datasets import DATASET_KINDS, DatasetConfig
from sida.config.settings import from_mapping
from sida.data.dataset import Dataset
from sida.data.latents import open_archive
from sida.errors import Progress, SettingError, UserError, settings_in


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
    opens = DATASET_KINDS.find(config.kind, f"{where}.kind")
    views = {name: getattr(config, name) for name in ("name", "max_size", "random_seed", "xflip")}
    views["use_labels"] = config.labels and config.label_dim != 0
    try:
        inspect.signature(opens).bind(config, **views)
    except TypeError as error:
        fault = f"'{config.kind}' cannot be called as function(config, **views): {error}"
        raise UserError(f"{where}.kind", fault) from None
    with settings_in(where):
        dataset = opens(config, **views)
    if not isinstance(dataset, Dataset):
        raise UserError(f"{where}.kind", f"'{config.kind}' returned {type(dataset).__name__}, not a sida.data.Dataset")
    _compare(dataset, config, where)
    return dataset


def open_stored(config: DatasetConfig, **views: Any) -> Dataset:
    """Opens an archive or folder.

    Raises:
        ValueError: The path is a folder for kind ``zip``, or a file for kind ``folder``.
    """
    path = Path(os.path.expanduser(str(config.path)))
    if path.exists() and path.is_dir() != (config.kind == "folder"):
        raise SettingError("kind", f"{path} is a {'folder' if path.is_dir() else 'file'}, not a {config.kind}")
    return open_archive(str(path), cache=config.cache, **views)


def _compare(dataset: Dataset, config: DatasetConfig, where: str) -> None:
    """Checks counts and sizes against the spec, and the digest if the spec has one."""
    found = {"num_images": dataset.raw_count, "resolution": dataset.resolution, "channels": dataset.num_channels}
    found["label_dim"] = dataset.label_dim
    place = config.path or config.name
    for key, actual in found.items():
        expected = getattr(config, key)
        if expected is not None and expected != actual:
            raise UserError(f"{where}.{key}", f"{place} has {actual}, the spec says {expected}", "correct one of them")
    if config.sha256 is not None and config.sha256 != dataset.sha256:
        fault = f"{place} has {dataset.sha256}, the spec says {config.sha256}"
        raise UserError(f"{where}.sha256", fault, "fetch or prepare the file again, or correct the spec")


#: Damaged images after which a check stops.
_MOST_FAULTS = 20


def check_dataset(dataset: Dataset, workers: int | None = None) -> dict[str, Any]:
    """Decodes every image.

    Args:
        dataset: Data set opened without ``max_size`` and ``xflip``.
        workers: Threads; None: one per processor.

    Returns:
        ``images``, ``resolution``, ``channels``, ``label_dim``, ``mean`` and ``std`` per channel (of 0..255),
        ``classes`` (images of each class; empty classes included), ``sha256``, and ``faults``: one line per bad image.
    """
    progress = Progress(f"check {dataset.name}", len(dataset))
    faults: list[str] = []
    count, total, squares = 0, np.zeros(dataset.num_channels), np.zeros(dataset.num_channels)

    def measure(index: int) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            image = dataset.images([index])[0].numpy().astype(np.float64)
        except UserError as error:
            return str(error)
        return image.mean((1, 2)), (image**2).mean((1, 2))

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for start in range(0, len(dataset), 1024):
            for result in pool.map(measure, range(start, min(start + 1024, len(dataset)))):
                if isinstance(result, str):
                    faults.append(result)
                else:
                    count, total, squares = count + 1, total + result[0], squares + result[1]
            progress.update(min(start + 1024, len(dataset)))
            if len(faults) >= _MOST_FAULTS:
                break
    mean = total / max(count, 1)
    return {
        **dataset.describe(),
        "mean": np.round(mean, 4).tolist(),
        "std": np.round(np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0)), 4).tolist(),
        "classes": class_counts(dataset),
        "sha256": dataset.sha256,
        "faults": faults[:_MOST_FAULTS],
    }


def class_counts(dataset: Dataset) -> dict[int, int] | None:
    """Number of images in each class, or None without integer labels."""
    try:
        found = collections.Counter(dataset.class_indices.tolist())
    except UserError:
        return None
    return {label: found.get(label, 0) for label in range(dataset.label_dim)}
