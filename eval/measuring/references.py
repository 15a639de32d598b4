"""References of metrics: published statistics, reference images, a data set measured here, or a teacher's samples.

| file | content | read as |
|---|---|---|
| ``.npz`` with ``mu``, ``sigma`` | EDM's FID references, clean-fid's statistics | mean and covariance |
| ``.pkl`` | EDM2's ``{"fid": {"mu", "sigma"}, "fd_dinov2": ...}``, read without executing it | mean and covariance |
| ``.npz`` with ``arr_0`` | guided-diffusion's batch of reference images | images, features extracted here |
| ``.safetensors`` | made by ``sida-eval reference`` | sums of features, and the features if they were kept |
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eval.features.base import Extractor
from eval.features.registry import extract
from eval.measuring.protocol import Protocol, ReferenceSource
from eval.measuring.reference_files import Moments, OwnReference, read_batch, read_moments, read_own
from eval.measuring.stores import open_images
from eval.statistics import FeatureStatistics
from sida.assets import checked
from sida.errors import UserError
from sida.files.atomic import sha256_file, sha256_json
from sida.progress import Progress
from sida.runtime.devices import tf32

if TYPE_CHECKING:
    from eval.measuring.metric import Metric
    from sida.data import Dataset

_BATCH = 256


@dataclass
class Reference:
    """Statistics and features of real images, by extractor.

    Attributes:
        name: For people: data set or file name.
        sha256: Digest of the file, or of the data set behind it.
    """

    name: str
    sha256: str
    _moments: dict[str, Moments] = field(default_factory=dict)
    _features: dict[str, torch.Tensor] = field(default_factory=dict)

    def moments(self, extractor: str) -> Moments:
        """``(mean, covariance, number of images or None)``.

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
            raise UserError(
                f"reference '{self.name}'",
                f"holds no features of extractor '{extractor}' for precision and recall",
                "give reference images, or make one with `sida-eval reference --keep-features`",
            )
        return self._features[extractor]

    def record(self) -> dict[str, str]:
        """Description of the reference in a measurement."""
        return {"name": self.name, "sha256": self.sha256}


def load_references(
    protocol: Protocol,
    extractors: Mapping[str, Extractor],
    files: Mapping[str, str] | None = None,
    dataset: Callable[[], Dataset] | None = None,
) -> dict[str, Reference]:
    """Loads or makes every reference that a protocol's metrics use.

    Args:
        protocol: The protocol.
        extractors: Networks by name, for references that are computed.
        files: Path by reference key; the key ``"*"`` is a folder to search.
        dataset: Opens the data set for references of kind ``dataset``.

    Raises:
        UserError: Missing file, wrong content, wrong digest or wrong size.
    """
    result = {}
    with tf32(protocol.allow_tf32):
        for key, source in protocol.sources.items():
            users = [metric for metric in protocol.metrics if key in metric.references]
            moments = list(dict.fromkeys(m.extractor for m in users if m.real == "moments"))
            rows = list(dict.fromkeys(m.extractor for m in users if m.real == "features"))
            if users:
                where = f"protocol '{protocol.name}': references.{key}"
                result[key] = _load(
                    source, key, where, moments, rows, extractors, files or {}, dataset, protocol.allow_tf32
                )
    return result


def _load(
    source: ReferenceSource,
    key: str,
    where: str,
    moments: list[str],
    rows: list[str],
    extractors: Mapping[str, Extractor],
    files: Mapping[str, str],
    dataset: Callable[[], Dataset] | None,
    allow_tf32: bool,
) -> Reference:
    given = files.get(key)
    if source.kind == "dataset" and given is None:
        return from_dataset(_open_dataset(source, key, where, dataset), extractors, moments, rows, source.cov_ddof)
    if source.kind == "given":
        return _from_images(files[key], extractors, moments, rows, source.cov_ddof)
    path = checked(given if given is not None else find_file(source, key, where, files.get("*")))
    if not path.is_file():
        raise UserError(path, f"no such reference file ({where})")
    digest = sha256_file(path)
    if source.sha256 is not None and digest != source.sha256:
        raise UserError(path, f"sha256 is {digest}, {where} says {source.sha256}", "fetch the published file again")
    if path.suffix == ".safetensors":
        own = read_own(path, {name: extractors[name].sha256 for name in [*moments, *rows]})
        _check_made_alike(own, source, path, where, bool(moments), allow_tf32)
        found = Reference(own.name, own.sha256, {}, own.features)
        for name in moments:
            sums = own.statistics[name]
            found._moments[name] = (sums.mean, sums.cov, sums.count)
        return found
    reference = Reference(path.name, digest)
    if moments:
        mean, cov = read_moments(path, source.entry)
        for name in moments:
            reference._moments[name] = (mean, cov, source.num_images)
    if rows:
        images = read_batch(path)
        if source.num_images is not None and len(images) != source.num_images:
            raise UserError(path, f"holds {len(images)} images, {where} says {source.num_images}")
        _, features = _extract_all(
            (images[i : i + _BATCH] for i in range(0, len(images), _BATCH)), extractors, [], rows
        )
        reference._features |= features
    return reference


def _check_made_alike(
    own: OwnReference, source: ReferenceSource, path: Path, where: str, moments: bool, allow_tf32: bool
) -> None:
    """Refuses a reference file that was made with other settings than the protocol's."""
    if own.allow_tf32 != allow_tf32:
        made, remedy = ("with", "without") if own.allow_tf32 else ("without", "with")
        raise UserError(
            path,
            f"was made {made} TF32, {where} asks for one made {remedy} it (allow_tf32)",
            f"make it again {remedy} --allow-tf32",
        )
    if source.sampled is not None and own.sampled != source.sampled:
        raise UserError(
            path,
            f"holds {own.sampled or 'images of another source'}, {where} asks for samples of a teacher, "
            f"{source.sampled}",
            "make it with `sida-eval reference --spec`",
        )
    if moments and source.kind in ("dataset", "teacher") and own.ddof != source.cov_ddof:
        raise UserError(
            path,
            f"has a covariance of ddof {own.ddof}, {where} says cov_ddof {source.cov_ddof}",
            f"make it again with --ddof {source.cov_ddof}",
        )


