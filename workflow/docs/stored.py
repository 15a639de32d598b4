"""Results of a preset as small readable files that a repository can hold: enough to compute every number again.

A stored study has four files. ``measurements.csv`` has a line for each run and trial with a column for each metric;
``evaluations.csv`` the evaluations during training; ``training.csv`` the speed, memory and size of weights in each
record of a training log. ``study.json`` has what is the same for many lines: protocol, device, code, digests, image
seeds, the minute of a run's first measurement, and the preset. ``analytic.json``, where there is one, is kept as it is;
``barriers.json`` has the curves of ``barriers/<run>.json``.
:func:`unpack` turns them back into the files that tables, figures and claims are built from.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.results.measurements import collect, long_rows
from eval.results.summary import COLUMNS
from sida.errors import UserError
from sida.files.atomic import write_json, write_text
from sida.files.content_hash import KEY
from workflow.docs import stored_barriers
from workflow.docs.stored_lines import evaluation, grouped, plain_csv, read_csv, records, tick, values_of

FORMAT = "sida-study/1"
FILES = ("measurements.csv", "evaluations.csv", "training.csv", "study.json")
#: Kept as they are, where there are any.
OPTIONAL = ("analytic.json",)
_PLACE = ("run", "trial", "metric", "value")
#: What may decide a column of the measurements, in the order in which it is tried.
_BY: dict[str, Callable[[Mapping[str, str]], str]] = {
    "all": lambda row: "",
    "metric": lambda row: row["metric"],
    "trial": lambda row: row["trial"],
    "run": lambda row: row["run"],
    "run and metric": lambda row: f"{row['run']} {row['metric']}",
    "run and trial": lambda row: f"{row['run']} {row['trial']}",
}


def store(
    results: str | Path, out: str | Path, about: Mapping[str, Any], asked: Mapping[str, str], add: bool = False
) -> list[Path]:
    """Writes a stored study; returns its files.

    Args:
        results: Folder of a preset: ``measurements.csv`` (or trials below ``measurements/``) and training logs.
        out: Folder to write.
        about: Further facts for ``study.json``: ``preset`` (its configuration file) and ``title``.
        asked: Digests by row of what the preset asks for now (:func:`workflow.preset.spec_files.row_digest`).
        add: Rows that ``out`` holds and these results lack stay, where their digest is the same.

    Raises:
        UserError: Nothing was measured there.
    """
    results, out = Path(results), Path(out)
    found = Part.of_results(results)
    if add:
        found = found.joined(Part.of_stored(out, asked))
    rows, teachers = found.rows, found.teachers
    shared = {column: _shared(rows, column) for column in rows[0] if column not in _PLACE}
    facts = {
        "format": FORMAT,
        **about,
        "teachers": sorted(teachers),
        "seconds_of_teachers": {name: round(seconds) for name, seconds in sorted(teachers.items())},
        "seconds_of_training": round(
            sum(teachers.values()) + sum(float(tick.get("seconds", 0)) for tick in found.ticks)
        ),
        "asked": {run: digest for run, digest in asked.items() if run in found.runs},
        "measurements": shared,
    }
    write_text(out / "measurements.csv", plain_csv(_wide(rows)))
    write_text(out / "evaluations.csv", plain_csv(found.evaluations))
    write_text(out / "training.csv", plain_csv(found.ticks))
    write_json(out / "study.json", facts)
    extra = [name for name in OPTIONAL if (results / name).is_file()]
    for name in () if add else OPTIONAL:
        (out / name).unlink(missing_ok=True)
    for name in extra:
        shutil.copyfile(results / name, out / name)
    return [*(out / name for name in (*FILES, *extra)), *stored_barriers.store(found.barriers, out)]


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a study: measurements, evaluations, records of training, barriers; and the seconds of each teacher."""

    rows: Sequence[dict[str, str]] = ()
    evaluations: Sequence[dict[str, str]] = ()
    ticks: Sequence[dict[str, str]] = ()
    teachers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    barriers: Mapping[str, stored_barriers.Curves] = dataclasses.field(default_factory=dict)

    @property
    def runs(self) -> set[str]:
        """Rows that are measured."""
        return {row["run"] for row in self.rows}

    @classmethod
    def of_results(cls, results: Path) -> Part:
        """The measured rows of a results folder."""
        rows = [{k: "" if v is None else str(v) for k, v in row.items() if k != KEY} for row in _long(results)]
        first: dict[str, str] = {}
        for row in rows:
            first[row["run"]] = min(first.get(row["run"], row["date"]), row["date"])
        for row in rows:
            row["date"] = _minute(first[row["run"]])
        logs = [results / "students" / run / "train.jsonl" for run in sorted({row["run"] for row in rows})]
        return cls(
            rows,
            [
                {"run": log.parent.name} | evaluation(record)
                for log in logs
                for record in records(log.with_name("evaluations.jsonl"))
            ],
            [{"run": log.parent.name} | tick(record) for log in logs for record in records(log)],
            {
                log.parent.name: sum(float(record.get("seconds", 0)) for record in records(log))
                for log in sorted((results / "teachers").glob("*/train.jsonl"))
            },
            stored_barriers.of_results(results),
        )

    @classmethod
    def of_stored(cls, folder: Path, asked: Mapping[str, str]) -> Part:
        """Rows of a stored study that are what is asked for still."""
        if not (folder / "study.json").is_file():
            return cls()
        study = read_study(folder)
        kept = {run for run, digest in study.get("asked", {}).items() if asked.get(run) == digest}
        with tempfile.TemporaryDirectory() as unpacked:
            unpack(folder, unpacked)
            rows = [row for row in read_csv(Path(unpacked) / "measurements.csv") if row["run"] in kept]

        def lines_of(name: str) -> list[dict[str, str]]:
            lines = (line for line in read_csv(folder / name) if line["run"] in kept)
            return [{key: text for key, text in line.items() if text} for line in lines]

        curves = {run: curves for run, curves in stored_barriers.of_stored(folder).items() if run in kept}
        seconds = study.get("seconds_of_teachers", {})
        return cls(rows, lines_of("evaluations.csv"), lines_of("training.csv"), seconds, curves)

    def joined(self, earlier: Part) -> Part:
        """These rows, and those that only an earlier part has."""

        def more(name: str) -> list[dict[str, str]]:
            return [*getattr(self, name), *(r for r in getattr(earlier, name) if r["run"] not in self.runs)]

        teachers, curves = {**earlier.teachers, **self.teachers}, {**earlier.barriers, **self.barriers}
        return Part(more("rows"), more("evaluations"), more("ticks"), teachers, curves)


