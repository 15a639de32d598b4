"""Stored rows of each study are rows of its preset today, so that `--extend` takes them and trains none again."""

import pytest

from eval.results.stored import read_stored, unchanged_rows
from sida.config.lookup import ROOT
from workflow.preset import load_preset
from workflow.preset.extension import stored_results
from workflow.preset.stored_rows import row_digest

PRESETS = [path for path in sorted(ROOT.glob("studies/*/*.yaml")) if (stored_results([path]) / "stored.json").is_file()]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.relative_to(ROOT / "studies").as_posix())
def test_stored_rows_have_the_digests_of_todays_settings(path):
    folder, preset = stored_results([path]), load_preset(path)
    stored = list(read_stored(folder)["rows"])
    assert stored
    assert unchanged_rows(folder, {run: row_digest(preset, run) for run in stored if run in preset.runs}) == stored
