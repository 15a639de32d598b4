"""References of metrics: published statistics, reference images, or a data set measured here.

| file | content | read as |
|---|---|---|
| ``.npz`` with ``mu``, ``sigma`` | EDM's FID references, clean-fid's statistics | mean and covariance |
| ``.pkl`` | EDM2's ``{"fid": {"mu", "sigma"}, "fd_dinov2": ...}``, read without executing it | mean and covariance |
| ``.npz`` with ``arr_0`` | guided-diffusion's batch of reference images | images, features extracted here |
| ``.safetensors`` | made by ``sida reference`` | sums of features, and the features if they were kept |
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sida.assets.cache import cache_dir, checked, fetch
from sida.config.datasets import dataset_spec
from sida.config.settings import load_spec
from sida.data import Dataset, load_dataset
from sida.data.dataset import Sketch
from sida.errors import Progress, UserError
from sida.eval.features.base import Extractor
from sida.eval.features.pixels import PixelExtractor
from sida.eval.features.registry import get_extractor
from sida.eval.measuring.protocol import Protocol, ReferenceSource
from sida.eval.measuring.reference_files import (
    OwnReference,
    keep,
    read_batch,
    read_kept,
    read_moments,
    read_own,
    write_own,
)
from sida.eval.measuring.stores import ImageStore, in_batches, open_images
from sida.eval.metrics.frechet import Moments, factored
from sida.eval.metrics.kinds import Mean
from sida.eval.metrics.statistics import FeatureStatistics
from sida.eval.results.identity import UNKNOWN_DATA, joined
from sida.files.atomic import sha256_file, sha256_json
from sida.machine import device_name, source_digest, take_device, tf32
from sida.prefetch import prefetch

if TYPE_CHECKING:
    from sida.eval.metrics.metric import Metric

#: Images per batch: of references that are made for a measurement; of files up to 64 pixels wide; of wider ones.
_BATCH, _BATCH_OF_FILE, _BATCH_LARGE = 256, 128, 32
#: Shortest computation in seconds whose sums and features the cache keeps.
_SHORTEST = 20.0


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
        images: Images uint8 (N, C, H, W) whose features are not extracted yet.
        weights: Digest by extractor of the features in a file; empty where they may be of any weights.
    """

    name: str
    sha256: str
    _moments: dict[str, Moments] = field(default_factory=dict)
    _features: dict[str, torch.Tensor] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    sketch: Sketch | None = None
    images: torch.Tensor | None = None
    weights: dict[str, str] = field(default_factory=dict)

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


def open_references(protocol: Protocol, files: Mapping[str, str]) -> dict[str, Reference]:
    """Reads the files that a user gives for references, by key, without a network.

    Raises:
        UserError: Missing file, wrong content, wrong digest or wrong size.
    """
    sources = {key: source for key, source in protocol.used_sources.items() if key in files and source.kind != "given"}
    return {key: _open_file(protocol, key, checked(files[key])) for key in sources}


def _open_file(protocol: Protocol, key: str, path: Path) -> Reference:
    """Content of a reference's file; errors as of :func:`open_references`."""
    source, where, (moments, rows) = protocol.used_sources[key], _place(protocol, key), _extractors_of(protocol, key)
    if not path.is_file():
        raise UserError(path, f"no such reference file ({where})")
    digest = sha256_file(path)
    if source.sha256 is not None and digest != source.sha256:
        raise UserError(path, f"sha256 is {digest}, {where} says {source.sha256}", "fetch the published file again")
    if path.suffix == ".safetensors":
        own = read_own(path, [*moments, *rows])
        _check_made_alike(own, source, path, where, bool(moments), protocol.allow_tf32)
        sums = {name: own.statistics[name].moments for name in moments}
        return Reference(own.name, own.sha256, sums, own.features, own.remarks, own.sketch, None, own.extractors)
    reference = Reference(path.name, digest)
    if moments:
        mean, cov = read_moments(path, source.entry)
        try:
            factor = factored(mean, cov)
        except UserError as error:
            raise UserError(path, error.fault, "fetch or make the statistics again") from None
        reference._moments = dict.fromkeys(moments, Moments(mean, source.num_images, lambda: cov, factor=factor))
    if rows:
        reference.images = read_batch(path)
        if source.num_images is not None and len(reference.images) != source.num_images:
            raise UserError(path, f"holds {len(reference.images)} images, {where} says {source.num_images}")
    return reference