def _open_dataset(source: ReferenceSource, key: str, where: str, dataset: Callable[[], Dataset] | None) -> Dataset:
    if dataset is not None and not source.fixed:
        return dataset()
    if source.dataset is None:
        raise UserError(where, "needs the data set", f"give --dataset, or a file with --reference {key}=FILE")
    from sida.config.datasets import dataset_spec
    from sida.data import load_dataset

    return load_dataset(dataset_spec(source.dataset, where))


def find_file(source: ReferenceSource, key: str, where: str, folder: str | None) -> Path:
    """File of a reference: in a folder of the user, else the registered asset (fetched if necessary).

    Raises:
        UserError: There is no such file.
    """
    if folder:
        name = source.file
        if source.asset is not None:
            from sida.assets import load_registry
            from sida.assets.registry import find_asset

            name = Path(find_asset(load_registry(), source.asset).target).name
        hits = sorted(Path(folder).rglob(str(name)))
        if hits:
            return hits[0]
    if source.asset is not None:
        from sida.assets import fetch

        return fetch(source.asset)
    if source.kind == "teacher":
        making = "make it with `sida-eval reference --spec`, then give --reference"
        raise UserError(where, "has no samples of the teacher", f"{making} {key}=FILE")
    raise UserError(where, f"file '{source.file}' is not here", f"give it with --reference {key}=FILE")


def from_dataset(
    dataset: Dataset,
    extractors: Mapping[str, Extractor],
    moments: list[str],
    rows: list[str],
    cov_ddof: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Reference:
    """Computes a reference from all images of a data set, in one pass for all extractors."""
    batches = (dataset.images(range(i, min(i + _BATCH, len(dataset)))) for i in range(0, len(dataset), _BATCH))
    made = _measured(dataset.name, batches, extractors, moments, rows, cov_ddof, progress)
    return dataclasses.replace(made, sha256=data_digest(dataset))


def _from_images(
    path: str, extractors: Mapping[str, Extractor], moments: list[str], rows: list[str], cov_ddof: int
) -> Reference:
    """Computes a reference from all images of a folder or file."""
    store = open_images(path)
    if store.count < 2:
        raise UserError(path, "holds one image", "a comparison takes two or more")
    batches = (
        torch.from_numpy(store.read(i, min(i + _BATCH, store.count)).transpose(0, 3, 1, 2).copy())
        for i in range(0, store.count, _BATCH)
    )
    progress = Progress(f"features of {path}", store.count, "img", interval=2)
    made = _measured(Path(path).name, batches, extractors, moments, rows, cov_ddof, progress.update)
    return dataclasses.replace(made, sha256=store.digest())


def _measured(
    name: str,
    batches: Iterator[torch.Tensor],
    extractors: Mapping[str, Extractor],
    moments: list[str],
    rows: list[str],
    cov_ddof: int,
    progress: Callable[[int], None] | None,
) -> Reference:
    """A reference, without its digest, of images uint8 (N, C, H, W) in batches."""
    statistics, features = _extract_all(batches, extractors, moments, rows, progress)
    reference = Reference(name, "", _features=features)
    for extractor, sums in statistics.items():
        reference._moments[extractor] = (sums.mean, sums.covariance(cov_ddof), sums.count)
    return reference


def records_of(metrics: Iterable[Metric], references: Mapping[str, Reference]) -> dict[str, dict[str, str]]:
    """Descriptions of references in a measurement, by key of the metric."""
    records = {}
    for metric in metrics:
        used = [references[key].record() for key in metric.references]
        if used:
            digests = [record["sha256"] for record in used]
            digest = digests[0] if len(digests) == 1 else sha256_json(digests)
            records[metric.key] = {"name": ", ".join(record["name"] for record in used), "sha256": digest}
    return records


def fixed_digests(protocol: Protocol) -> dict[str, str]:
    """Digests of the fixed data sets of a protocol's references, by key, for references that its metrics use."""
    used = {key for metric in protocol.metrics for key in metric.references}
    fixed = {key: source for key, source in protocol.sources.items() if source.fixed and key in used}
    where = f"protocol '{protocol.name}': references"
    return {key: data_digest(_open_dataset(source, key, f"{where}.{key}", None)) for key, source in fixed.items()}


def data_digest(dataset: Dataset) -> str:
    """Digest of the images of a data set: its data, with the subset or mirrored copies if any."""
    return sha256_json([dataset.sha256, hashlib.sha256(dataset.raw_indices.tobytes()).hexdigest()])


def _extract_all(
    batches: Iterator[torch.Tensor],
    extractors: Mapping[str, Extractor],
    moments: list[str],
    rows: list[str],
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, FeatureStatistics], dict[str, torch.Tensor]]:
    used = {name: extractors[name] for name in dict.fromkeys([*moments, *rows])}
    statistics = {name: FeatureStatistics(device=used[name].device) for name in moments}
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in rows}
    done = 0
    for images in batches:
        outputs = extract(images, used, ())
        for name, sums in statistics.items():
            sums.update(outputs[name].features)
        for name, parts in kept.items():
            parts.append(outputs[name].features.float().cpu())
        done += len(images)
        if progress is not None:
            progress(done)
    return statistics, {name: torch.cat(parts) for name, parts in kept.items()}
