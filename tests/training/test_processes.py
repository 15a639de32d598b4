"""Training in several processes: the same numbers, one voice, states that any number goes on from; torchrun."""

import contextlib
import datetime
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from sida.config.lookup import ROOT
from sida.errors import EXIT_RETRY
from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors
from sida.machine import process_rank
from sida.methods import distill
from sida.sampling import Drawer
from sida.sampling.generate import NotFiniteError
from sida.training import processes, train_teacher
from sida.training.evaluation import Evaluation
from sida.workflow.cli import main
from sida.workflow.launch import TORCHRUN
from tests.near import assert_near
from tests.refused import refused
from tests.training.toy import STUDENT, TEACHER, CrashError, before_iterations, fork, raising, results, states, wait

# A rate near the paper's: entries whose gradient is nothing but rounding move by it, and each number of processes adds
# up in an order of its own.
SPEC = {**STUDENT, "total_kimg": 0.16, "batch_gpu": 4, "lr": 1e-5, "tick_kimg": 0.032}
CLOSE = 1e-5
PREEMPTED = "preempted; the state is kept: run the same command again to resume"


@contextlib.contextmanager
def started(task, count, folder):
    """Starts ``task(rank)`` in so many processes, which it gives; what they print goes to ``<folder>/<rank>.log``.

    The threads of their store, which ``torchrun`` would hold, live in a process of their own: one with threads should
    not fork.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def hold():
        _store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        time.sleep(3000)

    def run(rank):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0}
        os.environ.update({name: str(value) for name, value in place.items()})
        return task(rank)

    agent = fork(hold, folder / "agent.txt")
    children = [fork(lambda rank=rank: run(rank), folder / f"{rank}.log") for rank in range(count)]
    try:
        yield children
    finally:
        # One that hangs must not hold up the tests.
        for process in (agent, *children):
            process.kill()
            process.join()


def together(task, count, folder):
    """Exit statuses of processes that run ``task(rank)`` together."""
    with started(task, count, folder) as children:
        return [wait(child) for child in children]


def said(folder):
    """All lines of all processes but progress and the path of the result."""
    lines = [line for log in sorted(folder.glob("*.log")) for line in log.read_text().splitlines()]
    return [line for line in lines if not line.startswith(("[", "/"))]


@pytest.fixture(scope="module")
def spec(teacher):
    return {**SPEC, "teacher": teacher}


@pytest.fixture(scope="module")
def alone(spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    distill(spec, folder)
    return folder


def assert_same(folder, other, close=CLOSE):
    logs = (read_jsonl(path / "train.jsonl") for path in (folder, other))
    for here, there in zip(*logs, strict=True):
        assert (here["nimg"], here["samples"]) == (there["nimg"], there["samples"])
        # SiD's loss is a small difference, whose rounding is that of its parts.
        assert here["losses"] == pytest.approx(there["losses"], rel=max(close, 1e-4))
        # Adam does not see the scale of a gradient: these norms do, where it is a sum and not a mean.
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=max(100 * close, 1e-3))
    one, two = (read_tensors(path / "network.safetensors")[0] for path in (folder, other))
    for name, value in one.items():
        assert_near(value, two[name], close, scale=1.0, name=name)


def test_two_processes_train_a_teacher_as_one(tmp_path):
    two_train_as_one(train_teacher, {**TEACHER, "total_kimg": 0.1, "batch_gpu": 4, "lr": 1e-5}, tmp_path, CLOSE)


def two_train_as_one(run, spec, folder, close):
    """Checks that two processes train as one does."""
    run(spec, folder / "alone")
    assert together(lambda rank: run(spec, folder / "run") and 0, 2, folder) == [0, 0], said(folder)
    assert_same(folder / "run", folder / "alone", close)


def crashing(spec, folder, moment, accident, victims=(0, 1, 2, 3)):
    """A task that trains, keeping a state after each iteration; an accident happens at ``moment`` images."""

    def task(rank):
        with before_iterations(lambda nimg: nimg >= moment and rank in victims and accident()):
            return main(["distill", "--spec", json.dumps({**spec, "state_minutes": 0}), "--out", str(folder)])

    return task


@pytest.mark.slow
def test_another_number_of_processes_goes_on(tmp_path, spec, alone):
    """Order, schedule, draws and means go on where they were: on 4 after 2, then on one."""
    crash = raising(CrashError())
    assert together(crashing(spec, tmp_path / "run", 48, crash), 2, tmp_path / "two") == [1] * 2
    assert together(crashing(spec, tmp_path / "run", 96, crash), 4, tmp_path / "four") == [1] * 4
    distill(spec, tmp_path / "run")
    assert_same(tmp_path / "run", alone)


def kill_after(delay):
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    # One whose process has ended first kills nothing.
    timer.daemon = True
    timer.start()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 30])
def test_kills_of_a_rank(tmp_path, spec, kills):
    """kill -9 of one process at a random moment: the other ends, and both resume; the result does not show it."""
    logs, source, done, runs = tmp_path / "logs", random.Random(kills), 0, 0
    assert together(crashing(spec, tmp_path / "alone", 10**9, None), 2, logs) == [0, 0], said(logs)
    while done < kills:
        runs += 1
        run, ends = tmp_path / f"run{runs}", [1]
        while any(ends):
            victim, delay = source.randrange(2), source.uniform(0, 1.5)
            kill = lambda delay=delay: kill_after(delay)
            ends = together(crashing(spec, run, 0, kill, {victim} if done < kills else {}), 2, logs)
            # A process that lost its partner asks to be started again; one that was through did not notice.
            assert ends[victim] in (0, -signal.SIGKILL), said(logs)
            assert ends[1 - victim] in (0, EXIT_RETRY), said(logs)
            done += ends[victim] < 0
        assert results(run) == results(tmp_path / "alone")


def test_a_bug_of_one_process_shows_its_traceback_once(tmp_path, spec):
    task = crashing(spec, tmp_path / "run", 48, raising(ValueError("out of luck")), {1})
    assert together(task, 2, tmp_path) == [EXIT_RETRY, 1]
    assert said(tmp_path)[-1] == "ValueError: out of luck"
    assert said(tmp_path).count("Traceback (most recent call last):") == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([{}, {"lr": 2e-5}], "the processes of this training have different settings, files or code"),
        ([{"batch_size": 15, "batch_gpu": None}] * 2, "--spec.batch_size: 15 images cannot"),
    ],
)
def test_settings_that_no_processes_can_share_are_told_once(tmp_path, spec, changes, told):
    words = lambda rank: ["--spec", json.dumps({**spec, **changes[rank]}), "--out", str(tmp_path / "run")]
    assert together(lambda rank: main(["distill", *words(rank)]), 2, tmp_path) == [1, 1]
    (line,) = said(tmp_path)
    assert line.startswith(f"error: {told}")
    assert not [path for path in tmp_path.glob("run/**/*") if path.is_file() and path.name != ".lock"]


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_one_process_stops_all_at_the_same_image(tmp_path, spec):
    assert together(crashing(spec, tmp_path / "run", 48, stop, {1}), 2, tmp_path) == [EXIT_RETRY, EXIT_RETRY]
    assert said(tmp_path) == [PREEMPTED]
    assert newest_image(tmp_path / "run") == 64


@pytest.mark.slow
def test_an_evaluation_that_is_interrupted_stops_all_and_is_repeated(tmp_path, spec, alone):
    """Only the first measures; the others learn from it that it was asked to make room, and go on the same way."""
    original = Evaluation.__call__

    def task(rank):
        if rank == 0:
            Evaluation.__call__ = lambda self, *given: stop() or original(self, *given)
        return main(["distill", "--spec", json.dumps(spec), "--out", str(tmp_path / "run")])

    assert together(task, 2, tmp_path) == [EXIT_RETRY, EXIT_RETRY]
    assert said(tmp_path) == [PREEMPTED]
    assert together(lambda rank: distill(spec, tmp_path / "run") and 0, 2, tmp_path / "again") == [0, 0]
    assert_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_process_that_does_not_answer_ends_the_others(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(processes, "STEP_TIMEOUT", datetime.timedelta(seconds=2))
    hang = lambda: time.sleep(900)
    with started(crashing(spec, tmp_path / "run", 48, hang, {1}), 2, tmp_path) as (first, _):
        assert wait(first) == EXIT_RETRY
    (line,) = said(tmp_path)
    assert "does not answer (Timed out" in line


def test_nonsense_of_the_launcher_is_one_line(monkeypatch):
    for name, value in {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    refused("RANK=2, WORLD_SIZE=2, LOCAL_RANK=0: not what torchrun sets", process_rank)


def with_shared_evaluations(spec):
    """A spec with two evaluations of six batches."""
    kwargs = {"dataset": STUDENT["dataset"], "num_samples": 96, "batch_size": 16, "threads": 1}
    evaluation = {"every_kimg": 0.032, "monitor": "sida.eval.measuring.monitor:make_monitor", "kwargs": kwargs}
    return {**spec, "total_kimg": 0.032, "evaluation": evaluation}


def test_processes_share_an_evaluation(tmp_path, spec):
    """Each draws its share of the images; the first joins them, and all know the best network."""
    run = with_shared_evaluations(spec)
    distill(run, tmp_path / "alone")

    def task(rank):
        drawn, original = [], Drawer.draw
        Drawer.draw = lambda self, seeds, *given: drawn.append(len(seeds)) or original(self, seeds, *given)
        distill({**run, "pictures": 0}, tmp_path / "run")
        # Two evaluations of six batches, three of them each process's.
        return 0 if drawn == [16] * 6 else 3

    assert together(task, 2, tmp_path) == [0, 0], said(tmp_path)
    logs = (read_jsonl(tmp_path / name / "evaluations.jsonl") for name in ("run", "alone"))
    for here, there in zip(*logs, strict=True):
        assert here["nimg"] == there["nimg"]
        assert here["fd"] == pytest.approx(there["fd"], rel=1e-3)
    assert_same(tmp_path / "run", tmp_path / "alone")


def test_all_processes_learn_that_images_of_one_are_not_finite(tmp_path, spec):
    run = with_shared_evaluations(spec) | {"pictures": 0, "on_divergence": "publish"}

    def task(rank):
        drawn, original = [], Drawer.draw

        def draw(self, seeds, *given):
            drawn.append(seeds)
            if rank == 1 and len(drawn) > 3:
                raise NotFiniteError("", "NaN")
            return original(self, seeds, *given)

        Drawer.draw = draw
        return distill(run, tmp_path / "run") and 0

    assert together(task, 2, tmp_path) == [0, 0], said(tmp_path)
    first, last = read_jsonl(tmp_path / "run" / "evaluations.jsonl")
    assert first["fd"] > 0
    assert last["fd"] is None


# The true command, started by torchrun


def start(folder):
    """A long training of a teacher in two processes, which keeps a state after each iteration."""
    spec = {**TEACHER, "batch_gpu": 4, "snapshot_kimg": None, "state_minutes": 0, "total_kimg": 1000}
    sida = [str(Path(sys.executable).with_name("sida")), "train-teacher", "--out", str(folder)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python"]
    command = [*torchrun, *sida, "--spec", json.dumps(spec)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **TORCHRUN})


def newest_image(folder):
    """Images of the newest state; a hidden one is still written."""
    return max((int(path.stem) for path in states(folder)), default=0)


def wait_for_image(folder, process, behind=0):
    while newest_image(folder) <= behind:
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
def test_a_training_by_torchrun_stops_at_a_signal_or_a_kill_resumes_and_ends_with_it(tmp_path):
    run = start(tmp_path)
    wait_for_image(tmp_path, run)
    run.send_signal(signal.SIGUSR1)
    _, told = run.communicate(timeout=300)
    assert PREEMPTED in told.splitlines()
    images = newest_image(tmp_path)
    run = start(tmp_path)
    wait_for_image(tmp_path, run, images)
    children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
    os.kill(max(map(int, children)), signal.SIGKILL)
    _, told = run.communicate(timeout=300)
    assert run.returncode != 0
    # The other process notices that it is alone, unless torchrun asks it to end first.
    assert "error: another of the 2 processes of this training has ended" in told or PREEMPTED in told
    images = newest_image(tmp_path)
    again = start(tmp_path)
    wait_for_image(tmp_path, again, images)
    # Without their launcher the processes end, too, and with them the pipe; the training would take longer.
    again.kill()
    again.communicate(timeout=300)


def test_threads_are_limited_before_the_libraries_read_their_number():
    code = (
        "import sys, sida.cli.train as train, sida.workflow.cli\n"
        "def loaded(threads): print([name for name in ('numpy', 'torch') if name in sys.modules]); sys.exit(3)\n"
        "train.limit_library_threads = loaded\n"
        "sida.workflow.cli.main(sys.argv[1:])"
    )
    given = ["train-teacher", "--spec", str(ROOT / "docs/examples/tiny-teacher.yaml"), "--out", "y"]
    assert subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True).stdout == "[]\n"
