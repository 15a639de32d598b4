"""Runs an analysis (:mod:`eval.results.analyses`) and writes its file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.measuring.measure import threads
from eval.results.analyses import ANALYSIS_FORMAT, Inputs, load_analysis
from sida.config.mapping import Settings, from_mapping
from sida.config.ranges import Natural
from sida.errors import UserError
from sida.files.atomic import sha256_file, sha256_json, write_hashed_json
from sida.runtime import provenance
from sida.runtime.devices import take_device, tf32

#: Inputs that come from the spec.
_GIVEN = ("run", "method", "network", "teacher", "dataset", "protocol", "device")


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec(Settings):
    """Settings of one computation of an analysis.

    Attributes:
        analysis: Name in the preset.
        function: ``FILE.py:NAME``.
        code_sha256: Digest of the function's source, which decides whether a file is made again.
        options: Settings of the function.
        run: Row of the sheet; empty without a row.
        network: File of the row's network.
        teacher: File of its teacher's network.
        dataset: Data set of the row.
        protocol: Content of the row's protocol.
        threads: CPU threads; 0 keeps torch's choice.
        device: Torch device.
    """

    analysis: str
    function: str
    code_sha256: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    run: str = ""
    method: str = ""
    network: str | None = None
    teacher: str | None = None
    dataset: dict[str, Any] | None = None
    protocol: dict[str, Any] | None = None
    threads: Natural = 0
    device: str = "cpu"


def analyse(spec: Mapping[str, Any], out: str | os.PathLike[str], where: str = "--spec") -> dict[str, Any]:
    """Computes an analysis and writes its file; returns the record.

    Args:
        spec: See :class:`AnalysisSpec`.
        out: The ``.json`` to write.
        where: Place named in errors.

    Raises:
        UserError: Bad spec, a missing file or device, or facts that the analysis does not declare.
    """
    if Path(out).suffix != ".json":
        raise UserError(f"--out {out}: must end in .json")
    settings = from_mapping(AnalysisSpec, spec, where)
    analysis = load_analysis(settings.function, f"{where}.function")
    options = analysis.read_options(settings.options, f"{where}.options")
    take_device(settings.device, where)
    given: dict[str, Any] = {name: getattr(settings, name) for name in _GIVEN}
    networks = {key: str(given[key]) for key in ("network", "teacher") if given[key]}
    for key, path in networks.items():
        if not Path(path).is_file():
            raise UserError(f"{where}.{key}: no such file '{path}'")
    with threads(settings.threads), tf32(False), torch.no_grad():
        found = analysis.compute(Inputs(**given, where=where), options)
    if unknown := set(found.facts) ^ set(analysis.facts):
        raise UserError(
            f"{where}.function: '{settings.function}' must give the facts that it declares: {sorted(unknown)}"
        )
    hashes = {key: sha256_file(path) for key, path in networks.items()}
    hashes |= {key: sha256_json(given[key]) for key in ("dataset", "protocol") if given[key]}
    record = {
        "format": ANALYSIS_FORMAT,
        "analysis": settings.analysis,
        "function": settings.function,
        "code_sha256": settings.code_sha256,
        "run": settings.run,
        "method": settings.method,
        "options": dataclasses.asdict(options) if options is not None else {},
        "about": dict(analysis.facts),
        "facts": dict(found.facts),
        "curves": {name: list(values) for name, values in found.curves.items()},
        "more": found.more,
        "inputs": hashes,
        "environment": {**provenance.environment(settings.device), "code": provenance.source_digest()},
    }
    write_hashed_json(out, record)
    return record
