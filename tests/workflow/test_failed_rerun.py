"""After a rerun that failed no old row is shown as current: the same command fails again until the fault is mended."""

import os

import numpy as np
import pytest
import yaml
from PIL import Image

from sida.config.resources import ROOT
from sida.training import train_teacher
from tests.training.toy import interrupt_after
from tests.workflow.small import outcome, small
from tests.workflow.workspace import Workspace
from workflow.preset import Preset
from workflow.preset.spec_files import folder_digest, with_pictures
from workflow.snakemake_patches import unknown_functions

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


@pytest.mark.slow
@pytest.mark.parametrize("shard_size", [None, 100])
def test_an_old_measurement_is_not_shown_after_a_generator_that_fails(study, shard_size):
    workspace, preset = study(shard_size=shard_size)
    table = workspace.folder / "results/mine/tables/main.md"
    source = workspace.folder / "mine.py"
    arguments = (*preset, "--", "tables/main.tex")
    workspace.done(*arguments)
    before, good = table.read_text(), source.read_text()
    source.write_text(good + "\n\ndef sample(seeds):\n    raise ValueError('edited')\n")
    assert "edited" in workspace.done(*arguments, status=1)
    assert {"collect_part", "table"} < set(workspace.planned(*preset, "--", "results/mine/tables/main.tex"))
    source.write_text(good.replace("200", "100"))
    workspace.done(*arguments)
    assert table.read_text() != before
    assert workspace.planned(*arguments) == {}


@pytest.mark.slow
def test_an_old_student_is_not_shown_after_a_training_that_fails(tmp_path):
    workspace, arguments = small(tmp_path)
    workspace.done(*arguments)
    before = outcome(workspace)
    config = tmp_path / "changed.yaml"
    good = config.read_text()
    document = yaml.safe_load(good)
    document["recipes"]["sid"] |= {"lr": 1.0e30, "total_kimg": 4}
    config.write_text(yaml.safe_dump(document))
    assert "NaN" in workspace.done(*arguments, status=1)
    said = workspace.done(*arguments, status=1)
    assert "NaN" in said
    assert "results/small/students/sid/network.safetensors: missing or of before a job that failed" in said
    due = {"distill", "measure_0_1", "collect_part", "table"}
    assert due <= set(workspace.planned(*arguments))
    assert due <= set(workspace.planned(*arguments[:-1], "results/small/tables/main.tex"))
    assert "Nothing to be done" in workspace.done(*arguments[:-1], "teachers/digits-short/network.safetensors")
    config.write_text(good)
    workspace.done(*arguments)
    assert outcome(workspace) == before
    assert "Nothing to be done" in workspace.done(*arguments)
    # A file that somebody removed to make room is not trained again, until its settings change.
    (tmp_path / "results/small/teachers/digits-short/network.safetensors").unlink()
    assert "Nothing to be done" in workspace.done(*arguments)
    document["teachers"]["digits-short"]["training"]["lr"] = 1.0e-4
    config.write_text(yaml.safe_dump({**yaml.safe_load(good), "teachers": document["teachers"]}))
    assert due | {"train_teacher"} <= set(workspace.planned(*arguments))


def test_the_replaced_functions_of_snakemake_are_known():
    assert unknown_functions() == []


PICTURES = "run\tlabel\tmethod\tcheckpoint\tsampler\nmine\tMine\texternal\tpictures\t\ndata\tData\tdata\t\tdata\n"


def write(folder, number, seed):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8), np.uint8)).save(folder / f"{number:03}.png")


def digest(folder):
    folder_digest.cache_clear()
    return with_pictures("spec", str(folder))


def test_names_sizes_and_times_of_a_folder_s_files_count(tmp_path):
    folder = tmp_path / "a"
    for number in range(3):
        write(folder / "deep", number, number)
    found = [digest(folder)]
    times = os.stat(folder), os.stat(folder / "deep")
    (folder / ".hidden").touch()
    assert digest(folder) == found[0]
    with open(folder / "deep/001.png", "r+b") as file:
        file.write(b"other")
    assert os.stat(folder / "deep").st_mtime_ns == times[1].st_mtime_ns
    found.append(digest(folder))
    os.utime(folder / "deep/002.png", (0, 0))
    found.append(digest(folder))
    (folder / "deep/002.png").rename(folder / "002.png")
    found.append(digest(folder))
    (folder / "003.png").symlink_to("nowhere")
    found.append(digest(folder))
    assert len(set(found)) == 5
    assert with_pictures("spec", None) == with_pictures("spec", "mine:sample") == "spec"
    assert with_pictures("spec", str(folder / "002.png")) == "spec"


@pytest.mark.slow
def test_a_picture_that_is_written_over_is_measured(tmp_path):
    workspace = Workspace(tmp_path)
    for number in range(400):
        write(tmp_path / "pictures", number, number)
    (tmp_path / "runs.tsv").write_text(PICTURES)
    # Nothing shows the table, so nothing is drawn.
    changes = {"preset": "mine", "runs": "runs.tsv", "trials_per_job": 2, "claims": None, "figures": []}
    config = workspace.config(**changes, tables=[], teachers={}, recipes={})
    arguments = ("--configfile", config, "--", "measurements.csv")

    workspace.done(*arguments)
    assert workspace.planned(*arguments) == {}
    before = os.stat(tmp_path / "pictures").st_mtime_ns
    write(tmp_path / "pictures", 7, 1000)
    assert os.stat(tmp_path / "pictures").st_mtime_ns == before
    jobs = workspace.planned(*arguments)
    assert jobs["measure_0_1"] == jobs["collect"] == 1


@pytest.mark.slow
def test_an_unfinished_training_of_other_settings_is_kept(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    folder = tmp_path / "results/tiny/teachers/digits-short"
    spec = Preset.load(ROOT / "tests/workflow/tiny.yaml").specs.teacher("digits-short")
    interrupt_after(train_teacher, {**spec, "lr": 1e-3}, folder, monkeypatch, 768)
    before = {path: path.read_bytes() for path in (folder / "state").glob("state-*")}
    assert len(before) == 4
    target = "teachers/digits-short/network.safetensors"
    said = workspace.done("--configfile", "tests/workflow/tiny.yaml", "--", target)
    (line,) = [line for line in said.splitlines() if "this run starts anew" in line]
    assert "(image 768) of another configuration or other inputs; it is kept" in line
    assert all(path.read_bytes() == content for path, content in before.items())
