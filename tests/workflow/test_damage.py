"""Damaged files, full disks and ones that may only be read: refused by name, then the same numbers."""

import shutil
import subprocess

import pytest

from tests.disks import DAMAGES, make_read_only, small_disk
from tests.workflow.workspace import Workspace, outcome, small, undisturbed

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
    return undisturbed(tmp_path_factory.mktemp("finished"))


def copied(workspace, folder):
    """A copy with the same times, whose own files may be changed."""
    shutil.copytree(workspace.folder, folder, symlinks=True)
    copy = Workspace.__new__(Workspace)
    copy.folder = folder
    return copy


def faults(said):
    """The lines of a run that tell of an error; Snakemake's own tell which job and log."""
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_is_named_and_the_rerun_ends_with_the_same_numbers(finished, tmp_path, case):
    whole, arguments, wanted = finished
    name, damage, by_itself, gone = CASES[case]
    workspace = copied(whole, tmp_path / "copy")
    results = workspace.folder / "results/small"
    DAMAGES[damage](results / name)
    for other in {*gone, *LAST} - {name}:
        (results / other).unlink()
    (line,) = faults(workspace.done(*arguments, status=1))
    assert line.startswith(f"error: results/small/{name}:")
    if by_itself:
        assert "the same workflow command measures it" in line
    else:
        assert "delete it" in line
        (results / name).unlink()
    workspace.done(*arguments)
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
        assert "Nothing to be done" in workspace.done(*arguments)
        make_read_only(disk, False)
        (disk / "tables/main.tex").unlink()
        make_read_only(disk)
        said = workspace.done(*arguments, status=1)
        assert faults(said) == []
        assert "results/small: is read-only, so nothing can be made there; start in a writable folder" in said
        assert {path.name for path in (disk / "tables").iterdir()} == {"main.csv", "main.html", "main.json", "main.md"}
        make_read_only(disk, False)
        workspace.done(*arguments)
        assert outcome(workspace) == wanted


def resize(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.mark.parametrize("size", ["64k", "400k"])
def test_a_disk_that_fills_while_a_workflow_runs(finished, tmp_path, size):
    workspace, arguments = small(tmp_path)
    with small_disk(workspace.folder / "results/small", size) as disk:
        assert any("No space left" in line for line in faults(workspace.done(*arguments, status=1)))
        resize(disk, "64m")
        workspace.done(*arguments)
        assert outcome(workspace) == finished[-1]
