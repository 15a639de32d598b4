"""Files of references: published statistics, image batches, and files of ``sida reference``."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.assets.cache import checked
from sida.data.arrays import Arrays
from sida.data.dataset import Sketch, read_sketch
from sida.errors import UserError
from sida.eval.measuring.protocol import Protocol, ReferenceSource
from sida.eval.metrics.frechet import Moments, factored
from sida.eval.metrics.statistics import FeatureStatistics
from sida.files.atomic import sha256_file, sha256_json
from sida.files.tensors import read_errors, read_tensors, write_tensors

_FORMAT = "sida-reference/2"


def read_moments(path: str | os.PathLike[str], entry: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and covariance (C, C), float64, of a published file.

    Args:
        path: ``.npz`` with ``mu`` and ``sigma``; or a pickle, an npy of a dictionary, or a file of ``torch.save`` with
            both, or with entries of both (EDM2's).
        entry: ``fid`` or ``fd_dinov2`` of EDM2's; ``adm``: the statistics in a batch of reference images.

    Raises:
        UserError: Broken file or other content.
    """
    file = Arrays(path)
    if "" in file.shapes:
        raise UserError(path, "is one array, not statistics", "save both: numpy.savez(FILE, mu=mu, sigma=sigma)")
    if "arr_0" in file.shapes and entry != "adm":
        fault = "is a batch of reference images with statistics of another network, for precision and recall"
        raise UserError(path, fault, "the FID reference is EDM's .npz with mu and sigma alone")
    prefix = next((one for one in ("", f"{entry}.") if file.first([f"{one}mu"])), None)
    if prefix is None and (entries := [name.removesuffix(".mu") for name in file.shapes if name.endswith(".mu")]):
        fault = f"holds the statistics {', '.join(entries)}{f', not {entry!r}' if entry else ''}"
        raise UserError(path, fault, "name one by 'entry' of the reference in the protocol")
    names = [f"{prefix or ''}{name}" for name in ("mu", "sigma")]
    if missing := [name for name in names if file.first([name]) is None]:
        raise UserError(path, f"has no '{missing[0]}'", "it must hold mu and sigma")
    mean, cov = (file.read(name).astype(np.float64) for name in names)
    mean = mean.reshape(-1)
    if cov.shape != (len(mean), len(mean)) or not len(mean):
        raise UserError(path, f"sigma has shape {cov.shape} for {len(mean)} means")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UserError(path, "mu or sigma holds NaN or infinities", "fetch it again")
    return mean, cov


