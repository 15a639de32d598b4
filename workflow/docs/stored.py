"""Stores results of a preset as small text files for a repository, sufficient to recompute every number.

A stored study (``studies/NAME/stored``) has these files; :func:`unpack` converts them into the input files of tables,
figures and claims.

- ``measurements.csv``: a line for each run and trial, a column for each metric.
- ``evaluations.csv``, ``training.csv``: evaluations during training; speed, memory and size of weights by log record.
- ``study.json``: columns that are equal for many lines (protocol, device, code, digests, seeds), and the preset.
- ``analytic.json``, ``barriers.json``, ``layers.json``: if the preset has them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from eval.results.measurements import collect, long_rows
from eval.results.studies import STUDIES, format_of, read_curves
from eval.results.summary import MEASUREMENT_COLUMNS
from sida.errors import UserError
from sida.files.atomic import read_jsonl, write_hashed_json, write_json, write_text
from sida.files.content_hash import HASH_KEY

STUDY_FORMAT = "sida-study/1"
STORED_FILES = ("measurements.csv", "evaluations.csv", "training.csv", "study.json")
ANALYTIC = "analytic.json"
_PLACE = ("run", "trial", "metric", "value")
#: Columns that may determine another column of the measurements, in the order of attempts.
_BY: dict[str, Callable[[Mapping[str, str]], str]] = {
    "all": lambda row: "",
    "metric": lambda row: row["metric"],
    "trial": lambda row: row["trial"],
    "run": lambda row: row["run"],
    "run and metric": lambda row: f"{row['run']} {row['metric']}",
    "run and trial": lambda row: f"{row['run']} {row['trial']}",
}
_TICK = ("nimg", "img_per_s", "memory_mb", "memory_reserved_mb", "seconds")
#: Key of numbers by network in a training log; stored as columns ``weight_rms.NETWORK``.
_BY_NETWORK = "weight_rms"


def store(
    results: str | Path, out: str | Path, about: Mapping[str, Any], asked: Mapping[str, str], add: bool = False
) -> None:
    """Writes a stored study.

    Args:
        results: Folder of a preset: ``measurements.csv`` (or trials below ``measurements/``) and training logs.
        out: Folder to write.
        about: Further facts for ``study.json``: ``preset`` (its name or file) and ``title``.
        asked: Digest of each row's settings (:func:`workflow.preset.spec_files.row_digest`).
        add: Whether rows of ``out`` that are missing in these results stay, if their digest is unchanged.

    Raises:
        UserError: The results have no measurements.
    """
    results, out = Path(results), Path(out)
    found = StudyRows.of_results(results)
    if add:
        found = found.joined(StudyRows.of_stored(out, asked))
    rows, teachers = found.rows, dict(sorted(found.teachers.items()))
    facts = {
        "format": STUDY_FORMAT,
        **about,
        "teachers": [*teachers],
        "seconds_of_teachers": {name: round(seconds) for name, seconds in teachers.items()},
        "seconds_of_training": round(sum(teachers.values()) + sum(float(t.get("seconds", 0)) for t in found.ticks)),
        "asked": {run: digest for run, digest in asked.items() if run in found.runs},
        "measurements": {column: _shared(rows, column) for column in rows[0] if column not in _PLACE},
    }
    write_text(out / "measurements.csv", _csv(_wide(rows)))
    write_text(out / "evaluations.csv", _csv(found.evaluations))
    write_text(out / "training.csv", _csv(found.ticks))
    write_json(out / "study.json", facts)
    if (results / ANALYTIC).is_file():
        shutil.copyfile(results / ANALYTIC, out / ANALYTIC)
    elif not add:
        (out / ANALYTIC).unlink(missing_ok=True)
    for study in STUDIES:
        (out / f"{study}.json").unlink(missing_ok=True)
        paths = [path for path in sorted(found.curves) if path.startswith(f"{study}/")]
        if lines := [f' "{path.partition("/")[2]}": {json.dumps(found.curves[path])}' for path in paths]:
            write_text(out / f"{study}.json", "{\n" + ",\n".join(lines) + "\n}\n")


@dataclasses.dataclass(frozen=True)
class StudyRows:
    """Rows of a study: measurements, evaluations, training records, curves by ``<study>/<run>``, time of teachers."""

    rows: Sequence[dict[str, str]] = ()
    evaluations: Sequence[dict[str, str]] = ()
    ticks: Sequence[dict[str, str]] = ()
    teachers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def runs(self) -> set[str]:
        """Rows that are measured."""
        return {row["run"] for row in self.rows}

    @classmethod
    def of_results(cls, results: Path) -> StudyRows:
        """The measured rows of a results folder."""
        rows = [{k: "" if v is None else str(v) for k, v in row.items() if k != HASH_KEY} for row in _long(results)]
        latest_first = sorted(rows, key=lambda row: row["date"], reverse=True)
        first = {row["run"]: row["date"] for row in latest_first}
        for row in rows:
            # Minutes suffice to check that a prediction was written before the measurement.
            row["date"] = re.sub(r"^(.{16}).+", r"\1Z", first[row["run"]])

        def lines(name: str, numbers: Callable[[Mapping[str, Any]], dict[str, str]]) -> list[dict[str, str]]:
            logs = [results / "students" / run / name for run in sorted(first)]
            return [{"run": p.parent.name} | numbers(r) for p in logs if p.is_file() for r in read_jsonl(p)]

        seconds = {
            log.parent.name: sum(float(record.get("seconds", 0)) for record in read_jsonl(log))
            for log in sorted((results / "teachers").glob("*/train.jsonl"))
        }
        files = [(study, path) for study in STUDIES for path in (results / study).glob("*.json")]
        curves = {f"{study}/{path.stem}": _rounded(read_curves(study, path)["curves"]) for study, path in files}
        return cls(rows, lines("evaluations.jsonl", _evaluation), lines("train.jsonl", _tick), seconds, curves)

    @classmethod
    def of_stored(cls, folder: Path, asked: Mapping[str, str]) -> StudyRows:
        """Rows of a stored study whose settings are unchanged."""
        if not (folder / "study.json").is_file():
            return cls()
        study = read_study(folder)
        kept = {run for run, digest in study.get("asked", {}).items() if asked.get(run) == digest}
        with tempfile.TemporaryDirectory() as unpacked:
            unpack(folder, unpacked)
            rows = [row for row in stored_lines(Path(unpacked) / "measurements.csv") if row["run"] in kept]

        def lines(name: str) -> list[dict[str, str]]:
            return [{k: v for k, v in line.items() if v} for line in stored_lines(folder / name) if line["run"] in kept]

        curves = {path: found for path, found in _stored_curves(folder).items() if path.partition("/")[2] in kept}
        return cls(rows, lines("evaluations.csv"), lines("training.csv"), study.get("seconds_of_teachers", {}), curves)

    def joined(self, earlier: StudyRows) -> StudyRows:
        """These rows, and the rows that only ``earlier`` has."""

        def more(name: str) -> list[dict[str, str]]:
            return [*getattr(self, name), *(row for row in getattr(earlier, name) if row["run"] not in self.runs)]

        teachers, curves = {**earlier.teachers, **self.teachers}, {**earlier.curves, **self.curves}
        return StudyRows(more("rows"), more("evaluations"), more("ticks"), teachers, curves)


def read_study(folder: str | Path) -> dict[str, Any]:
    """Reads ``study.json``.

    Raises:
        UserError: A file is missing, or the format is another.
    """
    folder = Path(folder)
    for name in STORED_FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; store the study again (sida-eval docs --store)")
    study: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    if study.get("format") != STUDY_FORMAT:
        raise UserError(f"{folder / 'study.json'}: format must be '{STUDY_FORMAT}', is {study.get('format')!r}")
    return study


def unpack(folder: str | Path, out: str | Path) -> None:
    """Writes the files of a study in the workflow's form.

    Args:
        folder: The stored study.
        out: Folder for ``measurements.csv``, ``students/<run>/{evaluations,train}.jsonl``, ``<study>/<run>.json`` and
            ``analytic.json``.

    Raises:
        UserError: A faulty stored study.
    """
    folder, out = Path(folder), Path(out)
    shared = read_study(folder)["measurements"]
    if (folder / ANALYTIC).is_file():
        shutil.copyfile(folder / ANALYTIC, out / ANALYTIC)
    for path, curves in _stored_curves(folder).items():
        study, _, run = path.partition("/")
        write_hashed_json(out / f"{path}.json", {"format": format_of(study), "run": run, "curves": curves})
    rows: list[dict[str, str]] = []
    for record in stored_lines(folder / "measurements.csv"):
        for metric in (name for name, value in record.items() if name not in ("run", "trial") and value):
            row = {"run": record["run"], "trial": record["trial"], "metric": metric, "value": record[metric]}
            rows.append(row | {name: _looked_up(row, name, rule, folder) for name, rule in shared.items()})
    write_text(out / "measurements.csv", _csv(rows, MEASUREMENT_COLUMNS))
    for name, log in (("evaluations.csv", "evaluations.jsonl"), ("training.csv", "train.jsonl")):
        by_run: dict[str, list[str]] = {}
        for record in stored_lines(folder / name):
            by_run.setdefault(record["run"], []).append(json.dumps(_logged(record)))
        for run, lines in by_run.items():
            write_text(out / "students" / run / log, "\n".join(lines) + "\n")


def stored_lines(path: Path) -> list[dict[str, str]]:
    """Lines of a stored file by column."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV without hashes; the default columns are all keys in order of appearance."""
    text, columns = io.StringIO(newline=""), columns or list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rounded(curves: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.7g}") for value in values] for name, values in curves.items()}


