"""A whole set of images, a data set or anyone's files, through one extractor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from eval.features.base import Extractor
from eval.features.extraction import precision
from eval.measuring.pipeline import prefetch
from eval.measuring.references import data_digest
from eval.measuring.stores import open_store
from eval.statistics import FeatureStatistics
from sida.config import load_spec
from sida.data import load_dataset
from sida.errors import UserError
from sida.io import atomic_path
from sida.progress import Progress

_BATCH = 128


@dataclass(frozen=True)
class ImageSet:
    """A finite set of images.

    Attributes:
        name: For people.
        count: Number of images.
        read: ``read(begin, end) -> uint8 (N, C, H, W)``.
        digest: Digest of the images.
    """

    name: str
    count: int
    read: Callable[[int, int], torch.Tensor]
    digest: Callable[[], str]


def open_set(dataset: str | None = None, images: str | None = None) -> ImageSet:
    """Opens a data-set spec (JSON text or file), or a folder or file of images.

    Raises:
        UserError: Nothing there, or no images in it.
    """
    if dataset is not None:
        data = load_dataset(load_spec(dataset, "--dataset"))
        return ImageSet(data.name, len(data), lambda a, b: data.images(range(a, b)), lambda: data_digest(data))
    if images is None:
        raise UserError("give --dataset or --images")
    store = open_store(images)
    return ImageSet(
        Path(images).name,
        store.count,
        lambda a, b: torch.from_numpy(store.read(a, b).transpose(0, 3, 1, 2).copy()),
        store.digest,
    )


def measure_set(
    images: ImageSet, extractor: Extractor, keep_features: bool, ddof: int = 1, allow_tf32: bool = False
) -> tuple[FeatureStatistics, torch.Tensor | None]:
    """Sums of the features of all images; the features themselves (N, C) if asked."""
    statistics = FeatureStatistics(ddof=ddof, device=extractor.device)
    kept: list[torch.Tensor] = []
    for features, _ in _outputs(images, extractor, allow_tf32):
        statistics.update(features)
        if keep_features:
            kept.append(features.cpu())
    return statistics, torch.cat(kept) if keep_features else None


def write_features(
    path: str | os.PathLike[str], images: ImageSet, extractor: Extractor, allow_tf32: bool = False
) -> tuple[int, int]:
    """Writes ``features`` float32 (N, C), and ``logits`` (N, K) where the network has classes; returns (N, C)."""
    from safetensors.torch import save_file

    rows: dict[str, list[torch.Tensor]] = {"features": [], "logits": []}
    for features, logits in _outputs(images, extractor, allow_tf32):
        rows["features"].append(features.cpu())
        if logits is not None:
            rows["logits"].append(logits.float().cpu())
    tensors = {key: torch.cat(parts).contiguous() for key, parts in rows.items() if parts}
    header = {
        "images": images.name,
        "images_sha256": images.digest(),
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata={"sida": json.dumps(header, sort_keys=True)})
    return len(tensors["features"]), tensors["features"].shape[1]


def _outputs(
    images: ImageSet, extractor: Extractor, allow_tf32: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Features and logits batch by batch, while a thread reads ahead."""
    progress = Progress(f"{extractor.name} of {images.name}", images.count, "img")
    with precision(allow_tf32):
        for done, batch in enumerate(prefetch(_batches(images), ahead=2), start=1):
            yield extractor.features_and_logits(batch)
            progress.update(min(done * _BATCH, images.count))


def _batches(images: ImageSet) -> Iterator[torch.Tensor]:
    for begin in range(0, images.count, _BATCH):
        yield images.read(begin, min(begin + _BATCH, images.count))
