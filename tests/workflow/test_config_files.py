"""What Snakemake is given with ``--configfile`` and ``--config``: the same faults as elsewhere, and all of it kept."""

from __future__ import annotations

import pytest
import yaml

from sida.config.resources import ROOT
from tests.workflow.workspace import Workspace, forked_snakemake


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("preset: published\n", ""), "error: mine.yaml: preset: is missing; add it"),
        (lambda text: f"{text}\ntitle: Other\n", "(key 'title' occurs twice; remove one of them)"),
    ],
    ids=["no name", "double key"],
)
def test_a_fault_is_one_line_and_never_the_demo(tmp_path, change, message):
    (tmp_path / "mine.yaml").write_text(change((ROOT / "studies/papers/published.yaml").read_text()))
    words = ["-s", str(ROOT / "Snakefile"), "--cores", "1", "-n", "--configfile", "mine.yaml"]
    status, said = forked_snakemake(tmp_path, *words)
    assert status == 1
    assert message in said
    assert not (tmp_path / "results").exists()


def test_the_demo_runs_beside_itself_under_another_name(tmp_path):
    planned = Workspace(tmp_path).snakemake("-n", "--config", "preset=beside", "--", "results/beside/measurements.csv")
    assert planned.returncode == 0, planned.stderr


def test_settings_of_the_command_line_reach_report_page_and_manifest(tmp_path):
    """Their commands start the workflow again; without the settings they would be about other results."""
    workspace = Workspace(tmp_path)
    base = str(ROOT / "studies/papers/published.yaml")
    small = {"tables": ["table8"], "figures": [], "claims": None, "experiments": None, "paper": False}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({"base": base, **small}))
    changes = ["preset=other", "title=Two words"]
    planned = workspace.snakemake("-n", "-p", "--quiet", "host", "--configfile", "few.yaml", "--config", *changes)
    assert planned.returncode == 0, planned.stderr
    commands = [line for line in planned.stdout.splitlines() if "--configfile few.yaml" in line]
    assert len(commands) == 2  # of the page and of the manifest
    assert all(
        "--configfile few.yaml --config preset=other " in line and "title=Two words" in line for line in commands
    )
