"""Each study stands alone: with `config/`, shared code and no other study its presets pass the check before a run,
and show all that they measure.

So each study may be removed, and nothing that is left misses it.
"""

import pytest

import sida.config.lookup as lookup
import workflow.preset.files as files
from sida.config.lookup import ROOT
from tests.refused import refused
from workflow.preset import Preset
from workflow.preset.files import presets
from workflow.preset.placeholders import check_preset, unshown_remark

STUDIES = sorted({path.parent.name for path in presets().values()})


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_needs_no_other_study(study, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    for name in ("config", "results", f"studies/{study}"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lookup, "ROOT", tmp_path)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    known = presets()
    assert known
    for path in known.values():
        preset = Preset.load(path)
        # A variant shows little that its base does not.
        if "\nbase: " not in path.read_text():
            check_preset(preset)
            assert unshown_remark(preset) is None, path


def test_presets_that_change_each_other_are_one_line(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"base: {other}.yaml\n")
    refused(r"a\.yaml: base: goes in a circle", Preset.load, tmp_path / "a.yaml")
