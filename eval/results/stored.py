"""Stored results: a results folder without the parts that a run makes again, small enough for a repository.

``studies/NAME/stored`` has these files of ``results/NAME``, and every reader of results reads it:

- ``measurements.csv``, compressed (``.gz``) if large; the trials themselves are left out.
- ``logs.jsonl.gz``: the logs of all trainings (:mod:`sida.eval.results.logs`).
- On request the networks.
- ``stored.json``: the preset, the digest of each row's settings, and the time of all trainings.
- ``claims.json`` and ``claims.md``.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sida.config.lookup import ROOT
from sida.errors import UserError
from sida.eval.results.csv_files import read_csv
from sida.eval.results.logs import logs_of
from sida.eval.results.measurements import load_measurements, measurements_file
from sida.files.atomic import jsonl_text, read_hashed_json
from sida.files.ordinary import file_below, open_ordinary, ordinary_files

STORED = "stored.json"
#: Beginning of the origin of rows that were taken from stored results.
FROM_STORED = "stored results "
STORED_FORMAT = "sida-stored/1"


def read_stored(folder: str | Path) -> dict[str, Any]:
    """Reads ``stored.json``.

    Raises:
        UserError: The file is missing or damaged, or the format is another.
    """
    path = file_below(folder, STORED)
    if not path.is_file():
        raise UserError(path, "is missing", "name a folder of stored results, such as studies/demo/stored")
    facts = read_hashed_json(path, "take it from the repository again, or store the results again")
    if facts.get("format") != STORED_FORMAT:
        raise UserError(
            path, f"format must be '{STORED_FORMAT}', is {facts.get('format')!r}", "store the results again"
        )
    rows = facts.get("rows")
    if not isinstance(rows, dict) or not all(isinstance(text, str) for text in (facts.get("preset"), *rows.values())):
        raise UserError(path, "preset must be a text and rows a digest by row", "store the results again")
    return facts


def unchanged_rows(folder: str | Path, digests: Mapping[str, str]) -> list[str]:
    """Stored rows whose settings have these digests.

    Args:
        folder: Stored results.
        digests: Digest of each row's settings (:func:`sida.workflow.preset.specs.row_digest`).
    """
    return [run for run, digest in read_stored(folder)["rows"].items() if digests.get(run) == digest]


def networks_of(folder: Path, runs: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
    """Yields the networks of all teachers, then of rows, in a results folder, by path."""
    for name in sorted(ordinary_files(folder), key=lambda name: (not name.startswith("teachers/"), name)):
        match = re.fullmatch(r"(teachers|students)/([^/]+)/network\.safetensors", name)
        if match and (match[1] == "teachers" or match[2] in runs):
            with open_ordinary(folder / name) as stream:
                yield name, stream


def files_of(folder: Path, runs: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yields the files of rows and of all teachers in a results folder, by path: logs and networks.

    Teachers come first, so that networks that start from others are newer than these.
    """
    for name, stream in networks_of(folder, runs):
        yield name, stream.read()
    for name, records in logs_of(folder):
        if name.startswith("teachers") or name.split("/")[1] in runs:
            yield name, jsonl_text(records).encode()


def stored_rows(folder: str | Path) -> list[dict[str, str]]:
    """Rows of the measurements of a results folder, as texts by column.

    Raises:
        UserError: A row is faulty, or occurs twice (:func:`sida.eval.results.measurements.load_measurements`).
    """
    load_measurements(folder)
    return [row for _, row in read_csv(measurements_file(folder))[1]]


def taken(folder: str | Path, *runs: str) -> list[dict[str, str]]:
    """Rows of stored measurements for another results folder; their origin is :data:`FROM_STORED` and the folder.

    Raises:
        UserError: A run is not stored.
    """
    path = Path(folder)
    origin = f"{FROM_STORED}{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}"
    rows = [row | {"origin": origin} for row in stored_rows(folder) if row["run"] in runs]
    if missing := set(runs) - {row["run"] for row in rows}:
        raise UserError(measurements_file(folder), f"run '{min(missing)}' is not stored", "measure it")
    return rows
