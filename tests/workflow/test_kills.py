"""kill -9 of Snakemake alone, its jobs going on, and of jobs under it: the same command ends with the same numbers.

On the smallest preset with every kind of job: a teacher, a student, two trials of each, a table. An undisturbed run
says what must come out; the others are killed at random moments, started again at once, and begun anew at their end.
"""

import contextlib
import os
import random
import signal
import time

import psutil
import pytest

from tests.workflow.workspace import outcome, small, undisturbed

#: How often each of these tests kills.
KILLS = {"test_kills_of_the_controller": 30, "test_kills_of_jobs": 30}
#: Seconds that a run may take on a machine with much else to do.
PATIENCE = 3600


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What an undisturbed run leaves, and the seconds that it took."""
    start = time.monotonic()
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))[-1], time.monotonic() - start


def killed_until(kills, folder, expected, victim):
    """Runs again and again, each stopped at a random moment; each that comes to its end must end as expected.

    Args:
        kills: So many; the run in which the last one happens is the last one.
        folder: Empty.
        expected: What must come out, and the seconds that an undisturbed run takes.
        victim: From a running Snakemake to the process to kill, or None if there is none at the moment.
    """
    wanted, seconds = expected
    source, done, runs = random.Random(kills), 0, 0
    while done < kills:
        runs += 1
        (folder / str(runs)).mkdir(parents=True)
        workspace, arguments = small(folder / str(runs))
        groups = []
        try:
            while True:
                process = workspace.start(*arguments)
                groups.append(process.pid)
                killed = done < kills and kill_one(process, source, source.uniform(0, seconds / 2), victim)
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
        jobs = [p for p in controller.children(recursive=True) if {"sida", "eval"} & set(p.cmdline()[:4])]
        return source.choice(jobs) if jobs else None
    return None


@pytest.mark.slow
def test_kills_of_the_controller(tmp_path, expected):
    """Its jobs go on without it, while the next Snakemake starts."""
    kills = KILLS["test_kills_of_the_controller"]
    killed_until(kills, tmp_path, expected, lambda controller, source: controller)


@pytest.mark.slow
def test_kills_of_jobs(tmp_path, expected):
    """Snakemake goes on without it, forgets what the job had declared, and ends with a status of its own."""
    killed_until(KILLS["test_kills_of_jobs"], tmp_path, expected, a_job)
