"""Measures and merges shards of a trial; shards merge in any order, and a lost shard is measured again alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.measuring.measure import Measurer, threads
from eval.measuring.protocol import Protocol
from eval.measuring.trial import TrialSums
from eval.results.measurements import trial_path, write_measurement
from sida.errors import UserError
from sida.files.atomic import set_aside
from sida.files.tensors import TensorFileError, read_tensors
from sida.progress import Progress, say
from sida.runtime.provenance import source_digest


def measure_shard(spec: Mapping[str, Any], out: str | os.PathLike[str], trial: int, begin: int, end: int) -> Path:
    """Measures the images ``begin … end − 1`` of a trial into ``<out>/trial-<t>/shard-<begin>-<end>.safetensors``.

    An existing shard of the same spec is kept. Returns the path.
    """
    measurer = Measurer(spec)
    protocol = measurer.protocol
    if not 0 <= begin < end <= protocol.num_samples:
        raise UserError("--shard", f"must lie within 0-{protocol.num_samples}, got {begin}-{end}")
    path = Path(out) / f"trial-{trial}" / f"shard-{begin}-{end}.safetensors"
    with threads(measurer.spec.threads):
        if path.is_file():
            try:
                header = TrialSums.load(path, protocol)[1]
                # Another version of the code may have drawn other images.
                if (_origin(header), header.get("code")) == (_origin_of(measurer, trial), source_digest()):
                    return path
            except UserError as error:
                say(f"{error} (which is done now)")
        progress = Progress(f"measure {measurer.spec.run} trial {trial} images {begin}-{end}", end - begin, "img")
        sums = measurer.sums(trial, begin, end, progress)
    sums.save(path, {"run": measurer.spec.run, **_origin_of(measurer, trial), "code": source_digest()})
    return path


def _origin_of(measurer: Measurer, trial: int) -> dict[str, Any]:
    """What decides the sums of a shard besides the settings of the metrics, which the sums check themselves."""
    weights = {name: extractor.sha256 for name, extractor in measurer.extractors.items()}
    return {"trial": trial, "spec_sha256": measurer.digest, "extractors": weights}


def _origin(header: Mapping[str, Any]) -> dict[str, Any]:
    return {key: header.get(key) for key in ("trial", "spec_sha256", "extractors")}


def merge_shards(
    spec: Mapping[str, Any], shards: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], trial: int
) -> dict[str, Any]:
    """Merges the shards of a trial, in any order, into ``<out>/trial-<t>.json`` and returns the record.

    Raises:
        UserError: No shards, shards of another spec, trial or version of the code, missing images (the message names
            the ranges), or a damaged shard (it is moved aside, so that the same command measures it again).
    """
    measurer = Measurer(spec)
    if not shards:
        raise UserError("merge", "no shards given", "measure some with `sida-eval measure --shard A-B`")
    sums = TrialSums(measurer.protocol)
    for path in shards:
        shard, header = _load(path, measurer.protocol)
        if _origin(header) != _origin_of(measurer, trial):
            raise UserError(path, "belongs to another trial, generator or feature network", "measure this shard again")
        if header.get("code") != source_digest():
            raise UserError(
                path,
                f"was measured by another version of the code ({header.get('code')}, here {source_digest()})",
                "remove it to have it measured again",
            )
        sums.merge(shard)
    record = measurer.record(trial, sums)
    write_measurement(trial_path(out, trial), record)
    return record


def _load(path: str | os.PathLike[str], protocol: Protocol) -> tuple[TrialSums, dict[str, Any]]:
    """Reads a shard; moves a damaged file aside."""
    try:
        return TrialSums.load(path, protocol)
    except UserError as error:
        if not _is_damaged(path):
            raise
        with contextlib.suppress(OSError):
            aside = set_aside(path).name
            raise UserError(
                f"{error} (it is set aside as {aside}", "the same workflow command measures it now)"
            ) from None
        raise


def _is_damaged(path: str | os.PathLike[str]) -> bool:
    try:
        read_tensors(path)
    except TensorFileError:
        return Path(path).is_file()
    return False
