"""Checks a results folder, also one from someone else: nothing in it is executed, trusted or changed.

Compares the recorded parents of artefacts with the files in the folder.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path, PurePosixPath
from typing import Any

from eval.results.measurements import long_rows, read_measurement
from eval.results.stored import STORED
from eval.results.summary import FURTHER, MEASUREMENT_COLUMNS, Estimate, identity_mismatch, load_measurements
from sida.errors import Progress, UserError
from sida.files.atomic import read_hashed_json, sha256_file
from sida.files.tensors import read_record
from sida.files.text_files import read_csv
from workflow.archive.files import UNLISTED, Report, check_manifest, check_own_hash, list_files

_NETWORK = "network.safetensors"


class Parents:
    """Compares hashes of a folder's networks with the hashes that artefacts record for their parents.

    Args:
        report: Report for the faults.
        hashes: SHA-256 of each file of the folder, by path.
    """

    def __init__(self, report: Report, hashes: Mapping[str, str]) -> None:
        self.report, self.hashes = report, hashes
        self.known = {digest for name, digest in hashes.items() if name.endswith(".safetensors")}

    def check(self) -> None:
        """Compares the parents of every student and trial."""
        for name in self.hashes:
            parts = PurePosixPath(name).parts
            if parts[0] in ("students", "teachers") and parts[2:] == (_NETWORK,):
                with self.report.checking(name):
                    self._network(name, f"specs/{parts[0]}/{parts[1]}.json")
            if parts[0] == "measurements" and len(parts) == 3 and name.endswith(".json"):
                with self.report.checking(name):
                    self._trial(name, f"specs/measurements/{parts[1]}.json")

    def _network(self, name: str, spec: str) -> None:
        parents = read_record(self.report.folder / name).get("parents") or {}
        for role, digest in parents.items():
            if digest is not None:
                self._compare(name, role, digest, self._asked(spec, role))

    def _trial(self, name: str, spec: str) -> None:
        record = read_measurement(self.report.folder / name)
        if record.get("network_sha256") is not None:
            self._compare(name, "network", record["network_sha256"], self._asked(spec, "network"))

    def _asked(self, spec: str, role: str) -> str | None:
        """The file in this folder that a spec names, by the end of the path."""
        if spec not in self.hashes:
            return None
        asked: Any = read_hashed_json(self.report.folder / spec).get(role)
        parts = PurePosixPath(asked).parts if isinstance(asked, str) else ()
        end = "/".join(parts[-3:])
        # A missing file is outside this folder, unless the path leads through the preset's folder.
        return end if end in self.hashes or parts[:-3] == ("results", self.preset) else None

    @functools.cached_property
    def preset(self) -> str:
        """Name of the preset, even if the folder was renamed."""
        spec = "specs/preset.json"
        named = read_hashed_json(self.report.folder / spec).get("preset") if spec in self.hashes else None
        return str(named or self.report.folder.resolve().name)

    def _compare(self, name: str, role: str, digest: str, asked: str | None) -> None:
        if asked is not None and asked not in self.hashes:
            self.report.fault(name, f"was made from {asked}, which is missing; run the workflow again")
        elif asked is not None and self.hashes[asked] != digest:
            self.report.fault(name, f"was made from another {role} than {asked} is now; make it again")
        elif digest in self.known:
            self.report.counts["parents that are here"] += 1
        else:
            self.report.remark(name, f"its {role} ({digest[:12]}) is not in this folder: not compared")


_MEASUREMENTS = ("measurements.csv", "measurements.csv.gz")


def verify(folder: str | Path) -> Report:
    """Checks a results folder: each file's own hash, the manifest, parents, and numbers.

    Args:
        folder: ``results/<preset>``.

    Raises:
        UserError: No such folder, or too many files.
    """
    report = Report(Path(folder))
    if not report.folder.is_dir():
        raise UserError(folder, "no such results folder", "name one, for example results/demo")
    below = sorted(path.parent.name for path in report.folder.glob("*/manifest.json"))
    if below and not (report.folder / "manifest.json").exists():
        raise UserError(
            folder, "holds results folders and is none", f"name one: sida verify {report.folder / below[0]}"
        )
    sizes = list_files(report)
    progress = Progress(f"verify {report.folder.name}", sum(sizes.values()) / 1e6, "MB")
    hashes: dict[str, str] = {}
    own: set[str] = set()
    done = 0
    for name, size in sizes.items():
        path = report.folder / name
        with report.checking(name):
            hashes[name] = sha256_file(path)
            if check_own_hash(path, name):
                own.add(name)
                report.counts["files as the hash in them says"] += 1
        done += size
        progress.update(done / 1e6)
    listed = check_manifest(report, hashes)
    known = own | listed | {fault.split(": ")[0] for fault in report.faults}
    for name in hashes:
        if name not in known and not UNLISTED.fullmatch(name):
            report.remark(name, "no hash: written by hand or by another program, and listed nowhere")
    Parents(report, hashes).check()
    check_numbers(report, hashes)
    return report


def check_numbers(report: Report, names: Iterable[str]) -> None:
    """Compares trials with the CSV files of measurements, and these with the CSV files of tables.

    Args:
        report: Report for the faults.
        names: Files of the folder.
    """
    trials: dict[tuple[str, ...], dict[str, str]] = {}
    names = list(names)
    for name in names:
        if re.fullmatch(r"measurements/[^/]+/[^/]+\.json", name):
            # The comparison of hashes reports a fault of the trial itself.
            with Report(report.folder).checking(name):
                record = read_measurement(report.folder / name)
                if name != f"measurements/{record['run']}/trial-{record['trial']}.json":
                    report.fault(name, f"holds trial {record['trial']} of run '{record['run']}'; was it copied?")
                for row in _as_read(long_rows([record])):
                    trials[_key(row)] = row
    of_run: dict[str, list[tuple[str, ...]]] = {}
    for key in sorted(trials):
        of_run.setdefault(key[0], []).append(key)
    for name in names:
        if name in _MEASUREMENTS or (name.startswith("collected/") and name.endswith(".csv")):
            with report.checking(name):
                _check_collected(report, name, trials, of_run)
    for collected in _MEASUREMENTS:
        if collected not in names:
            continue
        with report.checking(collected):
            measured = load_measurements(report.folder / collected)
            runs = {*measured.runs}
            if found := identity_mismatch(measured.rows):
                report.fault(collected, f"runs '{found[0].run}' and '{found[1].run}' are not comparable: {found[2]}")
            # Cells and files may name one run again and again: each estimate is made once.
            estimate = functools.cache(measured.estimate)
            for name in names:
                if name.startswith("tables/") and name.endswith(".csv"):
                    with report.checking(name):
                        _check_table(report, name, runs, estimate)


def _as_read(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows in the form in which they are read from CSV."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, (*MEASUREMENT_COLUMNS, *FURTHER))
    writer.writeheader()
    writer.writerows(rows)
    stream.seek(0)
    return list(csv.DictReader(stream))


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(column)) for column in ("run", "trial", "metric"))


def _check_collected(
    report: Report,
    name: str,
    trials: Mapping[tuple[str, ...], Mapping[str, str]],
    of_run: Mapping[str, Sequence[tuple[str, ...]]],
) -> None:
    """Requires that a file has exactly the rows of the trials of its runs."""
    columns, rows = read_csv(report.folder / name)
    seen = set()
    for line, row in rows:
        if row.get("origin"):
            report.counts["rows that are stored or of other groups, which have no trials here"] += 1
            continue
        key = _key(row)
        seen.add(key)
        label = f"{key[2]} of trial {key[1]} of '{key[0]}'"
        if key not in trials and (report.folder / STORED).is_file():
            report.counts["rows whose trials are not stored"] += 1
        elif key not in trials:
            report.fault(name, f"line {line}: no trial holds {label}")
        elif different := [c for c in MEASUREMENT_COLUMNS if c in columns and (row[c] or "") != trials[key][c]]:
            report.fault(name, f"line {line}: {different[0]} of {label} is not that of its trial; collect again")
        else:
            report.counts["rows equal to their trials"] += 1
    counts = Counter(key[0] for key in seen if key in trials)
    for run in sorted({key[0] for key in seen} & of_run.keys()):
        count = counts[run]
        if count < len(of_run[run]):
            # Of the first rows at most as many as were seen are here: the search ends as early.
            _, trial, metric = next(key for key in of_run[run] if key not in seen)
            others = f" (and {len(of_run[run]) - count - 1:,} others)" if len(of_run[run]) - count > 1 else ""
            report.fault(name, f"{metric} of trial {trial} of '{run}' is missing{others}; collect again")


def _check_table(report: Report, name: str, runs: Set[str], estimate: Callable[[str, str], Estimate]) -> None:
    columns, rows = read_csv(report.folder / name)
    if not {"run", "metric", "measured", "measured_std"} <= set(columns):
        return
    for line, row in rows:
        if row["measured"] and runs >= {*str(row["run"]).split()}:
            estimates = [estimate(run, str(row["metric"])) for run in str(row["run"]).split()]
            found = estimates[0] if len(estimates) == 1 else Estimate.of([estimate.mean for estimate in estimates])
            std = "" if found.std is None else repr(found.std)
            if (row["measured"], row["measured_std"]) != (repr(found.mean), std):
                cell = f"{row['metric']} of '{row['run']}'"
                report.fault(name, f"line {line}: {cell} is not what the measurements give; make the table again")
            else:
                report.counts["cells of tables computed again"] += 1
