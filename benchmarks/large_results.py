"""Results of 10,000 rows: table, verdicts, page, comparison and verification; processor seconds and memory of each.

The numbers are made up: nothing is trained or measured. Bounds: 120 seconds and 2 GB for each command.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from eval.results.measurements import collect, write_csv, write_measurement
from sida.files.atomic import sha256_json, write_json
from sida.provenance import environment

ROWS, TRIALS, SECONDS, MEGABYTES = 10_000, 2, 120, 2000
_HEAD = "run\tfamily\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\n"


def write_results(folder: Path) -> None:
    """Sheet, trials and collected values of all rows."""
    fields = {"metrics": {"fd": {"extractor": "pixels"}}}
    rows = [f"r{number}\tOne Step\tRow {number}\tsid\tt\t\t1.0\tsid\tone-step\n" for number in range(ROWS)]
    folder.mkdir()
    (folder / "runs.tsv").write_text(_HEAD + "".join(rows))
    for number in range(ROWS):
        for trial in range(TRIALS):
            record = {
                **{
                    "run": f"r{number}",
                    "method": "sid",
                    "trial": trial,
                    "n": 40,
                    "seeds": [40 * trial, 40 * trial + 39],
                },
                **{"nfe": 1, "metrics": {"fd": 5 + (number * 7919 + trial) % 1000 / 1000}, "spec_sha256": "5e" * 32},
                "extractors": {"pixels": "e7" * 32},
                "protocol": {"name": "p", "fields": fields, "sha256": sha256_json(fields)},
                "reference": {"name": "r", "sha256": "4e" * 32},
                "metric_references": {"fd": {"name": "r", "sha256": "4e" * 32}},
                "environment": {"device": "cpu", "code_version": "0", "date": "2035-01-01T00:00:00Z"},
            }
            write_measurement(folder / f"measurements/r{number}/trial-{trial}.json", record)
    write_csv(folder / "measurements.csv", collect(folder / "measurements"))


def cost(command: list[str]) -> dict[str, float]:
    """Processor seconds and peak megabytes of a command."""
    code = "import sys; from workflow.cli import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen([sys.executable, "-c", code, *command[1:]], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    print(f"{' '.join(command[:2])}: {used.ru_utime + used.ru_stime:.1f} s, {used.ru_maxrss / 1024:.0f} MB", flush=True)
    assert os.waitstatus_to_exitcode(status) == 0
    return {"seconds": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1024}


def main(out: Path) -> bool:
    """Each command once."""
    # Whether a disk has really written is not asked here.
    fsync, os.fsync = os.fsync, lambda _: None
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        stack.callback(setattr, os, "fsync", fsync)
        folder = Path(text) / "large"
        write_results(folder)
        measured = ["--measurements", str(folder / "measurements.csv"), "--runs", str(folder / "runs.tsv")]
        layout = folder / "large.yaml"
        layout.write_text(
            "title: All rows\ncolumns:\n- {head: Family, field: family}\n- {head: Model, field: label}\n"
            "- {head: FD, metric: fd, direction: lower, decimals: 2}\nrows:\n- {each: {method: sid}}\n"
        )
        claims = folder / "claims.yaml"
        claims.write_text(
            "claims:\n- id: L-01\n  scope: large\n  statement: One row is below another.\n  parts:\n"
            "  - {rule: LT, metric: fd, a: {run: r1}, b: {run: r2}}\n"
        )
        pages = ["--results", str(folder), "--out", str(folder / "claims.md")]
        found = {
            "collect": cost(["sida", "collect", str(folder / "measurements"), "--out", str(folder / "again.csv")]),
            "table": cost(["sida", "table", str(layout), *measured, "--out", str(folder / "tables/large.tex")]),
            "claims": cost(["sida", "claims", "--claims", str(claims), "--scope", "large", *measured, *pages]),
            "page": cost(["sida", "page", str(folder), "--out", str(folder / "index.html")]),
            "compare": cost(["sida", "compare", str(folder), str(folder)]),
            "manifest": cost(["sida", "manifest", str(folder), "--out", str(folder / "manifest.json")]),
            "verify": cost(["sida", "verify", str(folder)]),
        }
    write_json(out, {**found, "rows": ROWS, "trials": TRIALS, "load": os.getloadavg()[0], "environment": environment()})
    return all(one["seconds"] <= SECONDS and one["megabytes"] <= MEGABYTES for one in found.values())
