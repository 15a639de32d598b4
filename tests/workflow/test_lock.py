"""The lock of a preset's results: one workflow at a time, nothing to unlock by hand, whatever the file system."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.refused import refusing
from tests.training.toy import fork, wait
from tests.workflow.workspace import Workspace
from workflow import start
from workflow.start import PresetLock, read_holder

COMMAND = ["snakemake", "--cores", "2"]
ELSEWHERE = {"token": "t", "machine": "another", "host": "node7", "pid": 12, "since": "then", "command": "snakemake -n"}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """Signs of life and patience of tenths of a second."""
    monkeypatch.setattr(start, "BEAT", 0.05)
    monkeypatch.setattr(start, "PATIENCE", 0.5)


@pytest.fixture
def folder(tmp_path):
    """A preset's results."""
    return tmp_path / "results/demo"


def left_behind(folder, **changes):
    """A file of another machine's workflow, as one finds it."""
    folder.mkdir(parents=True)
    (folder / start.NAME).write_text(json.dumps({**ELSEWHERE, **changes}))


def taken(folder):
    held = PresetLock(folder, COMMAND)
    held.take()
    return held


def test_the_second_is_refused_with_one_line_and_changes_nothing(folder, tmp_path):
    first = taken(folder)
    before = (folder / start.NAME).read_bytes()
    with refusing(rf"\(process {os.getpid()} on {os.uname().nodename} since .*snakemake --cores 2"):
        taken(folder)
    assert (folder / start.NAME).read_bytes() == before
    # Another preset's folder is free, and so is this one afterwards.
    taken(tmp_path / "results/other").release()
    first.release()
    taken(folder).release()
    assert (folder / start.NAME).read_bytes() == b""


def test_a_killed_holder_holds_nothing_nor_do_its_jobs(folder, tmp_path, capfd):
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
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{folder}: the workflow before (process ")
    assert line.endswith("snakemake --cores 2) ended without a message; this workflow continues")


def beating(path, ended):
    """Another machine's signs of life."""
    while not ended.wait(0.05):
        os.utime(path)


@pytest.mark.parametrize(("locks", "hours"), [(True, -72), (False, 72)], ids=["local locks", "no locks"])
def test_another_machine_s_workflow_is_known_by_its_signs_of_life(folder, monkeypatch, capfd, locks, hours):
    """Where ``flock`` reaches one machine only, or is not there at all; the machines' clocks may be days apart."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    left_behind(folder)
    file, dated = folder / start.NAME, (time.time() + 3600 * hours,) * 2
    os.utime(file, times=dated)
    ended = threading.Event()
    alive = threading.Thread(target=beating, args=(file, ended))
    alive.start()
    who = "process 12 on node7 since then: snakemake"
    with refusing(rf"another workflow is at work here \({who}"):
        taken(folder)
    ended.set()
    alive.join()
    assert read_holder(file) == ELSEWHERE
    os.utime(file, times=dated)
    taken(folder).release()
    lines = capfd.readouterr().err.splitlines()
    assert "may be at work here; watching" in lines[0]
    assert lines[-1].startswith(f"{folder}: the workflow before ({who}")
    assert lines[-1].endswith("this workflow continues")


def test_who_was_taken_over_stops(folder, tmp_path):
    """Its machine slept, say, and showed no sign of life until another's workflow took its place."""

    def hold():
        # Snakemake's process has no handler of a test before this one.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        taken(folder)
        (folder / start.NAME).write_text(json.dumps(ELSEWHERE))
        time.sleep(60)

    assert wait(fork(hold, tmp_path / "log")) == -signal.SIGTERM
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "process 12 on node7" in line
    assert line.endswith("has taken over here; this workflow stops")
    assert read_holder(folder / start.NAME) == ELSEWHERE


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', "[" * 200_000])
def test_a_file_without_a_name_in_it_holds_nothing(folder, text):
    folder.mkdir(parents=True)
    (folder / start.NAME).write_text(text)
    taken(folder).release()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_lock_that_is_no_ordinary_file_is_refused_and_changes_nothing(folder, tmp_path, kind):
    mine, lock = tmp_path / "mine.txt", folder / start.NAME
    mine.write_text("of the user")
    folder.mkdir(parents=True)
    make = {"link": lambda: lock.symlink_to(mine), "hard link": lambda: lock.hardlink_to(mine)}
    make["pipe"] = lambda: os.mkfifo(lock)
    make[kind]()
    with refusing(r"\.workflow\.lock: .*remove it"):
        taken(folder)
    assert mine.read_text() == "of the user"


def test_what_a_file_says_stays_one_line(folder, capfd):
    left_behind(folder, command="snakemake\n\x1b[2Jerror: " + "x" * 10_000)
    taken(folder).release()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(len(line) < 600 and line.isprintable() for line in lines)


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
