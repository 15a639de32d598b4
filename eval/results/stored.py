"""Stored results: a results folder without the parts that a run makes again, small enough for a repository.

``studies/NAME/stored`` has these files of ``results/NAME``, and every reader of results reads it:

- ``measurements.csv``, compressed (``.gz``) if large; the trials themselves are left out.
- ``logs.jsonl.gz``: the logs of all trainings (:mod:`eval.results.logs`).
- On request the networks.
- ``stored.json``: the preset, the digest of each row's settings, and the time of all trainings.
- ``claims.json`` and ``claims.md``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.results.logs import PACKED, logs_of
from eval.results.measurements import collect, long_rows
from eval.results.summary import columns_of, load_measurements, measurements_file
from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.atomic import atomic_folder, atomic_path, jsonl_text, read_hashed_json, write_hashed_json, write_text
from sida.files.content_hash import csv_text
from sida.files.ordinary import open_below
from sida.files.text_files import gzip_bytes, read_csv

STORED = "stored.json"
#: Beginning of the origin of rows that were taken from stored results.
FROM_STORED = "stored results "
STORED_FORMAT = "sida-stored/1"
#: Size of ``measurements.csv`` in bytes from which it is compressed.
LARGE = 200_000
_NETWORKS = ("teachers/*/network.safetensors", "students/*/network.safetensors")


def read_stored(folder: str | Path) -> dict[str, Any]:
    """Reads ``stored.json``.

    Raises:
        UserError: The file is missing or damaged, or the format is another.
    """
    path = Path(folder) / STORED
    if not path.is_file():
        raise UserError(path, "is missing", "name a folder of stored results, such as studies/demo/stored")
    facts = read_hashed_json(path, "take it from the repository again, or store the results again")
    if facts.get("format") != STORED_FORMAT:
        raise UserError(
            path, f"format must be '{STORED_FORMAT}', is {facts.get('format')!r}", "store the results again"
        )
    return facts


def unchanged_rows(folder: str | Path, asked: Mapping[str, str]) -> list[str]:
    """Stored rows whose settings have the digests that are asked for.

    Args:
        folder: Stored results.
        asked: Digest of each row's settings (:func:`workflow.preset.jobs.row_digest`).
    """
    return [run for run, digest in read_stored(folder)["rows"].items() if asked.get(run) == digest]


def files_of(folder: Path, runs: Collection[str], networks: bool = True) -> Iterator[tuple[str, bytes]]:
    """Yields the files of rows and of all teachers in a results folder, by path: logs and (if asked for) networks.

    Teachers come first, so that networks that start from others are newer than these.
    """
    for pattern in _NETWORKS if networks else ():
        for path in sorted(folder.glob(pattern)):
            if pattern.startswith("teachers") or path.parent.name in runs:
                name = path.relative_to(folder).as_posix()
                # A link would copy another file of the user.
                with os.fdopen(open_below(folder, name), "rb") as stream:
                    yield name, stream.read()
    for name, records in logs_of(folder):
        if name.startswith("teachers") or name.split("/")[1] in runs:
            yield name, jsonl_text(records, final=True).encode()


def store(
    results: str | Path, out: str | Path, about: Mapping[str, Any], asked: Mapping[str, str], *, networks: bool = False
) -> None:
    """Stores results.

    Args:
        results: Folder of a preset: ``measurements.csv`` (or trials below ``measurements/``) and training logs.
        out: Folder to write, replaced as a whole.
        about: Further facts for ``stored.json``: ``preset`` (its configuration file) and ``title``.
        asked: Digest of each row's settings.
        networks: Whether networks are stored as well.

    Raises:
        UserError: The results have no measurements.
    """
    results, out = Path(results), Path(out)
    rows, logs = _measured(results), dict(logs_of(results))
    here = {row["run"] for row in rows}
    logs = {name: found for name, found in logs.items() if name.startswith("teachers") or name.split("/")[1] in here}
    seconds = {name: _seconds(found) for name, found in logs.items() if name.endswith("/train.jsonl")}
    teachers = {name.split("/")[1]: round(spent) for name, spent in seconds.items() if name.startswith("teachers")}
    with atomic_folder(out.with_name(f".{out.name}.new")) as part:
        for path in (path for pattern in _NETWORKS if networks for path in results.glob(pattern)):
            if path.parent.name in here or path.parent.parent.name == "teachers":
                name = path.relative_to(results).as_posix()
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(open_below(results, name), "rb") as stream, open(part / name, "wb") as copy:
                    shutil.copyfileobj(stream, copy)
        packed = [{"log": name, **record} for name, found in logs.items() for record in found]
        (part / PACKED).write_bytes(gzip_bytes(jsonl_text(packed, final=True)))
        facts = {"format": STORED_FORMAT, **about, "rows": {run: asked[run] for run in asked if run in here}}
        facts |= {"teachers": teachers, "seconds_of_training": round(sum(seconds.values()))}
        write_stored(part, facts, rows)
    shutil.rmtree(out, ignore_errors=True)
    out.with_name(f".{out.name}.new").rename(out)


def write_stored(folder: Path, facts: Mapping[str, Any], rows: list[dict[str, str]]) -> None:
    """Writes ``stored.json`` and ``measurements.csv`` (compressed if large)."""
    columns = columns_of(rows)
    text = csv_text(columns, [{name: row.get(name) for name in columns} for row in rows])
    if len(text) >= LARGE:
        with atomic_path(folder / "measurements.csv.gz") as path:
            path.write_bytes(gzip_bytes(text))
    else:
        write_text(folder / "measurements.csv", text)
    write_hashed_json(folder / STORED, facts)


def stored_rows(folder: str | Path) -> list[dict[str, str]]:
    """Rows of the measurements of a results folder, as texts by column."""
    return [row for _, row in read_csv(measurements_file(folder))[1]]


def taken(folder: str | Path, *runs: str) -> list[dict[str, str]]:
    """Rows of stored measurements for another results folder; their origin is :data:`FROM_STORED` and the folder.

    Raises:
        UserError: A run is not stored.
    """
    load_measurements(folder)
    path = Path(folder)
    origin = f"{FROM_STORED}{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}"
    rows = [row | {"origin": origin} for row in stored_rows(folder) if row["run"] in runs]
    if missing := set(runs) - {row["run"] for row in rows}:
        raise UserError(measurements_file(folder), f"run '{min(missing)}' is not stored", "measure it")
    return rows


def _measured(results: Path) -> list[dict[str, str]]:
    """Rows of the measurements, each with the latest time of its run."""
    if measurements_file(results).is_file():
        load_measurements(results)
        found = stored_rows(results)
    else:
        found = [
            {key: "" if value is None else str(value) for key, value in row.items()}
            for row in long_rows(collect(results / "measurements"))
        ]
    if not found:
        raise UserError(results, "holds no measurements", "measure first")
    latest: dict[str, str] = {}
    for row in found:
        latest[row["run"]] = max(row["date"], latest.get(row["run"], ""))
    # A study that was extended from its stored results is stored again.
    found = [row | {"origin": ""} if row.get("origin", "").startswith(FROM_STORED) else row for row in found]
    # Minutes suffice to check that a prediction was written before the measurement.
    return [row | {"date": re.sub(r"^(.{16}).+", r"\1Z", latest[row["run"]])} for row in found]


def _seconds(log: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(record.get("seconds") or 0) for record in log)