def _check_made_alike(
    own: OwnReference, source: ReferenceSource, path: Path, where: str, moments: bool, allow_tf32: bool
) -> None:
    """Refuses a reference file that was made with other settings than the protocol's."""
    remedy = "leave the file out: the protocol measures its data set"
    if own.allow_tf32 != allow_tf32:
        made, asked = ("with", "without") if own.allow_tf32 else ("without", "with")
        raise UserError(path, f"was made {made} TF32, {where} asks for one made {asked} it (allow_tf32)", remedy)
    if moments and source.kind == "dataset" and own.ddof != source.cov_ddof:
        raise UserError(path, f"has a covariance of ddof {own.ddof}, {where} says cov_ddof {source.cov_ddof}", remedy)


def _place(protocol: Protocol, key: str) -> str:
    """Place of a reference in errors."""
    return f"protocol '{protocol.name}': references.{key}"


def _extractors_of(protocol: Protocol, key: str) -> tuple[list[str], list[str]]:
    """Extractors with which metrics take the moments of a reference, and its features."""
    users = [metric for metric in protocol.metrics if key in metric.references]
    moments, rows = ([m.extractor for m in users if m.real == real] for real in ("moments", "features"))
    return list(dict.fromkeys(moments)), list(dict.fromkeys(rows))


