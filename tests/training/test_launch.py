"""``--processes N``: the true command in several processes, its signals and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sida.config.resources import ROOT
from sida.errors import EXIT_RETRY
from tests.training.toy import TEACHER, as_json, results


def test_exit_status():
    """A failure's own status; a request to start again, where a signal ended one and another lost it."""
    endings = [["sys.exit(1)", "time.sleep(99)"], ["os.kill(os.getpid(), 9)", "sys.exit(75)"]]
    texts = [f"import os, sys, time\nexec({each!r}[int(os.environ['RANK'])])" for each in endings]
    start = "import sys\nfrom sida.training.processes import run_together\n"
    start += f"print([run_together([sys.executable, '-c', text], 2) for text in {texts!r}])"
    done = subprocess.run([sys.executable, "-c", start], timeout=300, capture_output=True, text=True)
    assert done.stdout == f"{[1, EXIT_RETRY]}\n", done.stderr


def test_the_command_stops_at_a_signal_and_resumes_in_a_folder_with_traps(tmp_path):
    """One line, a state, and the status that has a scheduler send the job again; no module of the folder runs."""
    for name in ("sida", "torch"):
        (tmp_path / f"{name}.py").write_text("open('was-here', 'w')")
    spec = {**TEACHER, "batch_gpu": 4, "snapshot_kimg": None, "state_minutes": 0, "total_kimg": 1000}
    script = "import sys\nfrom sida.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    words = ["train-teacher", "--out", "run", "--processes", "2", "--spec", as_json(spec)]
    command = [sys.executable, "-P", "-c", script, *words]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_image(tmp_path / "run", run)
    run.send_signal(signal.SIGUSR1)
    _, said = run.communicate(timeout=300)
    assert run.returncode == EXIT_RETRY
    lines = [line for line in said.splitlines() if not line.startswith("[teacher")]
    assert lines == ["preempted; the state is kept: run the same command again to resume"]
    images = newest_image(tmp_path / "run")
    assert images > 0
    again = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_image(tmp_path / "run", again, images)
    # Without their launcher the processes end, too, and with them the pipe; the training would take longer.
    again.kill()
    again.communicate(timeout=300)
    assert not (tmp_path / "was-here").exists()


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
