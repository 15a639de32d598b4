"""A changed preset over an unfinished training: the workflow says so, and the old state stays."""

from __future__ import annotations

import pytest

from sida.config.resources import ROOT
from sida.training import train_teacher
from tests.training.toy import interrupt_after
from tests.workflow.workspace import Workspace
from workflow.preset import Preset


@pytest.mark.slow
def test_an_unfinished_training_of_other_settings_is_kept(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    folder = tmp_path / "results/tiny/teachers/digits-short"
    spec = Preset.load(ROOT / "tests/workflow/tiny.yaml").specs.teacher("digits-short")
    interrupt_after(train_teacher, {**spec, "lr": 1e-3}, folder, monkeypatch, 768)
    before = {path: path.read_bytes() for path in (folder / "state").glob("state-*")}
    assert len(before) == 4
    target = "teachers/digits-short/network.safetensors"
    result = workspace.snakemake("--configfile", "tests/workflow/tiny.yaml", "--", target)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    said = [line for line in (result.stdout + result.stderr).splitlines() if "this run starts anew" in line]
    assert len(said) == 1
    assert "an unfinished run (image 768) of another configuration or other inputs; it is kept" in said[0]
    assert all(path.read_bytes() == content for path, content in before.items())
