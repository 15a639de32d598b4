"""Extracts features of a finite set of images: a data set, files of images, or samples of a teacher."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from eval.features import get_extractor
from eval.features.base import Extractor
from eval.features.registry import make_extractors
from eval.measuring.measure import Measurer
from eval.measuring.protocol import load_protocol
from eval.measuring.reference_files import OwnReference, read_own, write_own
from eval.measuring.references import ImageSet, add_features
from eval.measuring.stores import open_images
from eval.measuring.trial import prefetch
from eval.metrics.statistics import FeatureStatistics
from sida.config.settings import load_spec
from sida.data import load_dataset
from sida.errors import Progress, UserError, suggestion
from sida.machine import cpu_threads, take_device, tf32

#: First seed of a teacher's samples, far from those of trials: samples of a student and its teacher share no noise.
TEACHER_SEED0 = 1 << 30
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
    name, statistics = network.name, FeatureStatistics(ddof=ddof, device=network.device)
    kept: dict[str, list[torch.Tensor]] = {name: []} if keep_features else {}
    with tf32(allow_tf32):
        add_features(_read_ahead(found, network.device), {name: network}, {name: statistics}, kept, progress.update)
    features = {name: torch.cat(rows) for name, rows in kept.items()}
    digests = {name: network.sha256}
    sums, sketch = {name: statistics}, found.sketch
    own = OwnReference(found.name, found.digest(), sums, features, digests, ddof, allow_tf32, sketch=sketch)
    write_own(out, own)
    return found.name, statistics


def write_teacher_reference(out: str | os.PathLike[str], spec: Mapping[str, Any], key: str) -> OwnReference:
    """Draws a teacher's samples once, as a reference of kind ``teacher`` (``sida reference --spec``).

    The part that is done is beside ``out`` until the file is complete, so that an interrupted call goes on from there.

    Args:
        out: Safetensors file to write.
        spec: See :class:`eval.measuring.sources.MeasureSpec`; the reference determines the sampler.
        key: Key of the protocol's reference.

    Raises:
        UserError: No reference of this kind, a bad spec, or a missing file or device.
    """
    measurer, extractors = _sampling(spec, key)
    source, total = measurer.protocol.sources[key], measurer.protocol.num_samples
    digests, part = {name: net.sha256 for name, net in extractors.items()}, Path(f"{out}.part")
    own = OwnReference(
        f"samples of {Path(str(measurer.spec.network)).parent.name}",
        measurer.digest,
        {name: FeatureStatistics(ddof=source.cov_ddof, device=net.device) for name, net in extractors.items()},
        {name: torch.empty(0) for name in extractors},
        digests,
        source.cov_ddof,
        measurer.protocol.allow_tf32,
        source.sampled,
    )
    done = 0
    with contextlib.suppress(UserError):
        begun = read_own(part, digests)
        if (begun.images_sha256, begun.ddof, begun.sampled) == (own.images_sha256, own.ddof, own.sampled):
            own, done = begun, begun.count
    progress = Progress(own.name, total, "img", done=done)
    kept = {name: [rows] if len(rows) else [] for name, rows in own.features.items()}
    with cpu_threads(measurer.spec.threads), tf32(measurer.protocol.allow_tf32), torch.no_grad():
        while done < total:
            # A tenth at a time: half of one is lost on average when a machine goes away.
            last = min(done + -(-total // 10), total)
            first = measurer.protocol.seed0
            batches = measurer.source.batches(range(first + done, first + last), measurer.batch_size)
            images = (batch.images for batch in batches)
            done = add_features(images, extractors, own.statistics, kept, progress.update, done)
            own.features.update({name: torch.cat(rows) for name, rows in kept.items()})
            write_own(part if done < total else out, own)
    part.unlink(missing_ok=True)
    return own


def _sampling(spec: Mapping[str, Any], key: str) -> tuple[Measurer, dict[str, Extractor]]:
    """The teacher with the reference's sampler and seeds, and the extractors of the metrics that use the reference."""
    protocol = load_protocol(spec.get("protocol", ""))
    source = protocol.sources.get(key)
    if source is None or source.sampled is None or key not in protocol.drawn_references():
        known = suggestion(key, protocol.drawn_references())
        fault = f"has no metric with a reference '{key}' of kind 'teacher'{known}"
        raise UserError(f"protocol '{protocol.name}'", fault)
    used = protocol.part([metric.key for metric in protocol.metrics if key in metric.references])
    used = dataclasses.replace(used, num_samples=int(source.sampled["num_images"]), trials=1, seed0=TEACHER_SEED0)
    names = {"run": "teacher", "method": "teacher", "sampler": source.sampler}
    measurer = Measurer({**spec, **names, "protocol": used})
    return measurer, make_extractors(used.extractors(), measurer.spec.device, measurer.spec.extractors)


def _read_ahead(images: ImageSet, device: torch.device) -> Iterator[torch.Tensor]:
    """Batches of images; for a GPU a thread reads the next ones."""
    small = images.read(0, 1).shape[-1] <= 64 if images.count else True
    batches = images.batches(_BATCH if small else _BATCH_LARGE)
    return batches if device.type == "cpu" else prefetch(batches, 2)
