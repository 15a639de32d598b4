"""Extracts features of a finite set of images: a data set, or files of images."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from eval.features import get_extractor
from eval.measuring.reference_files import OwnReference, write_own
from eval.measuring.references import ImageSet, features_of
from eval.measuring.stores import open_images
from eval.measuring.trial import prefetch
from eval.metrics.statistics import FeatureStatistics
from sida.config.settings import load_spec
from sida.data import load_dataset
from sida.errors import Progress, UserError
from sida.machine import take_device, tf32

# Images per batch: up to 64 pixels wide, and wider.
_BATCH, _BATCH_LARGE = 128, 32


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
    """Measures a set of real images once, as the reference of later measurements (``sida reference``).

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
    take_device(device, "reference")
    if dataset is not None:
        found = ImageSet.of_dataset(load_dataset(load_spec(dataset, "--dataset")))
    elif images is not None:
        found = ImageSet.of_files(open_images(images))
    else:
        raise UserError("", "give --dataset or --images")
    network = get_extractor(extractor, device, **(options or {}))
    progress = Progress(f"{network.name} of {found.name}", found.count, "img")
    if found.count < 2:
        raise UserError(images or found.name, f"too few images for a covariance ({found.count})", "give at least two")
    name, batches = network.name, _read_ahead(found, network.device)
    with tf32(allow_tf32):
        kept = [name] if keep_features else []
        sums, features = features_of(batches, {name: network}, [name], kept, ddof, progress.update)
    digests, sketch = {name: network.sha256}, found.sketch
    own = OwnReference(found.name, found.digest(), sums, features, digests, ddof, allow_tf32, sketch=sketch)
    write_own(out, own)
    return found.name, sums[name]


def _read_ahead(images: ImageSet, device: torch.device) -> Iterator[torch.Tensor]:
    """Batches of images; for a GPU a thread reads the next ones."""
    small = images.read(0, 1).shape[-1] <= 64 if images.count else True
    batches = images.batches(_BATCH if small else _BATCH_LARGE)
    return batches if device.type == "cpu" else prefetch(batches, 2)
