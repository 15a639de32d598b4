"""Extracts features of a finite set of images: a data set, or files of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.features import get_extractor
from eval.features.base import Extractor
from eval.measuring.pipeline import prefetch
from eval.measuring.reference_files import write_own
from eval.measuring.references import data_digest
from eval.measuring.stores import open_images
from eval.statistics import FeatureStatistics
from sida.config.settings import load_spec
from sida.data import load_dataset
from sida.errors import UserError
from sida.files.tensors import write_tensors
from sida.progress import Progress
from sida.runtime.devices import take_device, tf32

# Images per batch: up to 64 pixels wide, and wider.
_BATCH, _BATCH_LARGE = 128, 32


@dataclass(frozen=True)
class ImageSet:
    """A finite set of images.

    Attributes:
        name: Name for people.
        count: Number of images.
        read: Function ``read(begin, end) -> uint8 (N, C, H, W)``.
        digest: Digest of the images.
    """

    name: str
    count: int
    read: Callable[[int, int], torch.Tensor]
    digest: Callable[[], str]


def open_set(dataset: str | None = None, images: str | None = None) -> ImageSet:
    """Opens a data-set spec (JSON text or file), or a folder or file of images.

    Raises:
        UserError: The file is missing or has no images.
    """
    if dataset is not None:
        data = load_dataset(load_spec(dataset, "--dataset"))
        return ImageSet(data.name, len(data), lambda a, b: data.images(range(a, b)), lambda: data_digest(data))
    if images is None:
        raise UserError("give --dataset or --images")
    store = open_images(images)
    return ImageSet(
        Path(images).name,
        store.count,
        lambda a, b: torch.from_numpy(store.read(a, b).transpose(0, 3, 1, 2).copy()),
        store.digest,
    )


def write_reference(
    out: str | os.PathLike[str],
    extractor: str,
    *,
    dataset: str | None = None,
    images: str | None = None,
    options: Mapping[str, Any] | None = None,
    keep_features: bool = False,
    ddof: int = 1,
    allow_tf32: bool = False,
    device: str = "cpu",
) -> tuple[str, FeatureStatistics]:
    """Measures a set of real images once, as the reference of later measurements (``sida-eval reference``).

    Args:
        out: Safetensors file to write.
        extractor: Name of the feature network.
        dataset: Data-set spec, JSON text or file; or ``images``.
        images: Folder or file of images.
        options: Options of the extractor.
        keep_features: Also keep the features, for precision, recall and kernel distance.
        ddof: Covariance divisor N − ddof.
        allow_tf32: Whether TF32 is allowed, like the field of a protocol.
        device: Torch device.

    Returns:
        Name of the set, and its statistics.

    Raises:
        UserError: Fewer than two images there, no such network or device, or unknown options.
    """
    network, found = _opened(extractor, dataset, images, options, device, "reference")
    if found.count < 2:
        raise UserError(f"{images or found.name}: too few images for a covariance ({found.count}); give at least two")
    statistics = FeatureStatistics(ddof=ddof, device=network.device)
    kept: list[torch.Tensor] = []
    for features, _ in _outputs(found, network, allow_tf32):
        statistics.update(features)
        if keep_features:
            kept.append(features.cpu())
    rows = torch.cat(kept) if keep_features else None
    write_own(out, found.name, found.digest(), network, statistics, rows, allow_tf32)
    return found.name, statistics


def write_features(
    out: str | os.PathLike[str],
    extractor: str,
    *,
    dataset: str | None = None,
    images: str | None = None,
    options: Mapping[str, Any] | None = None,
    allow_tf32: bool = False,
    device: str = "cpu",
) -> tuple[str, tuple[int, int]]:
    """Writes the features of a set of images (``sida-eval features``).

    The file holds ``features`` float32 (N, C), and ``logits`` (N, K) where the network has classes. Arguments and
    errors are those of :func:`write_reference`.

    Returns:
        Name of the set, and (N, C).
    """
    network, found = _opened(extractor, dataset, images, options, device, "features")
    rows: dict[str, list[torch.Tensor]] = {"features": [], "logits": []}
    for features, logits in _outputs(found, network, allow_tf32):
        rows["features"].append(features.cpu())
        if logits is not None:
            rows["logits"].append(logits.float().cpu())
    tensors = {key: torch.cat(parts) for key, parts in rows.items() if parts}
    header = {
        "images": found.name,
        "images_sha256": found.digest(),
        "extractor": network.name,
        "extractor_sha256": network.sha256,
    }
    write_tensors(out, tensors, header)
    return found.name, (len(tensors["features"]), tensors["features"].shape[1])


def _opened(
    extractor: str,
    dataset: str | None,
    images: str | None,
    options: Mapping[str, Any] | None,
    device: str,
    where: str,
) -> tuple[Extractor, ImageSet]:
    take_device(device, where)
    return get_extractor(extractor, device, **(options or {})), open_set(dataset, images)


def _outputs(
    images: ImageSet, extractor: Extractor, allow_tf32: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yields features and logits batch by batch while a thread reads ahead."""
    progress = Progress(f"{extractor.name} of {images.name}", images.count, "img")
    with tf32(allow_tf32):
        done = 0
        for batch in prefetch(_batches(images), 2):
            yield extractor.features_and_logits(batch)
            done += len(batch)
            progress.update(done)


def _batches(images: ImageSet) -> Iterator[torch.Tensor]:
    small = images.read(0, 1).shape[-1] <= 64 if images.count else True
    step = _BATCH if small else _BATCH_LARGE
    for begin in range(0, images.count, step):
        yield images.read(begin, min(begin + step, images.count))
