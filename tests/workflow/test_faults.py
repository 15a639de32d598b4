"""Disks that fill or may only be read while a workflow runs: one line each, and the same numbers afterwards."""

import subprocess
import time

import pytest

from tests.disks import small_disk
from tests.workflow.small import outcome, small, undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What a run without a fault gives."""
    return undisturbed(tmp_path_factory.mktemp("whole"))[-1]


def check_fault(said, *words):
    """A run failed with the command's own line and no traceback."""
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert any(all(word in line for word in words) for line in lines), said


def resize(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.mark.parametrize("size", ["64k", "200k", "400k"])
def test_a_disk_that_fills_while_a_workflow_runs(tmp_path, wanted, size):
    workspace, arguments = small(tmp_path)
    with small_disk(workspace.folder / "results/small", size) as disk:
        check_fault(workspace.done(*arguments, status=1), "No space left")
        resize(disk, "64m")
        workspace.done(*arguments)
        assert outcome(workspace) == wanted


def test_a_folder_that_may_only_be_read_from_now_on(tmp_path, wanted):
    """Students cannot be written from the moment in which their teacher trains."""
    workspace, arguments = small(tmp_path)
    students = workspace.folder / "results/small/students"
    students.mkdir(parents=True)
    bind = ["mount", "--bind", str(students), str(students)]
    if subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        process = workspace.start(*arguments)
        while not list((workspace.folder / "results/small/teachers").glob("*/train.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(students)], check=True)
        assert process.wait(timeout=600) == 1
        said = (workspace.folder / "run.log").read_text()
    finally:
        subprocess.run(["umount", str(students)], check=True)
    # Snakemake makes the folder itself, and says so itself.
    assert "Failed to create output directory results/small/students/sid" in said
    assert "Read-only file system" in said
    assert "Traceback" not in said
    workspace.done(*arguments)
    assert outcome(workspace) == wanted
