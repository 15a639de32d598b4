"""kill -9 of Snakemake alone, its jobs going on, and of jobs under it: the same command ends with the same numbers.

On the smallest preset with every kind of job: a teacher, a student, two trials of each, a table. An undisturbed run
says what must come out; the others are killed at random moments, started again at once, and begun anew at their end.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time

import psutil
import pytest

from sida.io import read_jsonl
from sida.tensor_file import read_tensors
from tests.workflow.workspace import Workspace

#: How often each of these tests kills; docs/reliability.md names the numbers.
KILLS = {"test_kills_of_the_controller": 30, "test_kills_of_jobs": 30}
COLUMNS = "run\tfamily\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\n"
SHEET = (
    COLUMNS + "teacher\tTeacher\tEDM\tteacher\tdigits-short\t\t\t\theun-10\n"
    "sid\tOne Step\tSiD\tsid\tdigits-short\t\t1.0\tsid\tone-step\n"
)
#: Seconds that a run may take on a machine with much else to do.
PATIENCE = 3600


def small(folder):
    """A workspace with the preset, and the arguments of its run."""
    workspace = Workspace(folder)
    (folder / "small.tsv").write_text(SHEET)
    training = {"total_kimg": 0.256, "batch_size": 32, "lr": 3.0e-3, "tick_kimg": 0.064, "state_minutes": 0}
    recipe = {**training, "evaluation": {"every_kimg": 0.128, "num_samples": 100, "trials": 1}}
    # Two trials in one job: most of the time of such small jobs is their start.
    changes = {
        "preset": "small",
        "runs": "small.tsv",
        "trials_per_job": 2,
        "claims": None,
        "figures": [],
        "recipes": {"sid": recipe},
    }
    config = workspace.config(**changes, **{"teachers__digits-short__training": training})
    return workspace, ("--configfile", config, "--", "tables/main.tex")


def outcome(workspace):
    """The table as it is written but for its dates, all measured values, the logs' losses and the networks' weights."""
    results = workspace.folder / "results/small"
    date = re.compile(r"20\d\d-\d\d-\d\d(T[\d:]+Z)?")
    found = {path.name: date.sub("", path.read_text()) for path in sorted((results / "tables").glob("main.*"))}
    measured = (results / "collected/tables/main.csv").read_text().splitlines()
    found["measured"] = [line.split(",")[:5] for line in measured]
    for path in sorted(results.glob("*/*/network.safetensors")):
        name = str(path.relative_to(results))
        found[name] = {key: value.tolist() for key, value in read_tensors(path)[0].items()}
        found[f"log of {name}"] = [(line["nimg"], line["losses"]) for line in read_jsonl(path.parent / "train.jsonl")]
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What an undisturbed run leaves, and the seconds that it took."""
    workspace, arguments = small(tmp_path_factory.mktemp("undisturbed"))
    start = time.monotonic()
    run = workspace.snakemake(*arguments, timeout=PATIENCE)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return outcome(workspace), time.monotonic() - start


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
