"""``--processes N``: the true command in several processes, its signals and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

from sida.cli.main import main
from sida.config.resources import ROOT
from sida.errors import EXIT_RETRY
from sida.training.process import run_together
from tests.training.toy import TEACHER, as_json, results


@pytest.mark.parametrize(
    ("endings", "status"),
    [
        (["pass", "pass"], 0),
        (["sys.exit(75)", "sys.exit(75)"], EXIT_RETRY),
        (["sys.exit(1)", "sys.exit(75)"], 1),
        (["os.kill(os.getpid(), 9)", "sys.exit(75)"], EXIT_RETRY),
        (["os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 9)"], EXIT_RETRY),
    ],
)
def test_exit_status(endings, status):
    text = f"import os, sys\nexec({endings!r}[int(os.environ['RANK'])])"
    assert run_together([sys.executable, "-c", text], 2) == status


def test_one_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr("sida.training.process.GRACE", 0.3)
    text = "import os, sys, time\nsys.exit(1) if os.environ['RANK'] == '0' else time.sleep(900)"
    start = time.monotonic()
    assert run_together([sys.executable, "-c", text], 2) == 1
    assert time.monotonic() - start < 300


@pytest.mark.slow
def test_the_command_trains_stops_at_a_signal_and_goes_on(tmp_path):
    """One line, a state, and the status that has a scheduler send the job again, which goes on."""
    folder = tmp_path / "run"
    spec = {**TEACHER, "batch_gpu": 4, "snapshot_kimg": None, "state_minutes": 0}
    command = [sys.executable, "-m", "sida", "train-teacher", "--out", str(folder), "--processes", "2", "--spec"]
    long = as_json({**spec, "total_kimg": 1000})
    run = subprocess.Popen([*command, long], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_image(folder, run)
    run.send_signal(signal.SIGUSR1)
    _, said = run.communicate(timeout=300)
    assert run.returncode == EXIT_RETRY
    lines = [line for line in said.splitlines() if not line.startswith("[teacher")]
    assert lines == ["preempted; the state is kept: run the same command again to resume"]
    images = newest_image(folder)
    assert images > 0
    again = subprocess.Popen([*command, long], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_image(folder, again, images)
    # A killed process ends the other one, which says so.
    os.kill(child_of(again.pid), signal.SIGKILL)
    _, said = again.communicate(timeout=300)
    assert again.returncode == EXIT_RETRY
    (line,) = [line for line in said.splitlines() if not line.startswith("[teacher")]
    assert line.startswith("error: another of the 2 processes of this training has ended")


@pytest.mark.slow
def test_torchrun_ends_with_a_killed_process_and_resumes(tmp_path):
    spec = {**TEACHER, "batch_gpu": 4, "snapshot_kimg": None, "state_minutes": 0, "total_kimg": 1}

    def command(folder):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        words = ["-m", "sida", "train-teacher", "--out", str(tmp_path / folder), "--spec", as_json(spec)]
        return subprocess.Popen([*torchrun, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)

    run = command("run")
    wait_for_image(tmp_path / "run", run)
    images = newest_image(tmp_path / "run")
    os.kill(child_of(run.pid), signal.SIGKILL)
    _, said = run.communicate(timeout=300)
    assert run.returncode != 0
    # The rest is torchrun's own report.
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: another of the 2 processes of this training has ended")
    again, alone = command("run"), command("alone")
    for process in (again, alone):
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert 0 < images < 1000
    assert results(tmp_path / "run") == results(tmp_path / "alone")


def newest_image(folder):
    states = sorted(folder.glob("state/*.json"))
    return json.loads(states[-1].read_bytes())["record"]["nimg"] if states else 0


def wait_for_image(folder, process, behind=0):
    while newest_image(folder) <= behind:
        assert process.poll() is None
        time.sleep(0.05)


def child_of(parent):
    """The last process that another one has started."""
    return int(
        max(subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split(), key=int)
    )


@pytest.mark.parametrize(
    ("count", "bound"),
    [("65", "be at most 64"), ("9" * 400, "be at most 64"), ("-1", "not be negative")],
    ids=["many", "endless", "negative"],
)
def test_a_number_of_processes_that_cannot_be_is_refused(count, bound, tmp_path, capsys):
    command = ["train-teacher", "--out", str(tmp_path), "--spec", as_json(TEACHER), "--processes", count]
    with mock.patch("subprocess.Popen", side_effect=AssertionError):
        assert main(command) == 1
    assert f"--processes: must {bound}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "spec", "more"), [("distill", "tiny-student", ["--teacher", "x"]), ("train-teacher", "tiny-teacher", [])]
)
def test_threads_are_limited_before_the_libraries_read_their_number(verb, spec, more):
    code = (
        "import sys, sida.cli.main, sida.cli.train as train\n"
        "def loaded(threads): print([name for name in ('numpy', 'torch') if name in sys.modules]); sys.exit(3)\n"
        "train.limit_library_threads = loaded\n"
        "sida.cli.main.main(sys.argv[1:])"
    )
    given = ["--spec", str(ROOT / f"docs/examples/{spec}.yaml"), "--out", "y", *more]
    command = [sys.executable, "-c", code, verb, *given]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"
