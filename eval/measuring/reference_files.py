"""Files of references: published statistics, image batches, and files of ``sida reference``."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.data.arrays import Arrays
from sida.data.dataset import Sketch, read_sketch
from sida.errors import UserError, say
from sida.eval.metrics.statistics import FeatureStatistics
from sida.files.atomic import sha256_json
from sida.files.tensors import read_errors, read_tensors, write_tensors

_FORMAT = "sida-reference/2"
#: Largest features of an extractor in bytes that the cache keeps.
_LARGEST = 1 << 30


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
        sums = {name: _within(tensors, f"statistics/{name}/") for name in digests}
        own = OwnReference(
            name=header["name"],
            images_sha256=header["dataset_sha256"],
            statistics={name: FeatureStatistics.from_tensors(moments, ddof) for name, moments in sums.items()},
            features=_within(tensors, "features/"),
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


def _within(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose names begin with a prefix, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def read_kept(path: Path, name: str) -> OwnReference | None:
    """Sums and features of an extractor that the cache keeps; None where they are not there or damaged."""
    try:
        return read_own(path, [name]) if path.exists() else None
    except UserError as error:
        say(f"{error.where}: {error.fault}; these features are computed again")
        return None


def keep(path: Path, name: str, own: OwnReference) -> None:
    """Writes sums and features of an extractor that are not too large."""
    features = {name: own.features[name]} if name in own.features else {}
    if any(rows.nbytes > _LARGEST for rows in features.values()):
        return
    sums, digests = {name: own.statistics[name]}, {name: own.extractors[name]}
    part = replace(own, statistics=sums, features=features, extractors=digests)
    # A full disk or a cache of another user costs the time of the next measurement alone.
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_own(path, part)
