"""Damaged files in a results folder, and the next run of the workflow: refused by name, then the same numbers."""

from __future__ import annotations

import shutil

import pytest

from tests.damage import DAMAGES
from tests.disks import make_read_only, small_disk
from tests.workflow.small import outcome, small
from tests.workflow.workspace import Workspace

pytestmark = pytest.mark.slow
#: Damaged file and how; whether it is made again without a hand; what reads it has to be made again for the table.
CASES = {
    "teacher": ("teachers/digits-short/network.safetensors", "cut", False, ["measurements/teacher/trial-1.json"]),
    "student": ("students/sid/network.safetensors", "flip", False, ["measurements/sid/trial-1.json"]),
    "trial": ("measurements/sid/trial-0.json", "flip", True, []),
    "collected": ("collected/tables/main.csv", "cut", False, []),
}
#: What stands between the trials and the table. Of a product that is there Snakemake asks for nothing before it.
LAST = ["collected/tables/main.csv", "tables/main.tex"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run of the small preset, its arguments and what it left."""
    workspace, arguments = small(tmp_path_factory.mktemp("finished"))
    run = workspace.snakemake(*arguments, timeout=1800)
    assert run.returncode == 0, run.stdout + run.stderr
    return workspace, arguments, outcome(workspace)


def copied(workspace, folder):
    """A copy with the same times, whose own files may be changed."""
    shutil.copytree(workspace.folder, folder, symlinks=True)
    copy = Workspace.__new__(Workspace)
    copy.folder = folder
    return copy


def faults(run):
    """The lines of a run that tell of an error; Snakemake's own tell which job and log."""
    text = run.stdout + run.stderr
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_is_named_and_the_rerun_ends_with_the_same_numbers(finished, tmp_path, case):
    whole, arguments, wanted = finished
    name, damage, by_itself, gone = CASES[case]
    workspace = copied(whole, tmp_path / "copy")
    results = workspace.folder / "results/small"
    DAMAGES[damage](results / name)
    for other in {*gone, *LAST} - {name}:
        (results / other).unlink()
    run = workspace.snakemake(*arguments)
    assert run.returncode == 1
    (line,) = faults(run)
    assert line.startswith(f"error: results/small/{name}:")
    if by_itself:
        assert "the same workflow command measures it" in line
    else:
        assert "delete it" in line
        (results / name).unlink()
    again = workspace.snakemake(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert outcome(workspace) == wanted


def test_a_folder_of_products_on_a_disk_that_may_only_be_read(finished, tmp_path):
    """One line and nothing lost; what is finished is told to be so."""
    whole, arguments, wanted = finished
    workspace = copied(whole, tmp_path / "copy")
    results = workspace.folder / "results/small"
    kept = tmp_path / "kept"
    shutil.move(results, kept)
    with small_disk(results, "64m") as disk:
        shutil.copytree(kept, disk, dirs_exist_ok=True)
        make_read_only(disk)
        looked = workspace.snakemake(*arguments)
        assert looked.returncode == 0
        assert "Nothing to be done" in looked.stdout + looked.stderr
        make_read_only(disk, False)
        (disk / "tables/main.tex").unlink()
        make_read_only(disk)
        run = workspace.snakemake(*arguments)
        assert run.returncode == 1
        assert faults(run) == []
        assert "results/small: is read-only, so nothing can be made there; start in a writable folder" in run.stderr
        assert {path.name for path in (disk / "tables").iterdir()} == {"main.csv", "main.html", "main.json", "main.md"}
        make_read_only(disk, False)
        assert workspace.snakemake(*arguments).returncode == 0
        assert outcome(workspace) == wanted