def load_references(
    protocol: Protocol,
    extractors: Mapping[str, Extractor],
    files: Mapping[str, str] | None = None,
    dataset: Callable[[], Dataset] | None = None,
    second: ImageStore | None = None,
    opened: Mapping[str, Reference] | None = None,
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
    opened = open_references(protocol, files) if opened is None else opened
    with tf32(protocol.allow_tf32):
        for key, source in protocol.used_sources.items():
            moments, rows = _extractors_of(protocol, key)
            used = {name: extractors[name] for name in dict.fromkeys([*moments, *rows])}
            where = _place(protocol, key)
            if source.kind == "dataset" and key not in files:
                images = ImageSet.of_dataset(_open_dataset(source, key, where, dataset))
                own = _kept_or_computed(images, used, rows, source.cov_ddof, protocol.allow_tf32)
            elif source.kind == "given":
                images = ImageSet.of_files(second or open_images(files[key]))
                if images.count < 2:
                    raise UserError(files[key], "holds one image", "a comparison takes two or more")
                progress = Progress(f"features of {files[key]}", images.count, "img", interval=2)
                own = _computed(images, used, moments, rows, source.cov_ddof, protocol.allow_tf32, progress.update)
            else:
                reference = opened[key] if key in opened else _open_file(protocol, key, _find_file(source, key, where))
                result[key] = _with_features(reference, used, rows, files.get(key, reference.name))
                own = None
            if own is not None:
                sums = {name: own.statistics[name].moments for name in moments}
                result[key] = Reference(own.name, own.images_sha256, sums, own.features, own.remarks, own.sketch)
            users = [metric for metric in protocol.metrics if key in metric.references]
            _check_fits(result[key], users, extractors, where)
    return result


def _with_features(
    reference: Reference, extractors: Mapping[str, Extractor], rows: Sequence[str], path: str
) -> Reference:
    """The reference of a file with the features of its images.

    Raises:
        UserError: The file has features of other weights.
    """
    for name, digest in reference.weights.items():
        if name in extractors and digest != extractors[name].sha256:
            raise UserError(path, f"was made with other weights of extractor '{name}'", "make it again")
    if (images := reference.images) is None:
        return reference
    batch = ImageSet(reference.name, len(images), lambda a, b: images[a:b], lambda: reference.sha256)
    own = _computed(batch, extractors, [], rows)
    return dataclasses.replace(reference, _features=own.features, sketch=own.sketch, images=None)


def _computed(
    images: ImageSet,
    extractors: Mapping[str, Extractor],
    moments: Sequence[str],
    rows: Sequence[str],
    ddof: int = 1,
    allow_tf32: bool = False,
    progress: Callable[[int], None] | None = None,
    batches: Iterable[torch.Tensor] | None = None,
) -> OwnReference:
    """Sums and features of all images of a set, in one pass for all extractors."""
    batches = images.batches(_BATCH) if batches is None else batches
    sums, features = features_of(batches, images.count, extractors, moments, rows, ddof, progress)
    digests = {name: extractors[name].sha256 for name in {**sums, **features}}
    own = OwnReference(images.name, images.digest(), sums, features, digests, ddof, allow_tf32)
    return dataclasses.replace(own, sketch=images.sketch, remarks=images.remarks())


def _kept_or_computed(
    images: ImageSet, extractors: Mapping[str, Extractor], rows: Collection[str], ddof: int, allow_tf32: bool
) -> OwnReference:
    """Sums of all extractors and features of some, of a data set, which the cache keeps if they took long.

    A file has one extractor's. It serves the code, libraries and device that wrote it, since others differ in last
    digits; the next one of these replaces it.
    """
    digest, maker = images.digest(), f"{source_digest()}, torch {torch.__version__}, numpy {np.__version__}"
    paths = {}
    for name, extractor in extractors.items():
        if name != PixelExtractor.name:  # takes no longer than a file
            facts = [digest, extractor.sha256, name in rows, ddof, allow_tf32, device_name(str(extractor.device))]
            paths[name] = cache_dir() / "references" / f"{sha256_json(facts)[:32]}.safetensors"
    kept = {name: own for name, path in paths.items() if (own := read_kept(path, name)) and own.made_by == maker}
    missing, start = [name for name in extractors if name not in kept], time.monotonic()
    parts = [*kept.values()]
    if missing:
        parts += [_computed(images, extractors, missing, [n for n in missing if n in rows], ddof, allow_tf32)]
    if missing and time.monotonic() - start >= _SHORTEST:
        for name in [name for name in missing if name in paths]:
            keep(paths[name], name, dataclasses.replace(parts[-1], made_by=maker))
    statistics = {name: sums for part in parts for name, sums in part.statistics.items()}
    features = {name: rows for part in parts for name, rows in part.features.items()}
    return dataclasses.replace(parts[-1], name=images.name, statistics=statistics, features=features)


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
        known = [share for share in shares if share is not None]
        if sketches:
            counts = "/".join(str(sum(column)) for column in zip(*known))
            share_by_metric[metric.key] = counts if len(known) == len(shares) else UNKNOWN_DATA
    return share_by_metric


def fixed_digests(protocol: Protocol) -> dict[str, str]:
    """Digests of the fixed data sets of a protocol's references, by key, for references that its metrics use."""
    fixed = {key: source for key, source in protocol.used_sources.items() if source.fixed}
    return {key: data_digest(_open_dataset(source, key, _place(protocol, key), None)) for key, source in fixed.items()}


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
    featured = [network.name] if keep_features else []
    with tf32(False):
        batches, networks = _read_ahead(image_set, network.device), {network.name: network}
        own = _computed(image_set, networks, [network.name], featured, progress=progress.update, batches=batches)
    write_own(out, own)
    return own


def _read_ahead(images: ImageSet, device: torch.device) -> Iterator[torch.Tensor]:
    """Batches of images; for a GPU a thread reads the next ones."""
    small = images.read(0, 1).shape[-1] <= 64 if images.count else True
    batches = images.batches(_BATCH_OF_FILE if small else _BATCH_LARGE)
    return batches if device.type == "cpu" else prefetch(batches, 3)
