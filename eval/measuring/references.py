"""References of metrics: published statistics, reference images, or a data set measured here.

| file | content | read as |
|---|---|---|
| ``.npz`` with ``mu``, ``sigma`` | EDM's FID references, clean-fid's statistics | mean and covariance |
| ``.pkl`` | EDM2's ``{"fid": {"mu", "sigma"}, "fd_dinov2": ...}``, read without executing it | mean and covariance |
| ``.npz`` with ``arr_0`` | guided-diffusion's batch of reference images | images, features extracted here |
| ``.safetensors`` | made by ``sida reference`` | sums of features, and the features if they were kept |
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sida.assets.cache import fetch
from sida.config.datasets import dataset_spec
from sida.config.settings import load_spec
from sida.data import Dataset, load_dataset
from sida.data.dataset import Sketch
from sida.errors import Progress, UserError
from sida.eval.features.base import Extractor
from sida.eval.features.registry import get_extractor
from sida.eval.measuring.kept_features import KeptFeatures
from sida.eval.measuring.protocol import Protocol, ReferenceSource
from sida.eval.measuring.reference_files import (
    OwnReference,
    ReferenceFile,
    check_weights,
    extractors_of,
    open_file,
    open_files,
    place,
    write_own,
)
from sida.eval.measuring.stores import ImageStore, in_batches, open_images
from sida.eval.metrics.frechet import Moments
from sida.eval.metrics.kinds import Mean
from sida.eval.metrics.statistics import FeatureStatistics
from sida.eval.results.identity import UNKNOWN_DATA, joined
from sida.files.atomic import sha256_json
from sida.machine import take_device, tf32
from sida.prefetch import prefetch

if TYPE_CHECKING:
    from sida.eval.metrics.metric import Metric

#: Images per batch: of references that are made for a measurement; of files up to 64 pixels wide; of wider ones.
_BATCH, _BATCH_OF_FILE, _BATCH_LARGE = 256, 128, 32


@dataclass
class ImageSet:
    """A finite set of images.

    Attributes:
        name: Name for people.
        count: Number of images.
        read: Function ``read(begin, end) -> uint8 (N, C, H, W)``.
        digest: Digest of the images.
        remarks: Remarks on the images read so far.
        sketch: Sketch of the images read so far.
    """

    name: str
    count: int
    read: Callable[[int, int], torch.Tensor]
    digest: Callable[[], str]
    remarks: Callable[[], tuple[str, ...]] = tuple
    sketch: Sketch = field(default_factory=Sketch)

    @classmethod
    def of_dataset(cls, data: Dataset) -> ImageSet:
        """All images of a data set."""
        return cls(data.name, len(data), lambda a, b: data.images(range(a, b)), lambda: data_digest(data))

    @classmethod
    def of_files(cls, store: ImageStore) -> ImageSet:
        """All images of a folder or file."""
        digests: Counter[bytes] = Counter()

        def read(begin: int, end: int) -> torch.Tensor:
            images = store.read(begin, end)
            digests.update(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
            return torch.from_numpy(images)

        def remarks() -> tuple[str, ...]:
            repeats = digests.total() - len(digests)
            return (*store.remarks, *([f"{repeats:,} images equal another one"] if repeats else []))

        return cls(store.path.name, store.count, read, lambda: store.digest, remarks)

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """All images in their order, ``size`` at a time."""
        for images in in_batches(self.read, 0, self.count, size):
            self.sketch = self.sketch.with_images(images.numpy())
            yield images


def features_of(
    batches: Iterable[torch.Tensor],
    expected: int,
    extractors: Mapping[str, Extractor],
    moments: Collection[str],
    rows: Collection[str],
    ddof: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, FeatureStatistics], dict[str, torch.Tensor]]:
    """Sums of features, and features on the CPU, of images by extractor, in one pass.

    Args:
        batches: Images uint8 (N, C, H, W).
        expected: Number of all images.
        extractors: Networks by name.
        moments: Networks whose features are summed.
        rows: Networks whose features are kept, float32 (N, C).
        ddof: Divisor N − ddof of covariances.
        progress: Called after each batch with the number of images.
    """
    count, used_extractors = 0, {name: extractors[name] for name in dict.fromkeys([*moments, *rows])}
    statistics = {name: FeatureStatistics(None, ddof, extractors[name].device, expected) for name in moments}
    parts_of: dict[str, list[torch.Tensor]] = {name: [] for name in rows}
    for images in batches:
        features = {name: extractor(images) for name, extractor in used_extractors.items()}
        for name, sums in statistics.items():
            sums.update(features[name])
        for name, parts in parts_of.items():
            parts.append(features[name].float().cpu())
        count += len(images)
        if progress is not None:
            progress(count)
    return statistics, {name: torch.cat(parts) for name, parts in parts_of.items()}


@dataclass
class Reference:
    """Statistics and features of real images, by extractor.

    Attributes:
        name: For people: data set or file name.
        sha256: Digest of the file, or of the data set behind it.
        remarks: Remarks on its images, for the report.
        sketch: Sketch of its images; None where they are not at hand.
    """

    name: str
    sha256: str
    _moments: dict[str, Moments] = field(default_factory=dict)
    _features: dict[str, torch.Tensor] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    sketch: Sketch | None = None

    def moments(self, extractor: str) -> Moments:
        """Mean, covariance and number of images.

        Raises:
            UserError: The reference has no statistics of this extractor.
        """
        if extractor not in self._moments:
            raise UserError(f"reference '{self.name}'", f"has no mean and covariance for extractor '{extractor}'")
        return self._moments[extractor]

    def features(self, extractor: str) -> torch.Tensor:
        """Features float32 (N, C) on the CPU.

        Raises:
            UserError: The reference holds no features of this extractor.
        """
        if extractor not in self._features:
            fault = f"holds no features of extractor '{extractor}' for precision and recall"
            remedy = "give reference images, or make one with `sida reference --keep-features`"
            raise UserError(f"reference '{self.name}'", fault, remedy)
        return self._features[extractor]

    def record(self) -> dict[str, str]:
        """Description of the reference in a measurement."""
        return {"name": self.name, "sha256": self.sha256}


def load_references(
    protocol: Protocol,
    extractors: Mapping[str, Extractor],
    files: Mapping[str, str] | None = None,
    dataset: Callable[[], Dataset] | None = None,
    second: ImageStore | None = None,
    opened: Mapping[str, ReferenceFile] | None = None,
) -> dict[str, Reference]:
    """Loads or makes every reference that a protocol's metrics use.

    Args:
        protocol: The protocol.
        extractors: Networks by name, for references that are computed.
        files: Path by reference key.
        dataset: Opens the data set for references of kind ``dataset``.
        second: Opened images of a reference of kind ``given``; None opens its path.
        opened: Content of ``files``; None reads them.

    Raises:
        UserError: Missing file, wrong content, wrong digest or wrong size.
    """
    result, files = {}, files or {}
    opened = open_files(protocol, files) if opened is None else opened
    with tf32(protocol.allow_tf32):
        for key, source in protocol.used_sources.items():
            moments, rows = extractors_of(protocol, key)
            where = place(protocol, key)
            if source.kind == "dataset" and key not in files:
                images = ImageSet.of_dataset(_open_dataset(source, key, where, dataset))
                result[key] = _reference_of_dataset(images, source, extractors, moments, rows, protocol.allow_tf32)
            elif source.kind == "given":
                images = ImageSet.of_files(second or open_images(files[key]))
                if images.count < 2:
                    raise UserError(files[key], "holds one image", "a comparison takes two or more")
                progress = Progress(f"features of {files[key]}", images.count, "img", interval=2)
                result[key] = _reference_of(images, source, extractors, moments, rows, progress.update)
            else:
                file = opened[key] if key in opened else open_file(protocol, key, _find_file(source, key, where))
                result[key] = _reference_of_file(file, source, extractors, moments, rows)
            users = [metric for metric in protocol.metrics if key in metric.references]
            _check_fits(result[key], users, extractors, where)
    return result


def _reference_of_file(
    file: ReferenceFile,
    source: ReferenceSource,
    extractors: Mapping[str, Extractor],
    moments: Sequence[str],
    rows: Sequence[str],
) -> Reference:
    """A reference of a file's content."""
    if (own := file.own) is not None:
        check_weights(file.path, own, {name: extractors[name].sha256 for name in [*moments, *rows]})
        sums = {name: own.statistics[name].moments for name in moments}
        return Reference(own.name, own.sha256, sums, own.features, own.remarks, own.sketch)
    reference = Reference(file.path.name, file.sha256)
    if file.moments is not None:
        reference._moments |= dict.fromkeys(moments, file.moments)
    if (images := file.images) is not None:
        batch = ImageSet(file.path.name, len(images), lambda a, b: images[a:b], lambda: file.sha256)
        new_reference = _reference_of(batch, source, extractors, [], rows)
        reference._features, reference.sketch = new_reference._features, new_reference.sketch
    return reference


