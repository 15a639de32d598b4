"""Stored rows of each study are rows of its preset today, so that `--extend` takes them and trains none again."""

import os

import pytest

from eval.results.stored import read_stored, unchanged_rows
from sida.config.lookup import ROOT
from workflow.preset import load_preset
from workflow.preset.extension import stored_results
from workflow.preset.stored_rows import row_digest

PRESETS = [path for path in sorted(ROOT.glob("studies/*/*.yaml")) if (stored_results([path]) / "stored.json").is_file()]


@pytest.mark.parametrize("working_folder", [ROOT, ROOT.parent, None], ids=["checkout", "above", "elsewhere"])
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.relative_to(ROOT / "studies").as_posix())
def test_stored_rows_have_the_digests_of_todays_settings(path, working_folder, monkeypatch, tmp_path):
    stored_folder = stored_results([path])
    stored = list(read_stored(stored_folder)["rows"])
    assert stored
    monkeypatch.chdir(tmp_path if working_folder is None else working_folder)
    # The workflow reads a preset by its path from the current folder, other commands by its absolute one.
    for file in (path, os.path.relpath(path)):
        preset = load_preset(file)
        digests = {run: row_digest(preset, run) for run in stored if run in preset.runs}
        assert unchanged_rows(stored_folder, digests) == stored
