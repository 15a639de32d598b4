"""Pictures in a folder that a row measures: one that is written over is measured, and nothing else again."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.workflow.workspace import Workspace
from workflow.preset.spec_files import folder_digest, with_pictures

SHEET = "run\tlabel\tmethod\tcheckpoint\tsampler\nmine\tMine\texternal\tpictures\t\ndata\tData\tdata\t\tdata\n"


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
    (tmp_path / "runs.tsv").write_text(SHEET)
    # Nothing shows the table, so nothing is drawn.
    changes = {"preset": "mine", "runs": "runs.tsv", "trials_per_job": 2, "claims": None, "figures": []}
    config = workspace.config(**changes, tables=[], teachers={}, recipes={})
    arguments = ("--configfile", config, "--", "measurements.csv")

    def planned():
        done = workspace.snakemake("-n", *arguments)
        assert done.returncode == 0, done.stderr
        return dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))

    done = workspace.snakemake(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned() == {}
    before = os.stat(tmp_path / "pictures").st_mtime_ns
    write(tmp_path / "pictures", 7, 1000)
    assert os.stat(tmp_path / "pictures").st_mtime_ns == before
    jobs = planned()
    assert jobs["measure_0_1"] == "1"
    assert jobs["collect"] == "1"