def _reference_of(
    images: ImageSet,
    source: ReferenceSource,
    extractors: Mapping[str, Extractor],
    moments: Sequence[str],
    rows: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> Reference:
    """A reference of all images of a set, in one pass for all extractors."""
    batches, ddof = images.batches(_BATCH), source.cov_ddof
    statistics, features = features_of(batches, images.count, extractors, moments, rows, ddof, progress)
    moments_by_name = {name: sums.moments for name, sums in statistics.items()}
    return Reference(images.name, images.digest(), moments_by_name, features, images.remarks(), images.sketch)


def _reference_of_dataset(
    images: ImageSet,
    source: ReferenceSource,
    extractors: Mapping[str, Extractor],
    moments: Sequence[str],
    rows: Sequence[str],
    allow_tf32: bool,
) -> Reference:
    """A reference of a data set, with the features that the cache keeps of it."""
    digest, ddof = images.digest(), source.cov_ddof
    used_extractors = {name: extractors[name] for name in dict.fromkeys([*moments, *rows])}

    def compute(names: Sequence[str]) -> OwnReference:
        featured = [name for name in names if name in rows]
        sums, features = features_of(images.batches(_BATCH), images.count, extractors, names, featured, ddof)
        digests = {name: extractors[name].sha256 for name in names}
        return OwnReference(images.name, digest, sums, features, digests, ddof, allow_tf32, sketch=images.sketch)

    own = KeptFeatures(images.name, digest, used_extractors, rows, ddof, allow_tf32).get(compute)
    moments_by_name = {name: own.statistics[name].moments for name in moments}
    return Reference(images.name, digest, moments_by_name, own.features, images.remarks(), own.sketch)


def _check_fits(reference: Reference, users: Sequence[Metric], extractors: Mapping[str, Extractor], where: str) -> None:
    """Refuses a reference that a metric cannot use, before the first image is drawn."""
    for metric in users:
        if metric.real == "moments":
            # 0: known after the first batch only.
            num_features = getattr(extractors[metric.extractor], "num_features", 0)
            width = len(reference.moments(metric.extractor).mean)
            if num_features not in (0, width):
                fault = f"has {width} features, extractor '{metric.extractor}' gives {num_features} ({where})"
                raise UserError(f"reference '{reference.name}'", fault, "give statistics of that extractor")
        elif metric.real == "features":
            count = len(reference.features(metric.extractor))
            if shortage := metric.fault(count):
                fault = f"has too few images ({metric.key}: {shortage}; {where})"
                raise UserError(f"reference '{reference.name}'", fault, "give more images")


def _open_dataset(source: ReferenceSource, key: str, where: str, dataset: Callable[[], Dataset] | None) -> Dataset:
    if dataset is not None and not source.fixed:
        return dataset()
    if source.dataset is None:
        raise UserError(where, "needs the data set", f"give --dataset, or a file with --reference {key}=FILE")
    return load_dataset(source.spec or dataset_spec(source.dataset, where))


def _find_file(source: ReferenceSource, key: str, where: str) -> Path:
    """File of a reference that the user does not name: the registered asset, fetched if necessary.

    Raises:
        UserError: The file does not exist.
    """
    if source.asset is not None:
        return fetch(source.asset)
    raise UserError(where, f"file '{source.file}' is not here", f"give it with --reference {key}=FILE")


def records_of(metrics: Iterable[Metric], references: Mapping[str, Reference]) -> dict[str, dict[str, str]]:
    """Descriptions of references in a measurement, by key of the metric."""
    records, metrics = {}, list(metrics)
    for metric in metrics:
        reference_records = [references[key].record() for key in metric.references]
        if reference_records:
            names = ", ".join(record["name"] for record in reference_records)
            records[metric.key] = {"name": names, "sha256": joined([record["sha256"] for record in reference_records])}
    for metric in metrics:
        if isinstance(metric, Mean):
            parts = [records[key] for key in metric.of if key in records]
            names = ", ".join(dict.fromkeys(part["name"] for part in parts))
            records[metric.key] = {"name": names, "sha256": joined([part["sha256"] for part in parts])}
    return records


def held_out_shares(
    protocol: Protocol, references: Mapping[str, Reference], training_images: Sketch | None
) -> dict[str, str]:
    """Held-out images of each metric that a training had: ``common/searched``, or ``unknown``.

    Args:
        protocol: The protocol; metrics without held-out images are left out.
        references: References by key.
        training_images: Sketch of the images that the generator was trained on; None: unknown.
    """
    share_by_metric = {}
    for metric in protocol.metrics:
        sketches = [references[key].sketch for key in protocol.held_out(metric)]
        shares = [training_images.shared(sketch) if training_images and sketch else None for sketch in sketches]
        if sketches:
            counts_of_part = [share for share in shares if share is not None]
            sums = [sum(counts) for counts in zip(*counts_of_part)]
            share_by_metric[metric.key] = (
                "/".join(map(str, sums)) if len(counts_of_part) == len(shares) else UNKNOWN_DATA
            )
    return share_by_metric


def fixed_digests(protocol: Protocol) -> dict[str, str]:
    """Digests of the fixed data sets of a protocol's references, by key, for references that its metrics use."""
    fixed = {key: source for key, source in protocol.used_sources.items() if source.fixed}
    where = f"protocol '{protocol.name}': references"
    return {key: data_digest(_open_dataset(source, key, f"{where}.{key}", None)) for key, source in fixed.items()}


def data_digest(dataset: Dataset) -> str:
    """Digest of the images of a data set: its data, with the subset or mirrored copies if any."""
    return sha256_json([dataset.sha256, hashlib.sha256(dataset.raw_indices.tobytes()).hexdigest()])


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
) -> OwnReference:
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
        The content of the file.

    Raises:
        UserError: Fewer than two images there, no such network or device, or unknown options.
    """
    take_device(device, "reference")
    if dataset is not None:
        image_set = ImageSet.of_dataset(load_dataset(load_spec(dataset, "--dataset")))
    elif images is not None:
        image_set = ImageSet.of_files(open_images(images))
    else:
        raise UserError("", "give --dataset or --images")
    network = get_extractor(extractor, device, **(options or {}))
    progress = Progress(f"{network.name} of {image_set.name}", image_set.count, "img")
    if image_set.count < 2:
        raise UserError(
            images or image_set.name, f"too few images for a covariance ({image_set.count})", "give at least two"
        )
    name, batches = network.name, _read_ahead(image_set, network.device)
    with tf32(allow_tf32):
        featured = [name] if keep_features else []
        count, networks = image_set.count, {name: network}
        sums, features = features_of(batches, count, networks, [name], featured, ddof, progress.update)
    digests, sketch, remarks = {name: network.sha256}, image_set.sketch, image_set.remarks()
    own = OwnReference(
        image_set.name, image_set.digest(), sums, features, digests, ddof, allow_tf32, sketch=sketch, remarks=remarks
    )
    write_own(out, own)
    return own


def _read_ahead(images: ImageSet, device: torch.device) -> Iterator[torch.Tensor]:
    """Batches of images; for a GPU a thread reads the next ones."""
    small = images.read(0, 1).shape[-1] <= 64 if images.count else True
    batches = images.batches(_BATCH_OF_FILE if small else _BATCH_LARGE)
    return batches if device.type == "cpu" else prefetch(batches, 3)
