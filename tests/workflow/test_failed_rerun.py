"""After a rerun that failed no old row is shown as current: the same command fails again until the fault is mended."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.workflow.small import outcome, small
from tests.workflow.workspace import Workspace
from workflow.snakemake_patches import remark, unknown_functions

GENERATOR = """import numpy as np


def sample(seeds):
    images = [np.random.default_rng(seed).integers(0, BRIGHT, (1, 8, 8), np.uint8) for seed in seeds]
    return np.stack(images), np.array([seed % 10 for seed in seeds])
"""
SHEET = "run\tlabel\tmethod\tcheckpoint\nmine\tMine\texternal\tmine:sample\n"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Makes a preset of one row, which a generator of the user's own draws: nothing is trained."""

    def make(**changes):
        monkeypatch.setenv("SIDA_ALLOW_CODE", "mine")
        workspace = Workspace(tmp_path)
        (tmp_path / "runs.tsv").write_text(SHEET)
        (tmp_path / "mine.py").write_text(GENERATOR.replace("BRIGHT", "200"))
        changes = {"preset": "mine", "runs": "runs.tsv", "trials_per_job": 2, "claims": None, "figures": [], **changes}
        return workspace, ("--configfile", workspace.config(**changes, teachers={}, recipes={}))

    return make


def run(workspace, *arguments, status=0):
    """What a run says, which must end so."""
    done = workspace.snakemake(*arguments)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def planned(workspace, *arguments):
    """Rules that would run."""
    return set(re.findall(r"^(\w+) +\d+$", run(workspace, "-n", *arguments), re.MULTILINE)) - {"total"}


@pytest.mark.slow
@pytest.mark.parametrize("shard_size", [None, 100])
def test_an_old_measurement_is_not_shown_after_a_generator_that_fails(study, shard_size):
    workspace, preset = study(shard_size=shard_size)
    table = workspace.folder / "results/mine/tables/main.md"
    source = workspace.folder / "mine.py"
    arguments = (*preset, "--", "tables/main.tex")
    run(workspace, *arguments)
    before, good = table.read_text(), source.read_text()
    source.write_text(good + "\n\ndef sample(seeds):\n    raise ValueError('edited')\n")
    assert "edited" in run(workspace, *arguments, status=1)
    assert {"collect_part", "table"} < planned(workspace, *preset, "--", "results/mine/tables/main.tex")
    source.write_text(good.replace("200", "100"))
    run(workspace, *arguments)
    assert table.read_text() != before
    assert planned(workspace, *arguments) == set()


@pytest.mark.slow
def test_an_old_student_is_not_shown_after_a_training_that_fails(tmp_path):
    workspace, arguments = small(tmp_path)
    run(workspace, *arguments)
    before = outcome(workspace)
    config = tmp_path / "changed.yaml"
    good = config.read_text()
    document = yaml.safe_load(good)
    document["recipes"]["sid"] |= {"lr": 1.0e30, "total_kimg": 4}
    config.write_text(yaml.safe_dump(document))
    assert "NaN" in run(workspace, *arguments, status=1)
    said = run(workspace, *arguments, status=1)
    assert "NaN" in said
    assert "results/small/students/sid/network.safetensors: missing or of before a job that failed" in said
    due = {"distill", "measure_0_1", "collect_part", "table"}
    assert due <= planned(workspace, *arguments)
    assert due <= planned(workspace, *arguments[:-1], "results/small/tables/main.tex")
    assert "Nothing to be done" in run(workspace, *arguments[:-1], "teachers/digits-short/network.safetensors")
    config.write_text(good)
    run(workspace, *arguments)
    assert outcome(workspace) == before
    assert "Nothing to be done" in run(workspace, *arguments)
    # A file that somebody removed to make room is not trained again, until its settings change.
    (tmp_path / "results/small/teachers/digits-short/network.safetensors").unlink()
    assert "Nothing to be done" in run(workspace, *arguments)
    document["teachers"]["digits-short"]["training"]["lr"] = 1.0e-4
    config.write_text(yaml.safe_dump({**yaml.safe_load(good), "teachers": document["teachers"]}))
    assert due | {"train_teacher"} <= planned(workspace, *arguments)


def test_what_is_said_of_missing_files():
    assert remark(["a.json"]).startswith("a.json: missing")
    assert remark(["a", "b", "c"]).startswith("a and 2 other files: missing")


def test_the_replaced_functions_of_snakemake_are_known():
    assert unknown_functions() == []
