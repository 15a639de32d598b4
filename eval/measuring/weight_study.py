"""Runs studies of weights (:mod:`eval.results.studies`): computes the curves of a row's network and writes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.measuring.measure import threads
from eval.results.studies import format_of
from sida.config.mapping import Settings
from sida.config.ranges import Natural
from sida.errors import UserError
from sida.files.atomic import sha256_file, write_hashed_json
from sida.runtime import provenance
from sida.runtime.devices import take_device, tf32


@dataclass(frozen=True, kw_only=True)
class StudySpec(Settings):
    """Settings of each study of weights.

    Attributes:
        run: Id of the network's row.
        method: Method of the network.
        dataset: Data set of the network.
        threads: CPU threads; 0 keeps torch's choice.
        device: Torch device.
    """

    run: str
    method: str = ""
    dataset: dict[str, Any]
    threads: Natural = 0
    device: str = "cpu"


def write_study(
    study: str,
    spec: StudySpec,
    network: str,
    compute: Callable[[], Mapping[str, Any]],
    out: str | os.PathLike[str],
    where: str,
) -> dict[str, Any]:
    """Computes a study and writes its file; returns the record.

    Args:
        study: Key of the study in a preset.
        spec: Settings of the study.
        network: File of the network.
        compute: Computes ``curves`` and what else belongs to the record.
        out: The ``.json`` to write.
        where: Place named in errors.

    Raises:
        UserError: Another suffix, or the device is missing.
    """
    if Path(out).suffix != ".json":
        raise UserError(f"--out {out}: must end in .json")
    take_device(spec.device, where)
    with threads(spec.threads), tf32(False), torch.no_grad():
        record = {
            "format": format_of(study),
            "run": spec.run,
            "method": spec.method,
            **compute(),
            "network_sha256": sha256_file(network),
            "environment": {**provenance.environment(spec.device), "code": provenance.source_digest()},
        }
    write_hashed_json(out, record)
    return record
