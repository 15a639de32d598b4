"""A changed setting or file reaches all that is made from it, also after a job that failed or was killed."""

import os

import numpy as np
import pytest
import yaml
from PIL import Image

from sida.training import train_teacher
from sida.workflow.preset.jobs import teacher_training
from sida.workflow.preset.specs import content_digest
from tests.training.toy import interrupt_after, states
from tests.workflow.workspace import TINY, Workspace, kill_group, outcome, shipped, small, wait_for

GENERATOR = """import numpy as np


def sample(seeds):
    images = [np.random.default_rng(seed).integers(0, BRIGHT, (1, 8, 8), np.uint8) for seed in seeds]
    return np.stack(images), np.array([seed % 10 for seed in seeds])
"""
SHEET = "run\tlabel\tmethod\tcheckpoint\nmine\tMine\texternal\tmine:sample\n"


@pytest.mark.slow
def test_an_old_measurement_is_not_shown_after_a_generator_that_fails(tmp_path, monkeypatch):
    """Of a generator of the user's own: nothing is trained."""
    monkeypatch.setenv("SIDA_ALLOW_CODE", "mine")
    workspace, good = Workspace(tmp_path), GENERATOR.replace("BRIGHT", "200")
    table, source = tmp_path / "results/mine/tables/main.md", tmp_path / "mine.py"
    (tmp_path / "runs.tsv").write_text(SHEET)
    source.write_text(good)
    changes = {"preset": "mine", "runs": "runs.tsv", "claims": None, "figures": [], "teachers": {}, "recipes": {}}
    arguments = ("--configfile", workspace.config(**changes), "--", "results/mine/tables/main.tex")
    workspace.done(*arguments)
    before = table.read_text()
    source.write_text(good + "\n\ndef sample(seeds):\n    raise ValueError('edited')\n")
    assert "edited" in workspace.done(*arguments, status=1)
    assert {"collect_part", "table"} < set(workspace.planned(*arguments))
    source.write_text(good.replace("200", "100"))
    workspace.done(*arguments)
    assert table.read_text() != before
    assert workspace.planned(*arguments) == {}


@pytest.mark.slow
def test_an_old_student_is_not_shown_after_a_training_that_fails_or_is_killed(tmp_path):
    workspace, arguments = small(tmp_path)
    workspace.done(*arguments)
    before = outcome(workspace)
    config = tmp_path / "changed.yaml"
    good = config.read_text()
    document = yaml.safe_load(good)
    document["recipes"]["sid"] |= {"lr": 1.0e-3, "total_kimg": 400}
    config.write_text(yaml.safe_dump(document))
    due, log = {"distill", "measure_0_1", "collect_part", "table"}, tmp_path / "results/small/students/sid/train.jsonl"
    run, begun = workspace.start(*arguments), log.stat().st_mtime_ns
    wait_for(lambda: log.exists() and log.stat().st_mtime_ns > begun)
    kill_group(run)
    assert due <= set(workspace.planned(*arguments))
    assert "Nothing to be done" in workspace.done(
        *arguments[:-1], "results/small/teachers/digits-short/network.safetensors"
    )
    # Settings that are set back ask for nothing.
    config.write_text(good)
    assert workspace.planned(*arguments) == {}
    assert outcome(workspace, networks=False).items() <= before.items()

    document["recipes"]["sid"] |= {"lr": 1.0e30, "total_kimg": 4}
    config.write_text(yaml.safe_dump(document))
    assert "NaN" in workspace.done(*arguments, status=1)
    assert due <= set(workspace.planned(*arguments))
    config.write_text(good)
    workspace.done(*arguments)
    assert outcome(workspace) == before
    assert workspace.planned(*arguments) == {}
    # A file that somebody removed to make room is not trained again, until its settings change.
    (tmp_path / "results/small/teachers/digits-short/network.safetensors").unlink()
    assert workspace.planned(*arguments) == {}
    document = yaml.safe_load(good)
    document["teachers"]["digits-short"]["training"]["lr"] = 1.0e-4
    config.write_text(yaml.safe_dump(document))
    assert due | {"train_teacher"} <= set(workspace.planned(*arguments))


def write(folder, number, seed):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8), np.uint8)).save(folder / f"{number:03}.png")


def digest(folder):
    content_digest.cache_clear()
    return content_digest(folder)


def test_names_sizes_and_times_of_a_folder_s_files_count(tmp_path):
    folder = tmp_path / "a"
    for number in range(3):
        write(folder / "deep", number, number)
    found = [digest(folder)]
    (folder / ".hidden").touch()
    assert digest(folder) == found[0]
    with open(folder / "deep/001.png", "r+b") as file:
        file.write(b"other")
    found.append(digest(folder))
    os.utime(folder / "deep/002.png", (0, 0))
    found.append(digest(folder))
    (folder / "deep/002.png").rename(folder / "002.png")
    found.append(digest(folder))
    assert len(set(found)) == 4


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_layout_counts_by_its_content_and_that_of_the_file_it_extends(tmp_path, suffix):
    base, layout = tmp_path / "base.yaml", tmp_path / f"mine.{suffix}"
    base.write_text("title: Results\ncolumns: []\n")
    layout.write_text("extends: base.yaml\ncaption: one\n")
    digests = [digest(layout)]
    for path, text in ((layout, "extends: base.yaml\ncaption: two\n"), (base, "title: Others\ncolumns: []\n")):
        path.write_text(text)
        digests.append(digest(layout))
    assert len(set(digests)) == 3
    layout.write_text("# a remark\n" + layout.read_text())
    assert digest(layout) == digests[-1]


@pytest.mark.slow
def test_an_unfinished_training_of_other_settings_is_kept(tmp_path):
    workspace = Workspace(tmp_path)
    folder = tmp_path / "results/tiny/teachers/digits-short"
    spec = teacher_training(shipped(TINY), "digits-short").spec
    interrupt_after(train_teacher, {**spec, "lr": 1e-3}, folder, 768)
    before = [path.read_bytes() for path in states(folder)]
    assert len(before) == 2
    target = "results/tiny/teachers/digits-short/network.safetensors"
    said = workspace.done("--configfile", "tests/workflow/tiny.yaml", "--", target)
    (line,) = [line for line in said.splitlines() if "this run starts anew" in line]
    assert "an unfinished run (image 768) of other settings, inputs or version; it is kept" in line
    (aside,) = (folder / "aside").iterdir()
    assert [path.read_bytes() for path in states(aside)] == before


def test_the_order_of_keys_in_a_file_changes_no_digest(tmp_path):
    text = {name: tmp_path / f"{name}.yaml" for name in ("one", "same", "other")}
    text["one"].write_text("name: a\ntrials: 2\nnested: {b: 1, a: 2}\n")
    text["same"].write_text("nested: {a: 2, b: 1}\ntrials: 2\nname: a\n")
    text["other"].write_text("name: a\ntrials: 3\nnested: {b: 1, a: 2}\n")
    one, same, other = (digest(path) for path in text.values())
    assert one == same != other
