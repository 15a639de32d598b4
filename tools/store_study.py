"""Stores the results of a run beside its study, as far as there are any: numbers, logs, verdicts, pictures, networks.

python -m tools.store_study results/demo studies/demo/preset.yaml --networks
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.page import reduced_png
from eval.results.logs import PACKED, logs_of
from eval.results.measurements import collect, long_rows
from eval.results.stored import FROM_STORED, STORED, STORED_FORMAT, networks_of, stored_rows
from eval.results.summary import load_measurements, measurements_file, measurements_text
from sida.errors import UserError
from sida.files.atomic import atomic_folder, atomic_path, jsonl_text, write_hashed_json, write_text
from workflow.preset import load_preset
from workflow.preset.extension import stored_results
from workflow.preset.stored_rows import row_digest

#: Size of ``measurements.csv`` in bytes from which it is compressed.
LARGE = 200_000


def store_study(results: Path, file: Path, out: Path, networks: bool = False) -> Path:
    """Replaces the stored results of a preset, and its pictures beside them; returns their folder.

    Args:
        results: Results of the preset.
        file: File of the preset.
        out: Folder to write; :func:`~workflow.preset.extension.stored_results` names the one that ``--extend`` reads.
        networks: Whether networks are stored as well.
    """
    preset = load_preset(file)
    asked = {run: row_digest(preset, run) for run in preset.runs}
    store(results, out, {"preset": str(file), "title": preset.settings.title}, asked, networks=networks)
    for path in results.glob("claims.*"):
        shutil.copyfile(path, out / path.name)
    drawn = [name for name in preset.settings.figures if (results / "figures" / f"{name}.png").exists()]
    for name in drawn:
        with atomic_path(out.parent / f"{name}.png") as temporary:
            temporary.write_bytes(reduced_png(results / "figures" / f"{name}.png"))
    return out


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
        UserError: The results have no measurements, or the folder holds something else than stored results.
    """
    results, out = Path(results), Path(out)
    if out.exists() and not (out / STORED).is_file():
        raise UserError(out, f"holds no {STORED}, and would be replaced as a whole", "name another folder to write")
    rows, logs = _measured(results), dict(logs_of(results))
    here = {row["run"] for row in rows}
    logs = {
        name: records for name, records in logs.items() if name.startswith("teachers") or name.split("/")[1] in here
    }
    seconds = {name: _seconds(records) for name, records in logs.items() if name.endswith("/train.jsonl")}
    teachers = {name.split("/")[1]: round(spent) for name, spent in seconds.items() if name.startswith("teachers")}
    with atomic_folder(out.with_name(f".{out.name}.new")) as part:
        for name, stream in networks_of(results, here) if networks else ():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            with open(part / name, "wb") as copy:
                shutil.copyfileobj(stream, copy)
        packed = [{"log": name, **record} for name, records in logs.items() for record in records]
        (part / PACKED).write_bytes(gzip_bytes(jsonl_text(packed, final=True)))
        facts = {"format": STORED_FORMAT, **about, "rows": {run: asked[run] for run in asked if run in here}}
        facts |= {"teachers": teachers, "seconds_of_training": round(sum(seconds.values()))}
        write_stored(part, facts, rows)
    shutil.rmtree(out, ignore_errors=True)
    out.with_name(f".{out.name}.new").rename(out)


def write_stored(folder: Path, facts: Mapping[str, Any], rows: list[dict[str, str]]) -> None:
    """Writes ``stored.json`` and ``measurements.csv`` (compressed if large)."""
    text = measurements_text(rows)
    if len(text) >= LARGE:
        with atomic_path(folder / "measurements.csv.gz") as path:
            path.write_bytes(gzip_bytes(text))
    else:
        write_text(folder / "measurements.csv", text)
    write_hashed_json(folder / STORED, facts)


def gzip_bytes(text: str) -> bytes:
    """A text compressed for a file ``.gz``; equal texts give equal bytes."""
    return gzip.compress(text.encode(), 9, mtime=0)


def _measured(results: Path) -> list[dict[str, str]]:
    """Rows of the measurements, each with the latest time of its run."""
    if measurements_file(results).is_file():
        load_measurements(results)
        rows = stored_rows(results)
    else:
        rows = [
            {key: "" if value is None else str(value) for key, value in row.items()}
            for row in long_rows(collect(results / "measurements"))
        ]
    if not rows:
        raise UserError(results, "holds no measurements", "measure first")
    latest: dict[str, str] = {}
    for row in rows:
        latest[row["run"]] = max(row["date"], latest.get(row["run"], ""))
    # A study that was extended from its stored results is stored again.
    rows = [row | {"origin": ""} if row.get("origin", "").startswith(FROM_STORED) else row for row in rows]
    # Minutes suffice to check that a prediction was written before the measurement.
    return [row | {"date": re.sub(r"^(.{16}).+", r"\1Z", latest[row["run"]])} for row in rows]


def _seconds(log: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(record.get("seconds") or 0) for record in log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, metavar="DIR")
    parser.add_argument("preset", type=Path, metavar="FILE")
    parser.add_argument("--networks", action="store_true", help="store the networks, too")
    args = parser.parse_args()
    print(store_study(args.results, args.preset, stored_results([args.preset]), args.networks))