def read_batch(path: str | os.PathLike[str]) -> torch.Tensor:
    """Images uint8 (N, C, H, W) of an ``.npz`` with ``arr_0`` (N, H, W, C).

    Raises:
        UserError: Broken file or other content.
    """
    file = Arrays(path)
    if file.first(["arr_0"]) is None:
        raise UserError(path, "has no 'arr_0' with reference images", "precision and recall need images")
    images = file.read("arr_0")
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(path, f"arr_0 must be uint8 (N, H, W, C), got {images.dtype} {images.shape}")
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class OwnReference:
    """Content of a file of ``sida reference``: one set of images through one or more extractors.

    Attributes:
        name: Name of the images, for people.
        images_sha256: Digest of the images.
        statistics: Sums of features by extractor.
        features: Features float32 (N, C) by extractor, if they were kept.
        extractors: Digest of each extractor by name.
        ddof: Covariance divisor N − ddof.
        allow_tf32: Whether TF32 was allowed.
        sketch: Sketch of the images; None in older files.
        made_by: Code and libraries that computed the features; empty where any may use them.
        remarks: Remarks on the images.
    """

    name: str
    images_sha256: str
    statistics: dict[str, FeatureStatistics]
    features: dict[str, torch.Tensor]
    extractors: dict[str, str]
    ddof: int
    allow_tf32: bool
    sketch: Sketch | None = None
    made_by: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of the images and the divisor."""
        return sha256_json([self.images_sha256, self.ddof])


def write_own(path: str | os.PathLike[str], reference: OwnReference) -> None:
    """Writes a reference as safetensors, atomically."""
    moments_by_name = ((name, sums.tensors()) for name, sums in reference.statistics.items())
    tensors = {f"statistics/{name}/{key}": value for name, moments in moments_by_name for key, value in moments.items()}
    tensors |= {f"features/{name}": rows for name, rows in reference.features.items()}
    names = ("name", "extractors", "ddof", "allow_tf32")
    header: dict[str, Any] = {"format": _FORMAT, "dataset_sha256": reference.images_sha256}
    header |= {} if reference.sketch is None else {"sketch": reference.sketch.record()}
    header |= {"made_by": reference.made_by} if reference.made_by else {}
    header |= {"remarks": [*reference.remarks]} if reference.remarks else {}
    write_tensors(path, tensors, header | {name: getattr(reference, name) for name in names})


def read_own(path: str | os.PathLike[str], names: Iterable[str]) -> OwnReference:
    """Reads a reference file.

    Args:
        path: File of :func:`write_own`.
        names: Names of extractors whose features it must have.

    Raises:
        UserError: Broken file, or no features of an extractor.
    """
    with read_errors(path, "no reference", "make it with `sida reference`"):
        tensors, header = read_tensors(path)
        if header.get("format") != _FORMAT:
            raise ValueError("made by another program or version")
        digests, ddof = header["extractors"], header["ddof"]
        sums = {name: within(tensors, f"statistics/{name}/") for name in digests}
        own = OwnReference(
            name=header["name"],
            images_sha256=header["dataset_sha256"],
            statistics={name: FeatureStatistics.from_tensors(moments, ddof) for name, moments in sums.items()},
            features=within(tensors, "features/"),
            extractors=digests,
            ddof=ddof,
            allow_tf32=bool(header["allow_tf32"]),
            sketch=read_sketch(header.get("sketch")),
            made_by=str(header.get("made_by", "")),
            remarks=tuple(map(str, header.get("remarks", ()))),
        )
    for name in names:
        if name not in digests:
            raise UserError(path, f"holds features of extractor '{', '.join(digests)}', not of '{name}'")
    return own


def check_weights(path: str | os.PathLike[str], own: OwnReference, extractors: Mapping[str, str]) -> None:
    """Refuses a reference whose features are of other weights than those of extractors, digests by name."""
    for name, digest in extractors.items():
        if digest != own.extractors[name]:
            raise UserError(path, f"was made with other weights of extractor '{name}'", "make it again")


@dataclass(frozen=True)
class ReferenceFile:
    """Content of a reference's file, which is read without a network.

    Attributes:
        path: The file.
        sha256: Its digest.
        own: Content of a file of ``sida reference``.
        moments: Published statistics.
        images: Images of a batch, uint8 (N, C, H, W).
    """

    path: Path
    sha256: str
    own: OwnReference | None = None
    moments: Moments | None = None
    images: torch.Tensor | None = None


def open_files(protocol: Protocol, files: Mapping[str, str]) -> dict[str, ReferenceFile]:
    """Reads the files that a user gives for references, by key, so that a fault is told before images are drawn.

    Raises:
        UserError: Missing file, wrong content, wrong digest or wrong size.
    """
    sources = {key: source for key, source in protocol.used_sources.items() if key in files and source.kind != "given"}
    return {key: open_file(protocol, key, checked(files[key])) for key in sources}


def place(protocol: Protocol, key: str) -> str:
    """Place of a reference in errors."""
    return f"protocol '{protocol.name}': references.{key}"


def extractors_of(protocol: Protocol, key: str) -> tuple[list[str], list[str]]:
    """Extractors with which metrics take the moments of a reference, and its features."""
    users = [metric for metric in protocol.metrics if key in metric.references]
    moments, rows = ([m.extractor for m in users if m.real == real] for real in ("moments", "features"))
    return list(dict.fromkeys(moments)), list(dict.fromkeys(rows))


def open_file(protocol: Protocol, key: str, path: Path) -> ReferenceFile:
    """Content of a reference's file; errors as of :func:`open_files`."""
    source, where, (moments, rows) = protocol.used_sources[key], place(protocol, key), extractors_of(protocol, key)
    if not path.is_file():
        raise UserError(path, f"no such reference file ({where})")
    digest = sha256_file(path)
    if source.sha256 is not None and digest != source.sha256:
        raise UserError(path, f"sha256 is {digest}, {where} says {source.sha256}", "fetch the published file again")
    if path.suffix == ".safetensors":
        own = read_own(path, [*moments, *rows])
        _check_made_alike(own, source, path, where, bool(moments), protocol.allow_tf32)
        return ReferenceFile(path, digest, own)
    of_source, images = None, None
    if moments:
        mean, cov = read_moments(path, source.entry)
        try:
            factor = factored(mean, cov)
        except UserError as error:
            raise UserError(path, error.fault, "fetch or make the statistics again") from None
        of_source = Moments(mean, source.num_images, lambda: cov, factor=factor)
    if rows:
        images = read_batch(path)
        if source.num_images is not None and len(images) != source.num_images:
            raise UserError(path, f"holds {len(images)} images, {where} says {source.num_images}")
    return ReferenceFile(path, digest, None, of_source, images)


def _check_made_alike(
    own: OwnReference, source: ReferenceSource, path: Path, where: str, moments: bool, allow_tf32: bool
) -> None:
    """Refuses a reference file that was made with other settings than the protocol's."""
    if own.allow_tf32 != allow_tf32:
        made, remedy = ("with", "without") if own.allow_tf32 else ("without", "with")
        fault = f"was made {made} TF32, {where} asks for one made {remedy} it (allow_tf32)"
        raise UserError(path, fault, f"make it again {remedy} --allow-tf32")
    if moments and source.kind == "dataset" and own.ddof != source.cov_ddof:
        fault = f"has a covariance of ddof {own.ddof}, {where} says cov_ddof {source.cov_ddof}"
        raise UserError(path, fault, f"make it again with --ddof {source.cov_ddof}")


def within(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose names begin with a prefix, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
