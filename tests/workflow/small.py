"""The smallest preset with every kind of job: a teacher, a student, two trials of each, a table."""

import re
from pathlib import Path
from typing import Any

from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors
from tests.workflow.workspace import Workspace

COLUMNS = "run\tfamily\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\n"
SHEET = (
    COLUMNS + "teacher\tTeacher\tEDM\tteacher\tdigits-short\t\t\t\theun-10\n"
    "sid\tOne Step\tSiD\tsid\tdigits-short\t\t1.0\tsid\tone-step\n"
)


def small(folder: Path) -> tuple[Workspace, tuple[str, ...]]:
    """A workspace with the preset, and the arguments of its run."""
    workspace = Workspace(folder)
    (folder / "small.tsv").write_text(SHEET)
    training = {"total_kimg": 0.256, "batch_size": 32, "lr": 3.0e-3, "tick_kimg": 0.064, "state_minutes": 0}
    recipe = {**training, "evaluation": {"every_kimg": 0.128, "num_samples": 100, "trials": 1}}
    # Two trials in one job: most of the time of such small jobs is their start.
    changes = {
        "preset": "small",
        "runs": "small.tsv",
        "trials_per_job": 2,
        "claims": None,
        "figures": [],
        "recipes": {"sid": recipe},
    }
    config = workspace.config(**changes, **{"teachers__digits-short__training": training})
    return workspace, ("--configfile", config, "--", "results/small/tables/main.tex")


def outcome(workspace: Workspace, networks: bool = True) -> dict[str, Any]:
    """The table as it is written but for its dates (which its hashes cover), all measured values, and with networks the
    logs' losses and the weights.
    """
    results = workspace.folder / "results/small"
    day = r"20\d\d-\d\d-\d\d(T[\d:]+Z)?"
    # Trials of one second or day have one date between them.
    date = re.compile(f"{day}( (to )?{day})*")
    found = {path.name: date.sub("", path.read_text()) for path in sorted((results / "tables").glob("main.*"))}
    found["main.csv"] = re.sub(r",[0-9a-f]{16}$", "", found["main.csv"], flags=re.MULTILINE)
    found["main.json"] = re.sub(r'"content_sha256": "[0-9a-f]{64}"', "", found["main.json"])
    measured = (results / "collected/tables/main.csv").read_text().splitlines()
    found["measured"] = [line.split(",")[:5] for line in measured]
    for path in sorted(results.glob("*/*/network.safetensors")) if networks else []:
        name = str(path.relative_to(results))
        found[name] = {key: value.tolist() for key, value in read_tensors(path)[0].items()}
        found[f"log of {name}"] = [(line["nimg"], line["losses"]) for line in read_jsonl(path.parent / "train.jsonl")]
    return found


def undisturbed(folder: Path) -> tuple[Workspace, tuple[str, ...], dict[str, Any]]:
    """A run that nobody disturbs: its workspace, its arguments and what it left."""
    workspace, arguments = small(folder)
    workspace.done(*arguments)
    return workspace, arguments, outcome(workspace)
