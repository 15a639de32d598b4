"""kill -9 of one of two processes that train together: the others end, and all go on from the newest state.

(Kills of a training of one process: test_runs.py.)
"""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest

from sida.cli.main import main
from sida.errors import EXIT_RETRY
from sida.training.iteration import StudentTrainer
from tests.training.processes import said, started, statuses
from tests.training.toy import STUDENT, as_json, results

#: How often each of these tests kills.
KILLS = {"test_kills_of_a_rank": 30}
SPEC = {**STUDENT, "total_kimg": 0.16, "batch_gpu": 4, "tick_kimg": 0.032, "state_minutes": 0}


def newest(folder):
    """Images of the newest state that is complete, or 0."""
    headers = sorted((folder / "state").glob("state-*.json")) if folder.exists() else []
    return json.loads(headers[-1].read_bytes())["record"]["nimg"] if headers else 0


def processes(spec, run, logs):
    """Starts two processes that train; the first iteration of each start is noted in the folder of logs."""
    logs.mkdir(parents=True)

    def task(rank):
        original = StudentTrainer.iteration

        def noted(self, nimg):
            with open(logs / f"rank{rank}.images", "a") as stream:
                stream.write(f"{nimg}\n")
            return original(self, nimg)

        StudentTrainer.iteration = noted
        return main(["distill", "--spec", as_json(spec), "--out", str(run)])

    return started(task, 2, logs)


def is_alive(child):
    """Whether a process has not ended yet."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def begun(logs, children):
    """Waits for the first iteration of both (what starts them, torchrun say, looks after them before); the moment."""
    while len(list(logs.glob("rank*.images"))) < 2 and all(is_alive(child) for child in children):
        time.sleep(0.01)
    return time.monotonic()


@pytest.mark.parametrize("kills", [2, pytest.param(KILLS["test_kills_of_a_rank"], marks=pytest.mark.slow)])
def test_kills_of_a_rank(tmp_path, teacher, kills):
    """No iteration is lost that a state was kept of; what comes out does not show the kills."""
    spec = {**SPEC, "teacher": teacher}
    with processes(spec, tmp_path / "alone", tmp_path / "logs") as children:
        start = begun(tmp_path / "logs", children)
        assert statuses(children) == [0, 0], said(tmp_path / "logs")
    seconds = time.monotonic() - start
    source, done, runs, starts = random.Random(kills), 0, 0, 0
    while done < kills:
        runs += 1
        run, ended = tmp_path / f"run{runs}", False
        while not ended:
            starts += 1
            kept, logs, victim = newest(run), tmp_path / f"logs{starts}", source.randrange(2)
            with processes(spec, run, logs) as children:
                begun(logs, children)
                if done < kills:
                    time.sleep(source.uniform(0, seconds))
                    done += is_alive(children[victim])
                    os.kill(children[victim], signal.SIGKILL)
                ends = statuses(children)
            ended = ends == [0, 0]
            assert ended or ends[victim] == -signal.SIGKILL, said(logs)
            # Who lost its partner asks to be started again; one that was through already did not notice.
            assert ends[1 - victim] in (0, EXIT_RETRY), said(logs)
            for first in logs.glob("rank*.images"):
                assert int(first.read_text().split()[0]) >= kept
        assert results(run) == results(tmp_path / "alone")
