"""The lock of a preset's results: one workflow at a time, nothing to unlock by hand."""

import json
import os
import signal
import subprocess

import pytest

from tests.refused import refused, refusing
from tests.training.toy import fork, wait
from tests.workflow.workspace import Workspace
from workflow import start
from workflow.start import PresetLock

COMMAND = ["snakemake", "--cores", "2"]


@pytest.fixture
def folder(tmp_path):
    """A preset's results."""
    return tmp_path / "results/demo"


def taken(folder):
    held = PresetLock(folder, COMMAND)
    held.take()
    return held


def test_the_second_is_refused_with_one_line_and_changes_nothing(folder, tmp_path):
    first = taken(folder)
    before = (folder / start.NAME).read_bytes()
    refused(rf"\(process {os.getpid()} on {os.uname().nodename} since .*snakemake --cores 2", taken, folder)
    assert (folder / start.NAME).read_bytes() == before
    # Another preset's folder is free, and so is this one afterwards.
    taken(tmp_path / "results/other").release()
    first.release()
    taken(folder).release()


def test_a_killed_holder_holds_nothing_nor_do_its_jobs(folder, tmp_path):
    """A job that goes on without its workflow has the same open files, but not this one."""

    def hold():
        taken(folder)
        job = subprocess.Popen(["sleep", "60"], close_fds=False)
        (tmp_path / "job").write_text(str(job.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    assert wait(fork(hold, tmp_path / "log")) == -signal.SIGKILL
    job = int((tmp_path / "job").read_text())
    taken(folder).release()
    os.kill(job, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', "[" * 200_000])
def test_a_file_without_a_name_in_it_holds_nothing(folder, text):
    folder.mkdir(parents=True)
    (folder / start.NAME).write_text(text)
    taken(folder).release()


def test_what_a_file_says_stays_one_line(folder):
    held = taken(folder)
    record = {"host": "node7", "pid": 12, "command": "snakemake\n\x1b[2Jerror: " + "x" * 10_000}
    (folder / start.NAME).write_text(json.dumps(record))
    with refusing("process 12 on node7") as caught:
        taken(folder)
    held.release()
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_lock_that_is_no_ordinary_file_is_refused_and_changes_nothing(folder, tmp_path, kind):
    mine, lock = tmp_path / "mine.txt", folder / start.NAME
    mine.write_text("of the user")
    folder.mkdir(parents=True)
    make = {"link": lambda: lock.symlink_to(mine), "hard link": lambda: lock.hardlink_to(mine)}
    make["pipe"] = lambda: os.mkfifo(lock)
    make[kind]()
    refused(r"\.workflow\.lock: .*remove it", taken, folder)
    assert mine.read_text() == "of the user"


def test_a_second_workflow_ends_before_any_job(tmp_path):
    """The other holds the lock of this preset; what only looks is not refused."""
    workspace = Workspace(tmp_path)
    results = tmp_path / "results/published"
    held = taken(results)
    before = contents(results)
    target = ("--configfile", "studies/papers/published.yaml", "--", "results/published/tables/table8.tex")
    status, said = workspace.forked(*target)
    assert status == 1
    (line,) = [line for line in said.splitlines() if "error" in line.lower()]
    assert line.startswith(f"error: results/published: another workflow is at work here (process {os.getpid()} on ")
    assert workspace.planned(*target)["table"] == 1
    assert contents(results) == before
    held.release()


def contents(folder):
    """What a folder holds beside the lock; that one is touched now and then."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != start.NAME and path.is_file()}
