"""Reconstruction of further power-function averages of a teacher from its stored averages (post-hoc EMA).

Source: EDM2 (arXiv:2312.02696), section 3.2 and appendix C.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.files.tensor_header import TensorHeader, read_tensor_header
from sida.files.tensors import iterate_tensors
from sida.networks.file import build_on_meta, check_names_and_shapes, read_metadata, write_state_dict
from sida.training.averages import inner_product, posthoc_coefficients


@dataclasses.dataclass(frozen=True)
class Kept:
    """A stored average.

    Attributes:
        path: File of the average.
        metadata: Metadata in its header.
        header: Positions of its tensors.
    """

    path: Path
    metadata: dict[str, Any]
    header: TensorHeader

    @property
    def profile(self) -> tuple[float, float]:
        """Returns the images seen and the relative width."""
        return float(self.metadata["nimg"]), float(self.metadata["average_std"])


def reconstruct_average(
    sources: Sequence[str | os.PathLike[str]], std: float, target: str | os.PathLike[str], nimg: int | None = None
) -> float:
    """Writes the network of a power-function average with another width.

    Args:
        sources: Stored averages of one run (``power_ema``), at several numbers of images and of one or more widths.
        std: Requested relative width, in (0, 0.28).
        target: Network file to write; its ``parents`` are the sources.
        nimg: Images seen at the end of the requested profile; None takes that of the newest source.

    Returns:
        Relative error of the profile: norm of its difference from the requested profile over the norm of the latter.
        The relative error of the weights is usually of this order, times the distance between averages of the run.

    Raises:
        UserError: A file is not such an average, the files are of several runs, or the profile ends after all of them.
    """
    if not 0 < std < 0.28:
        raise UserError(f"--std: must be above 0 and below 0.28, got {std:g}")
    kept = sorted((_open(Path(source)) for source in sources), key=lambda one: one.profile)
    if not kept:
        raise UserError("average: no networks given; give those of a run's snapshots")
    _check_of_one_run(kept)
    newest = kept[-1]
    end = newest.profile[0] if nimg is None else float(nimg)
    if not 0 < end <= newest.profile[0]:
        most = newest.profile[0]
        raise UserError(f"--nimg: must be above 0 and at most {most:,.0f}, where the newest average ends; got {nimg}")
    times, stds = (np.array(values) for values in zip(*(one.profile for one in kept)))
    weights = posthoc_coefficients(times, stds, [end], [std])[:, 0]
    parents = {f"average {t:.0f} {s:g}": sha256_file(one.path) for one, t, s in zip(kept, times, stds)}
    metadata = {**newest.metadata, "nimg": int(end), "average_std": std, "parents": parents}
    write_state_dict(_combined(kept, weights), target, metadata)
    return _distance(times, stds, weights, end, std)


def _open(path: Path) -> Kept:
    metadata = read_metadata(path)
    if "average_std" not in metadata:
        raise UserError(f"{path}: is not a power-function average; train with power_ema and snapshot_kimg")
    return Kept(path, metadata, read_tensor_header(path))


def _check_of_one_run(kept: Sequence[Kept]) -> None:
    """Checks that the averages belong to one run, have equal tensors, and that no profile occurs twice."""
    first = kept[0]
    net = build_on_meta(first.metadata["network"], len(first.header.entries), str(first.path))
    for one, before in zip(kept, (None, *kept)):
        if one.metadata["config_sha256"] != first.metadata["config_sha256"]:
            raise UserError(f"{one.path}: belongs to another run than {first.path}; give averages of one run")
        if before is not None and one.profile == before.profile:
            raise UserError(f"{one.path}: is the same average as {before.path}; give each once")
        check_names_and_shapes(one.path, {entry.name: entry.shape for entry in one.header.entries}, net)


def _combined(kept: Sequence[Kept], weights: np.ndarray) -> dict[str, torch.Tensor]:
    """Weighted sums of the parameters, tensor by tensor; the buffers of the newest network."""
    newest = kept[-1]
    net = build_on_meta(newest.metadata["network"], len(newest.header.entries), str(newest.path))
    learned = {name for name, _ in net.named_parameters()}
    combined = {}
    # With strict, each file is read beyond its last tensor and so compares its hash.
    for group in zip(*(iterate_tensors(one.path, one.header) for one in kept), strict=True):
        name, last = group[-1]
        if name in learned:
            # Double precision, because the coefficients are large and have both signs.
            last = sum(weight * tensor.double() for weight, (_, tensor) in zip(weights.tolist(), group)).float()
        combined[name] = last
    return {name: combined[name] for name in net.state_dict()}


def _distance(times: np.ndarray, stds: np.ndarray, weights: np.ndarray, end: float, std: float) -> float:
    gram = inner_product(times[:, None], stds[:, None], times[None], stds[None])
    wanted = float(inner_product(end, std, end, std))
    cross = weights @ inner_product(times, stds, end, std)
    return float(np.sqrt(max(wanted - 2 * cross + weights @ gram @ weights, 0.0) / wanted))
