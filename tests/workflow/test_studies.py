"""Each study stands alone: with `config/`, shared code and no other study its presets pass the check before a run,
and show all that they measure.

So each study may be removed, and nothing that is left misses it.
"""

import os
import shutil
import subprocess
import sys

import pytest

import sida.config.resources as resources
import workflow.preset.files as files
from sida.config.resources import ROOT
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
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    known = presets()
    assert known
    for path in known.values():
        preset = Preset.load(path)
        # A variant shows little that its base does not.
        if "\nbase: " not in path.read_text():
            check_preset(preset)
            assert unshown_remark(preset) is None, path


def copied(here, study):
    """A copy of the suite with this folder of `studies/` alone."""
    for part in ("sida", "eval", "workflow", "config", f"studies/{study}"):
        shutil.copytree(ROOT / part, here / part, ignore=shutil.ignore_patterns("stored", "__pycache__"))
    shutil.copytree(ROOT / "results" / "published", here / "results" / "published")
    for name in ("Snakefile", "CITATION.cff", "environment.yml"):
        shutil.copy(ROOT / name, here)
    return here


def run(here, *words):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SIDA_ASSETS")}
    command = [sys.executable, "-m", "workflow", "run", *words]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_each_preset_of_a_study_has_its_jobs_without_the_others(study, tmp_path):
    """Removing studies in turn and planning the rest shows less: here all others are gone at once."""
    here = copied(tmp_path / "suite", study)
    for name, path in presets().items():
        if path.parent.name == study and "\nbase: " not in path.read_text():
            run(here, name, "-n")


def test_presets_that_change_each_other_are_one_line(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"base: {other}.yaml\n")
    refused(r"a\.yaml: base: goes in a circle", Preset.load, tmp_path / "a.yaml")
