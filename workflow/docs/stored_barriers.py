"""Losses between teachers' and students' weights in a stored study: ``barriers.json``, curves by row and loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.results.barriers import FORMAT, read_barrier
from sida.files.atomic import write_sealed_json, write_text

FILE = "barriers.json"
#: Values at equally spaced points, by name of the loss.
Curves = Mapping[str, Sequence[float]]


def of_results(results: Path) -> dict[str, Curves]:
    """Curves by row of a results folder.

    Raises:
        UserError: A damaged file.
    """
    return {path.stem: read_barrier(path)["curves"] for path in sorted((results / "barriers").glob("*.json"))}


def of_stored(folder: Path) -> dict[str, Curves]:
    """Curves by row of a stored study; none where it has no such file."""
    path = folder / FILE
    found: dict[str, Curves] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def store(barriers: Mapping[str, Curves], out: Path) -> list[Path]:
    """Writes curves into a stored study, seven digits of each value; returns the file, or none without curves."""
    (out / FILE).unlink(missing_ok=True)
    if not barriers:
        return []
    rows = []
    for run, curves in sorted(barriers.items()):
        lines = (f'  "{name}": [{", ".join(f"{value:.7g}" for value in values)}]' for name, values in curves.items())
        rows.append(f' "{run}": {{\n' + ",\n".join(lines) + "\n }")
    write_text(out / FILE, "{\n" + ",\n".join(rows) + "\n}\n")
    return [out / FILE]


def unpack(folder: Path, out: Path) -> None:
    """Writes ``barriers/<run>.json`` as the workflow has them, without what only their makers need."""
    for run, curves in of_stored(folder).items():
        record = {"format": FORMAT, "run": run, "curves": curves}
        write_sealed_json(out / "barriers" / f"{run}.json", record)
