"""A small results folder for tests of what reads one: its numbers are made up."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from eval.results.csv_files import csv_text
from eval.results.measurements import collect, write_csv, write_measurement
from eval.results.summary import Estimate
from eval.tables.model import RECORD_FIELDS
from sida.files.atomic import sha256_file, write_hashed_json, write_json, write_text
from sida.networks import build_network
from sida.networks.file import save_network
from sida.training.logs import Logs
from tests.eval.synthetic_output import trial_record
from tests.training.toy import NETWORK
from workflow.cli import main

TEACHER, STUDENT = "teachers/t/network.safetensors", "students/a/network.safetensors"
VALUES = {"a": [7.25, 7.5], "data": [3.0, 3.125]}


def write_results(folder: Path) -> None:
    """Networks, logs, specs, trials, collected values, a table, claims and the manifest."""
    torch.manual_seed(0)
    save_network(build_network(NETWORK), folder / TEACHER, {"method": "teacher", "parents": {}})
    parents = {"teacher": sha256_file(folder / TEACHER), "init": None}
    save_network(build_network(NETWORK), folder / STUDENT, {"method": "sid", "parents": parents})
    ticks = [{"nimg": nimg, "seconds": 0.5} for nimg in (10, 20)]
    Logs(folder / "students/a").restart(ticks, [{"nimg": 20, "fd": 7.4}], final=True)
    # As specs name files: from the folder in which the workflow was started.
    write_json(folder / "specs/students/a.json", {"teacher": f"results/tiny/{TEACHER}", "init": None})
    write_json(folder / "specs/measurements/a.json", {"network": f"results/tiny/{STUDENT}"})
    for run, values in VALUES.items():
        network = sha256_file(folder / STUDENT) if run == "a" else None
        for trial, value in enumerate(values):
            record = trial_record(run, trial, value, network_sha256=network)
            write_measurement(folder / f"measurements/{run}/trial-{trial}.json", record)
    write_csv(folder / "measurements.csv", collect(folder / "measurements"))
    write_csv(folder / "collected/tables/main.csv", collect(folder / "measurements", ["a"]))
    write_table(folder)
    write_text(folder / "tables/main.tex", "7.38\n")
    write_hashed_json(folder / "claims.json", {"preamble": "", "claims": []})
    write_manifest(folder)


def write_table(folder: Path, values: Mapping[str, Sequence[float]] = VALUES) -> None:
    """The CSV of the table."""
    rows = []
    for run, found in values.items():
        mean = Estimate.of(found)
        numbers = {"measured": repr(mean.mean), "measured_std": repr(mean.std), "trials": 2}
        rows.append({"table": "main", "run": run, "metric": "fd", **numbers})
    write_text(folder / "tables/main.csv", csv_text(RECORD_FIELDS, rows))


def write_manifest(folder: Path) -> None:
    """The manifest of what is there."""
    assert main(["manifest", str(folder), "--out", str(folder / "manifest.json")]) == 0
