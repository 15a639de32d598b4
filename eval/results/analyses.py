"""Analyses of a preset: a function of its study finds facts and curves of a row's network, or of no row.

A study's file ``FILE.py`` offers an :class:`Analysis`, which the preset names (``analyses``). The workflow runs it as a
job and keeps one file for each row; figures draw the curves, and rule FACT decides on the facts. Nothing outside the
study's folder changes for a new one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.results.sheet import SELECTABLE
from sida.config.plugins import load_file_object
from sida.config.settings import Natural, Settings, from_mapping, names_file_object
from sida.errors import SettingError, UserError, suggestion
from sida.files.atomic import read_hashed_json, sha256_file, sha256_json, write_hashed_json

ANALYSIS_FORMAT = "sida-analysis/1"
#: A number, a value with the ends of its interval, or None if the settings give no such number.
Fact = float | Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class AnalysisEntry:
    """An analysis of a preset: its function, and the rows that it is computed for.

    Attributes:
        function: ``FILE.py:NAME`` in the preset's folder; the object is an :class:`Analysis`.
        rows: Conditions on the sample sheet: teachers, and students trained here. Null: computed once, without a row.
        protocol: Whether the function reads the protocol of the row.
        options: Settings of the function.
    """

    function: str
    rows: dict[str, Any] | None = None
    protocol: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not names_file_object(self.function):
            raise SettingError("function", f"must be FILE.py:NAME, got '{self.function}'")
        if self.rows == {}:
            raise SettingError("rows", "must name conditions on the sheet, such as {recipe: [sid, sida]}")
        for key in self.rows or {}:
            if key not in SELECTABLE:
                raise SettingError("rows", f"the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")


@dataclass(frozen=True, kw_only=True)
class Inputs(Settings):
    """Inputs of an analysis; None for an input that was not asked for, or that the row does not have.

    Attributes:
        run: Row of the sheet; empty without a row.
        method: Its method.
        network: File of the row's network.
        teacher: File of its teacher's network.
        dataset: Spec of its data set.
        protocol: Content of its protocol, reduced to the metrics that are watched in training.
        device: Torch device.
    """

    run: str = ""
    method: str = ""
    network: str | None = None
    teacher: str | None = None
    dataset: dict[str, Any] | None = None
    protocol: dict[str, Any] | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Found:
    """Result of an analysis.

    Attributes:
        facts: Values by the names in :attr:`Analysis.facts`.
        curves: Equally long columns of numbers by name.
        more: Any further JSON, for a figure of the study.
    """

    facts: Mapping[str, Fact] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    more: Any = None


@dataclass(frozen=True)
class Analysis:
    """An analysis that a study's file offers.

    Attributes:
        compute: The function, of the inputs and the options. It imports torch itself: presets are read without it.
        facts: Descriptions of its facts by name.
        options: Dataclass of its options; None for a function without options.
    """

    compute: Callable[[Inputs, Any], Found]
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: type[Any] | None = None

    def read_options(self, given: Mapping[str, Any], where: str) -> Any:
        """Checks options.

        Raises:
            UserError: Unknown option, or a wrong value.
        """
        if self.options is not None:
            return from_mapping(self.options, given, where)
        if given:
            raise UserError(where, "this analysis has no options", f"remove {', '.join(given)}")
        return None


def load_analysis(function: str, where: str) -> Analysis:
    """Imports an analysis, ``FILE.py:NAME``.

    Raises:
        UserError: No such file or object, no permission, or no :class:`Analysis`.
    """
    found = load_file_object(function, where)
    if not isinstance(found, Analysis):
        raise UserError(where, f"'{function}' must be an eval.results.analyses.Analysis")
    return found


def analysis_path(results: str | Path, name: str, run: str = "") -> Path:
    """File of an analysis below a preset's results."""
    return Path(results, "analyses", *filter(None, (name, run))).with_name(f"{run or name}.json")


def read_analysis(path: str | Path) -> dict[str, Any]:
    """Reads the file of an analysis.

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such file", f"make it with `sida analyse --spec SPEC --out {path}`")
    found = read_hashed_json(path, "make it again with `sida analyse`")
    whole = found.get("format") == ANALYSIS_FORMAT and all(
        isinstance(found.get(key), Mapping) for key in ("facts", "curves")
    )
    lengths = {len(v) if isinstance(v, list) else 0 for v in found["curves"].values()} if whole else set()
    if not whole or len(lengths) > 1 or 0 in lengths:
        raise UserError(path, f"is not written by `sida analyse` (format {ANALYSIS_FORMAT})", "make it again")
    return found


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
    import torch

    from sida import provenance
    from sida.machine import cpu_threads, take_device, tf32

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
