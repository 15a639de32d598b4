"""Runs an analysis (:mod:`eval.results.analyses`) and writes its file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.results.analyses import ANALYSIS_FORMAT, Inputs, load_analysis
from sida.config.settings import Natural, from_mapping
from sida.errors import UserError
from sida.files.atomic import sha256_file, sha256_json, write_hashed_json
from sida.runtime import provenance
from sida.runtime.devices import cpu_threads, take_device, tf32


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec(Inputs):
    """One computation of an analysis: the function with its options, and its inputs.

    Attributes:
        analysis: Name in the preset.
        function: ``FILE.py:NAME``.
        code_sha256: Digest of the function's source, which decides whether a file is made again.
        options: Settings of the function.
        threads: CPU threads; 0 keeps torch's choice.
    """

    analysis: str
    function: str
    code_sha256: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    threads: Natural = 0


def analyse(spec: Mapping[str, Any], out: str | os.PathLike[str]) -> dict[str, Any]:
    """Computes an analysis and writes its file; returns the record.

    Args:
        spec: See :class:`AnalysisSpec`.
        out: The ``.json`` to write.

    Raises:
        UserError: Bad spec, a missing file or device, or facts that the analysis does not declare.
    """
    settings = from_mapping(AnalysisSpec, spec, "--spec")
    analysis = load_analysis(settings.function, "--spec.function")
    options = analysis.read_options(settings.options, "--spec.options")
    take_device(settings.device, "--spec")
    networks = {key: path for key in ("network", "teacher") if (path := getattr(settings, key))}
    for key, path in networks.items():
        if not Path(path).is_file():
            raise UserError(f"--spec.{key}", f"no such file '{path}'")
    with cpu_threads(settings.threads), tf32(False), torch.no_grad():
        found = analysis.compute(settings, options)
    if unknown := set(found.facts) ^ set(analysis.facts):
        fault = f"'{settings.function}' must give the facts that it declares: {sorted(unknown)}"
        raise UserError("--spec.function", fault)
    hashes = {key: sha256_file(path) for key, path in networks.items()}
    hashes |= {key: sha256_json(given) for key in ("dataset", "protocol") if (given := getattr(settings, key))}
    record = {
        "format": ANALYSIS_FORMAT,
        **{key: getattr(settings, key) for key in ("analysis", "function", "code_sha256", "run", "method")},
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
