"""Stores the results of a run beside its study, as far as there are any: numbers, logs, verdicts, pictures, networks.

python -m tools.store_study results/demo studies/demo/preset.yaml --networks
python -m tools.store_study results/fashion-anew studies/fashion/fashion-anew.yaml --add --networks --half
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.eval.report.page import reduced_png
from sida.eval.results.logs import PACKED, logs_of
from sida.eval.results.measurements import load_measurements, measurements_file, measurements_text
from sida.eval.results.stored import (
    FROM_STORED,
    STORED,
    STORED_FORMAT,
    networks_of,
    read_stored,
    stored_rows,
    unchanged_rows,
)
from sida.eval.results.trial_files import collect, long_rows
from sida.files.atomic import atomic_folder, atomic_path, jsonl_text, sha256_file, write_hashed_json, write_text
from sida.files.tensors import read_tensors, write_tensors
from sida.workflow.commands.check import ORIGINAL, compared_again, stored_spec
from sida.workflow.preset import Preset, load_preset
from sida.workflow.preset.extension import stored_results
from sida.workflow.preset.specs import row_digest

#: Size of ``measurements.csv`` in bytes from which it is compressed.
LARGE = 200_000


def store_study(
    results: Path, file: Path, out: Path, networks: bool = False, *, add: bool = False, half: bool = False
) -> Path:
    """Replaces the stored results of a preset, and its pictures beside them; returns their folder.

    Args:
        results: Results of the preset.
        file: File of the preset.
        out: Folder to write; ``--extend`` reads :func:`~sida.workflow.preset.extension.stored_results`.
        networks: Whether networks are stored as well.
        add: See :func:`store`; rows of which a trial is missing wait.
        half: Whether networks of new rows become float16 where all numbers stay as printed (:func:`halve`).
    """
    preset = load_preset(file)
    asked = {run: row_digest(preset, run) for run in preset.runs}
    about = {"preset": str(file), "title": preset.settings.title}
    before = {run: [row.run for row in preset.rows[run].lineage()][1:] for run in asked}
    new = store(results, out, about, asked, networks=networks, trials=preset.trials if add else None, before=before)
    for run in [run for run in asked if half and run in new]:
        print(f"{run}: {halve(out, preset, run)}", flush=True)
    for path in results.glob("claims.*"):
        shutil.copyfile(path, out / path.name)
    drawn = [name for name in preset.settings.figures if (results / "figures" / f"{name}.png").exists()]
    for name in drawn:
        with atomic_path(out.parent / f"{name}.png") as temporary:
            temporary.write_bytes(reduced_png(results / "figures" / f"{name}.png"))
    return out


def store(
    results: str | Path,
    out: str | Path,
    about: Mapping[str, Any],
    asked: Mapping[str, str],
    *,
    networks: bool = False,
    trials: int | None = None,
    before: Mapping[str, Collection[str]] | None = None,
) -> set[str]:
    """Stores results; returns the rows whose networks come from them and not from what was stored before.

    Args:
        results: Folder of a preset: ``measurements.csv`` (or trials below ``measurements/``) and training logs.
        out: Folder to write, replaced as a whole.
        about: Further facts for ``stored.json``: ``preset`` (its configuration file) and ``title``.
        asked: Digest of each row's settings.
        networks: Whether networks are stored as well.
        trials: Number of trials of a whole row, for results that grow in pieces: whole rows join those that are stored
            with the same settings, and others wait. None stores the results alone.
        before: Rows that each row starts from; their logs, which say how long they were, are stored beside its own.

    Raises:
        UserError: The results have no measurements, or the folder holds something else than stored results.
    """
    results, out = Path(results), Path(out)
    if out.exists() and not (out / STORED).is_file():
        raise UserError(out, f"holds no {STORED}, and would be replaced as a whole", "name another folder to write")
    rows = _measured(results, trials)
    here = new = {row["run"] for row in rows}
    logs = _logs(results, here, before)
    sources = [(results, here)]
    if trials is not None and (out / STORED).is_file():
        earlier, order = stored_rows(out), {run: number for number, run in enumerate(asked)}
        known = {(row["run"], row["network_sha256"]) for row in earlier}
        new = {row["run"] for row in rows if (row["run"], row["network_sha256"]) not in known}
        others = {*unchanged_rows(out, asked)} - here
        rows = sorted(rows + [row for row in earlier if row["run"] in others], key=lambda row: order[row["run"]])
        here = here | others
        # A stored row that is trained again there keeps its log until it is measured.
        logs = _logs(out, here, before) | logs
        # A network that is stored already stays as it is, perhaps as float16.
        sources = [(results, new), (out, here - new)]
    seconds = {name: _seconds(records) for name, records in logs.items() if name.endswith("/train.jsonl")}
    teachers = {name.split("/")[1]: round(spent) for name, spent in seconds.items() if name.startswith("teachers")}
    with atomic_folder(out.with_name(f".{out.name}.new")) as part:
        # Those that are stored already stay in any case.
        for folder, runs in sources if networks else sources[1:]:
            for name, stream in networks_of(folder, runs):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                with open(part / name, "wb") as copy:
                    shutil.copyfileobj(stream, copy)
        packed = [{"log": name, **record} for name, records in logs.items() for record in records]
        (part / PACKED).write_bytes(gzip_bytes(jsonl_text(packed)))
        facts = {"format": STORED_FORMAT, **about, "rows": {run: asked[run] for run in asked if run in here}}
        facts |= {"teachers": teachers, "seconds_of_training": round(sum(seconds.values()))}
        write_stored(part, facts, rows)
    shutil.rmtree(out, ignore_errors=True)
    out.with_name(f".{out.name}.new").rename(out)
    return new


def halve(folder: Path, preset: Preset, row: str) -> str:
    """Stores a row's network as float16 if all of its numbers, measured again, stay as printed; returns what was done.

    A network from which another row learns or starts stays float32, so that a training from the stored file is the
    same.

    Args:
        folder: Stored results with networks.
        preset: Their preset.
        row: A stored row.
    """
    spec, stored = stored_spec(folder, preset, read_stored(folder)["rows"], row)
    path = spec["network"]
    if path is None or not Path(path).is_relative_to(folder):
        return "has no network of its own"
    if preset.runs[row].first in preset.starts or Path(path).relative_to(folder).parts[0] == "teachers":
        return "float32, since another row starts from it"
    tensors, record = read_tensors(path)
    if record and ORIGINAL in record:
        return "float16 already"
    small = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    with tempfile.TemporaryDirectory() as temporary:
        written = Path(temporary, "network.safetensors")
        write_tensors(written, small, {**(record or {}), ORIGINAL: sha256_file(path)})
        trials = sorted({int(line["trial"]) for line in stored})
        compared, left_out = compared_again({**spec, "network": str(written)}, preset, stored, trials)
        if changed := [one.metric for one in compared if not one.as_printed] or left_out:
            return f"float32, since float16 changes {', '.join(changed)}"
        with atomic_path(path) as part:
            part.write_bytes(written.read_bytes())
    return "float16"


def _logs(folder: Path, runs: Collection[str], before: Mapping[str, Collection[str]] | None) -> dict[str, Any]:
    """Logs of a folder's teachers, of some of its rows and of those that these start from, by name."""
    names = {*runs}.union(*((before or {}).get(run, ()) for run in runs))
    logs = dict(logs_of(folder)).items()
    return {name: records for name, records in logs if name.startswith("teachers") or name.split("/")[1] in names}


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


def _measured(results: Path, trials: int | None = None) -> list[dict[str, str]]:
    """Rows of the measurements, each with the latest time of its run; with ``trials``, of whole runs alone."""
    rows: list[dict[str, str]] = []
    if measurements_file(results).is_file():
        load_measurements(results)
        rows = stored_rows(results)
    if not rows or trials is not None:
        known = {row["run"] for row in rows}
        records = collect(results / "measurements") if (results / "measurements").is_dir() or not rows else []
        rows += [
            {key: "" if value is None else str(value) for key, value in row.items()}
            for row in long_rows(records)
            if row["run"] not in known
        ]
    if trials is not None:
        whole = Counter(run for run, _ in {(row["run"], row["trial"]) for row in rows})
        rows = [row for row in rows if whole[row["run"]] == trials]
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
    parser.add_argument("--half", action="store_true", help="as float16 where measuring again prints the same numbers")
    parser.add_argument("--add", action="store_true", help="keep stored rows of the same settings that DIR lacks")
    args = parser.parse_args()
    options = {"networks": args.networks or args.half, "add": args.add, "half": args.half}
    print(store_study(args.results, args.preset, stored_results([args.preset]), **options))
