"""A small results folder for tests of what reads one: its numbers are made up."""

from pathlib import Path

import torch

from sida.config.lookup import ROOT
from sida.eval.results.trial_files import collect, write_csv, write_measurement
from sida.files.atomic import jsonl_text, sha256_file, write_json, write_text
from sida.networks import build_network
from sida.networks.file import save_network
from tests.eval.synthetic_output import trial_record
from tests.refused import command
from tests.training.toy import NETWORK

TEACHER, STUDENT = "teachers/t/network.safetensors", "students/a/network.safetensors"
TABLE = {
    "title": "Made up", "bold": {}, "rows": [{"run": "a"}, {"run": "data"}],
    "columns": [{"head": "Method", "field": "label"}, {"head": "FD", "metric": "fd", "direction": "lower"}],
}  # fmt: skip
SCATTER = {"std": {"fd": 0.01}, "source": "made up"}
FIGURE = {"kind": "curves", "panels": [{"series": [{"each": {"run": "a"}}], "lines": [{"where": {"run": "data"}}]}]}
NAMES = {"a": {"label": "SiD", "method": "sid"}, "data": {"label": "Data", "method": "data"}}
VALUES = {"a": [7.25, 7.5], "data": [3.0, 3.125]}


def write_results(folder: Path) -> None:
    """Networks, logs, specs, trials, collected values, a table, claims and the manifest."""
    torch.manual_seed(0)
    save_network(build_network(NETWORK), folder / TEACHER, {"method": "teacher", "parents": {}})
    parents = {"teacher": sha256_file(folder / TEACHER), "init": None}
    save_network(build_network(NETWORK), folder / STUDENT, {"method": "sid", "parents": parents})
    ticks = [{"nimg": nimg, "seconds": 0.5} for nimg in (10, 20)]
    for name, records in {"train": ticks, "evaluations": [{"nimg": 20, "fd": 7.4}]}.items():
        write_text(folder / f"students/a/{name}.jsonl", jsonl_text(records))
    # As specs name files: from the folder in which the workflow was started.
    write_json(folder / "specs/students/a.json", {"teacher": f"results/tiny/{TEACHER}", "init": None})
    write_json(folder / "specs/measurements/a.json", {"network": f"results/tiny/{STUDENT}"})
    for run, values in VALUES.items():
        network = sha256_file(folder / STUDENT) if run == "a" else None
        for trial, value in enumerate(values):
            record = trial_record(run, trial, value, network_sha256=network, **NAMES[run])
            write_measurement(folder / f"measurements/{run}/trial-{trial}.json", record)
    write_csv(folder / "measurements.csv", collect(folder / "measurements"))
    for product in ("tables/main", "figures/curves"):
        write_csv(folder / f"collected/{product}.csv", collect(folder / "measurements"))
    write_products(folder)
    write_manifest(folder)


def write_products(folder: Path) -> None:
    """A table, a figure and verdicts with their specs, made by the commands of the workflow."""
    rows = [{"run": run, **names} for run, names in NAMES.items()]
    for kind, name, layout in (("tables", "main", TABLE), ("figures", "curves", FIGURE)):
        write_json(
            folder / f"specs/{kind}/{name}.json",
            {"runs": rows, "layout": layout, "mode": "measured", "retraining": SCATTER},
        )
        write_json(folder.parent / f"{name}.yaml", layout)
    write_json(folder / "specs/claims.json", {"study": "demo", "runs": rows})
    table, figure = folder / "collected/tables/main.csv", folder / "collected/figures/curves.csv"
    spec = folder / "specs/tables/main.json"
    inputs = "--runs", spec, "--results", folder, "--spec", spec
    out = folder / "tables/main.tex"
    command("table", folder.parent / "main.yaml", "--measurements", table, *inputs, "--mode", "measured", "--out", out)
    out = folder / "figures/curves.pdf"
    command("figure", "--layout", folder.parent / "curves.yaml", "--measurements", figure, *inputs, "--out", out)
    inputs = "--measurements", folder / "measurements.csv", "--runs", folder / "specs/claims.json", "--results", folder
    command("claims", "--claims", ROOT / "studies/demo/claims.py", *inputs, "--out", folder / "claims.md")


def write_manifest(folder: Path) -> None:
    """The manifest of what is there."""
    command("manifest", folder, "--out", folder / "manifest.json")
