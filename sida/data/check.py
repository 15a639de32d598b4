"""Check of a whole data set: facts about its images and classes, and damaged images."""

from __future__ import annotations

import collections
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.progress import Progress


def check_dataset(dataset: Dataset, workers: int | None = None, most_faults: int = 20) -> dict[str, Any]:
    """Decodes every image.

    Args:
        dataset: Data set opened without ``max_size`` and ``xflip``.
        workers: Threads; None: one per processor.
        most_faults: Number of damaged images after which reading stops.

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
            if len(faults) >= most_faults:
                break
    mean = total / max(count, 1)
    return {
        **dataset.describe(),
        "mean": np.round(mean, 4).tolist(),
        "std": np.round(np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0)), 4).tolist(),
        "classes": class_counts(dataset),
        "sha256": dataset.sha256,
        "faults": faults[:most_faults],
    }


def class_counts(dataset: Dataset) -> dict[int, int] | None:
    """Number of images in each class, or None without integer labels."""
    try:
        found = collections.Counter(dataset.class_indices.tolist())
    except UserError:
        return None
    return {label: found.get(label, 0) for label in range(dataset.label_dim)}