def read_study(folder: str | Path) -> dict[str, Any]:
    """Reads ``study.json``.

    Raises:
        UserError: A file is missing, or it is no stored study.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; store the study again (sida-eval docs --store)")
    study: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    if study.get("format") != FORMAT:
        raise UserError(f"{folder / 'study.json'}: format must be '{FORMAT}', is {study.get('format')!r}")
    return study


def unpack(folder: str | Path, out: str | Path) -> None:
    """Writes ``measurements.csv``, ``students/<run>/{evaluations,train}.jsonl`` and ``barriers/<run>.json`` as the
    workflow has them.

    Raises:
        UserError: A faulty stored study.
    """
    folder, out = Path(folder), Path(out)
    shared = read_study(folder)["measurements"]
    for name in OPTIONAL:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    stored_barriers.unpack(folder, out)
    rows: list[dict[str, str]] = []
    for record in read_csv(folder / "measurements.csv"):
        for metric in (name for name, value in record.items() if name not in ("run", "trial") and value):
            row = {"run": record["run"], "trial": record["trial"], "metric": metric, "value": record[metric]}
            rows.append(row | {name: _looked_up(row, name, rule, folder) for name, rule in shared.items()})
    write_text(out / "measurements.csv", plain_csv(rows, COLUMNS))
    for name, log in (("evaluations.csv", "evaluations.jsonl"), ("training.csv", "train.jsonl")):
        by_run: dict[str, list[str]] = {}
        for record in read_csv(folder / name):
            numbers = {key: values_of(key, value) for key, value in record.items() if key != "run" and value}
            by_run.setdefault(record["run"], []).append(json.dumps(grouped(numbers)))
        for run, lines in by_run.items():
            write_text(out / "students" / run / log, "\n".join(lines) + "\n")


def _minute(time: str) -> str:
    """A time without its seconds: enough to tell whether a prediction was written before it."""
    return f"{time[:16]}Z" if len(time) > 16 else time


def _long(results: Path) -> Sequence[Mapping[str, Any]]:
    path = results / "measurements.csv"
    rows = read_csv(path) if path.is_file() else long_rows(collect(results / "measurements"))
    if not rows:
        raise UserError(f"{path}: holds no measurements; measure first")
    return rows


def _shared(rows: Sequence[Mapping[str, str]], column: str) -> dict[str, Any]:
    """What decides a column, and its values."""
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