def _stored_curves(folder: Path) -> dict[str, Any]:
    stored = {study: folder / f"{study}.json" for study in STUDIES}
    read = {study: json.loads(path.read_text(encoding="utf-8")) for study, path in stored.items() if path.is_file()}
    return {f"{study}/{run}": curves for study, by_run in read.items() for run, curves in by_run.items()}


def _evaluation(record: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of an evaluation without its time; lists over trials become numbers with spaces between them."""
    kept = {}
    for key, value in record.items():
        trials = record.get(f"{key.removesuffix('_std').removesuffix('_trials')}_trials", ())
        if key == "seconds" or (key.endswith(("_std", "_trials")) and len(trials) < 2):
            continue
        kept[key] = " ".join(map(_short, value)) if isinstance(value, list) else _short(value)
    return kept


def _tick(record: Mapping[str, Any]) -> dict[str, str]:
    """Progress, speed, memory and size of weights in a training record."""
    numbers = {key: record[key] for key in _TICK if key in record}
    numbers |= {f"{_BY_NETWORK}.{name}": value for name, value in record.get(_BY_NETWORK, {}).items()}
    return {key: _short(value) for key, value in numbers.items() if value is not None}


def _short(value: float | str | None) -> str:
    """A cell of a stored log; null becomes ``nan``."""
    return "nan" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def _logged(line: Mapping[str, str]) -> dict[str, Any]:
    """A record of a log from its stored line."""
    found: dict[str, Any] = {}
    for key, text in line.items():
        if key != "run" and text:
            values = [_value(word) for word in text.split(" ")]
            group, _, name = key.partition(".")
            place = found.setdefault(group, {}) if group == _BY_NETWORK else found
            place[name or key] = values if key.endswith("_trials") else values[0] if len(values) == 1 else text
    return found


def _value(word: str) -> int | float | str | None:
    try:
        return cast(int | float | None, json.loads("null" if word == "nan" else word))
    except ValueError:
        return word


def _long(results: Path) -> Sequence[Mapping[str, Any]]:
    path = results / "measurements.csv"
    if rows := stored_lines(path) if path.is_file() else long_rows(collect(results / "measurements")):
        return rows
    raise UserError(f"{path}: holds no measurements; measure first")


def _shared(rows: Sequence[Mapping[str, str]], column: str) -> dict[str, Any]:
    for by, key in _BY.items():
        values: dict[str, str] = {}
        if all(values.setdefault(key(row), row[column]) == row[column] for row in rows):
            return {"by": by, "values": values}
    raise UserError(f"column '{column}' differs between metrics of one run and trial; it cannot be stored")


def _looked_up(row: Mapping[str, str], column: str, rule: Mapping[str, Any], folder: Path) -> str:
    key = _BY[rule["by"]](row)
    if key not in rule["values"]:
        raise UserError(f"{folder / 'study.json'}: measurements.{column} has no value for {key or 'all'}")
    return str(rule["values"][key])


def _wide(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault((row["run"], row["trial"]), {"run": row["run"], "trial": row["trial"]})
        line[row["metric"]] = f"{float(row['value']):.7g}"
    return list(lines.values())
