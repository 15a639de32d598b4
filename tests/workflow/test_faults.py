"""Disks that fill or may only be read, and a clock that jumps, all while a workflow runs: one line each, and the same
numbers afterwards.
"""

import contextlib
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sida.files.atomic import write_text
from tests.disks import small_disk
from tests.workflow.small import outcome, small, undisturbed

pytestmark = pytest.mark.slow
DAY = 86400


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


def test_a_clock_that_jumps_by_days_under_a_workflow(tmp_path, wanted):
    """Every process sees another time every half a second; the times of files are the disk's."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    library, clock = tmp_path / "clock.so", tmp_path / "clock"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, Path(__file__).parent / "clock.c", "-ldl"], check=True)
    (workspace, arguments), source = small(tmp_path), random.Random(0)
    faked = {"LD_PRELOAD": str(library), "SIDA_TEST_CLOCK": str(clock)}
    environment = workspace.environment()
    workspace.environment = lambda: {**environment, **faked}
    process = workspace.start(*arguments)
    with contextlib.suppress(subprocess.TimeoutExpired):
        while process.poll() is None:
            write_text(clock, f"{source.uniform(-7, 7) * DAY:+.0f}\n")
            time.sleep(0.5)
    said = (workspace.folder / "run.log").read_text()
    assert "Traceback" not in said
    # A product that is dated before its input is a clock skew to Snakemake, which removes it.
    assert process.wait() == 0 or "This could indicate a clock skew problem" in said
    workspace.environment = lambda: environment
    # Products that are dated in the future would be clock skews again.
    workspace.snakemake("--touch", *arguments)
    workspace.done(*arguments)
    assert outcome(workspace) == wanted
    assert workspace.planned(*arguments) == {}
