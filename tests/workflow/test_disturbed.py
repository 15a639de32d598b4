"""Disturbed workflows: kill -9, damaged files, full disks and ones that may only be read end with the same numbers.

On the smallest preset with every kind of job: a teacher, a student, two trials of each, a table. An undisturbed run
says what must come out.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from tests.disks import DAMAGES, make_read_only, small_disk
from tests.workflow.workspace import Workspace, outcome, small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run: its workspace, its arguments, what it left, and the seconds that it took."""
    start = time.monotonic()
    workspace, arguments = small(tmp_path_factory.mktemp("finished"))
    workspace.done(*arguments)
    return workspace, arguments, outcome(workspace), time.monotonic() - start


# Damaged files and disks

#: Damaged file and how; whether it is made again without a hand; what reads it has to be made again for the table.
CASES = {
    "teacher": ("teachers/digits-short/network.safetensors", "cut", False, ["measurements/teacher/trial-1.json"]),
    "student": ("students/sid/network.safetensors", "flip", False, ["measurements/sid/trial-1.json"]),
    "trial": ("measurements/sid/trial-0.json", "flip", True, []),
    "collected": ("collected/tables/main.csv", "cut", False, []),
}
#: What stands between the trials and the table. Of a product that is there Snakemake asks for nothing before it.
LAST = ["collected/tables/main.csv", "tables/main.tex"]


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
    whole, arguments, wanted, _ = finished
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
    whole, arguments, wanted, _ = finished
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
        assert {path.name for path in (disk / "tables").iterdir()} == {"main.csv", "main.html", "main.md"}
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
        assert outcome(workspace) == finished[2]


# Kills at random moments; the same command is started again at once

#: How often each of these tests kills.
KILLS = 30
#: Seconds that a run may take on a machine with much else to do.
PATIENCE = 3600


def killed_until(folder, finished, victim):
    """Runs again and again, each stopped at a random moment; each that comes to its end must end as expected.

    Args:
        folder: Empty.
        finished: What must come out, and the seconds that an undisturbed run takes.
        victim: From a running Snakemake to the process to kill, or None if there is none at the moment.
    """
    *_, wanted, seconds = finished
    source, done, runs = random.Random(KILLS), 0, 0
    while done < KILLS:
        runs += 1
        (folder / str(runs)).mkdir(parents=True)
        workspace, arguments = small(folder / str(runs))
        groups = []
        try:
            while True:
                process = workspace.start(*arguments)
                groups.append(process.pid)
                killed = done < KILLS and kill_one(process, source, source.uniform(0, seconds / 2), victim)
                done += killed
                if process.wait(timeout=PATIENCE) == 0:
                    break
                assert killed, (workspace.folder / "run.log").read_text()[-3000:]
            assert outcome(workspace) == wanted
        finally:
            for group in groups:
                # Jobs that outlived their Snakemake.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


def kill_one(process, source, seconds, victim):
    """Kills a victim after so many seconds, or as soon as there is one; whether the run lived long enough."""
    moment = time.monotonic() + seconds
    while process.poll() is None:
        target = victim(psutil.Process(process.pid), source) if time.monotonic() > moment else None
        if target:
            with contextlib.suppress(psutil.NoSuchProcess):
                target.kill()
                return True
        time.sleep(0.05)
    return False


def a_job(controller, source):
    """One of the processes in which a stage is at work under a Snakemake."""
    with contextlib.suppress(psutil.NoSuchProcess):
        jobs = [p for p in controller.children(recursive=True) if "sida.workflow" in p.cmdline()[:4]]
        return source.choice(jobs) if jobs else None
    return None


def test_kills_of_the_controller(tmp_path, finished):
    """Its jobs go on without it, while the next Snakemake starts."""
    killed_until(tmp_path, finished, lambda controller, source: controller)


def test_kills_of_jobs(tmp_path, finished):
    """Snakemake goes on without it, forgets what the job had declared, and ends with a status of its own."""
    killed_until(tmp_path, finished, a_job)
