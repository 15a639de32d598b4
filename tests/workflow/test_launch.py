"""A machine's GPUs are shared out among jobs: never two on one, all in use, given back however a job ends."""

import itertools
import os
import re
import subprocess
import sys
import time

import pytest

from sida.config.lookup import ROOT
from sida.workflow.launch import on_nodes
from sida.workflow.start import shared_gpus
from tests.refused import refused
from tests.workflow.workspace import Workspace

#: Says when it started and ended, and on which devices.
JOB = """
import os, sys, time
start = time.monotonic()
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(float(sys.argv[1]))
print(start, time.monotonic())
"""


class Machine:
    """Starts jobs as rules do."""

    def __init__(self, folder):
        (folder / "job.py").write_text(JOB)
        self.environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "SIDA_GPU_LOCKS": str(folder / "locks")}
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)

    def start(self, gpus, seconds=0.1, pool="3", module="job", **more):
        return subprocess.Popen(
            [sys.executable, "-m", "sida.workflow.launch", str(gpus), module, str(seconds)],
            env={**self.environment, "SIDA_GPUS": pool, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_no_two_jobs_see_a_device_at_once_all_are_used_and_nobody_waits_for_ever(machine):
    sizes = [1, 2, 1, 3, 1, 2, 2, 2]
    jobs = [machine.start(size) for size in sizes]
    seen = []
    for size, job in zip(sizes, jobs):
        out, error = job.communicate(timeout=120)
        assert job.returncode == 0, error
        names, times = out.splitlines()
        assert len(set(names.split(","))) == size
        seen += [(device, *map(float, times.split())) for device in names.split(",")]
    assert {device for device, _, _ in seen} == {"0", "1", "2"}
    for device in "012":
        turns = sorted((start, end) for name, start, end in seen if name == device)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(turns))


def test_a_killed_job_gives_its_device_back(machine):
    first = machine.start(1, 600, pool="1")
    assert first.stdout.readline() == "0\n"
    second = machine.start(1, pool="1")
    time.sleep(0.5)
    assert second.poll() is None
    first.kill()
    assert second.communicate(timeout=60)[0].startswith("0\n")
    first.communicate()


def test_one_that_is_killed_while_it_waits_does_not_stop_the_line(machine):
    first = machine.start(2, 1.0, pool="2")
    assert first.stdout.readline() == "0,1\n"
    waiting = [machine.start(2, pool="2") for _ in range(2)]
    time.sleep(0.5)
    waiting[0].kill()
    assert waiting[1].wait(timeout=60) == 0
    for job in (first, waiting[0]):
        job.communicate()


def test_devices_are_those_that_the_user_may_see(machine):
    names = machine.start(2, pool="2", CUDA_VISIBLE_DEVICES="5,GPU-8a,7").communicate(timeout=60)[0]
    assert names.startswith("5,GPU-8a\n")
    assert machine.start(1, pool="6,4").communicate(timeout=60)[0].startswith("6\n")


def test_a_job_without_a_gpu_and_a_run_without_a_pool_take_none(machine):
    assert machine.start(0).communicate(timeout=60)[0].startswith("None\n")
    assert machine.start(2, pool="").communicate(timeout=60)[0].startswith("None\n")
    assert not (ROOT / "locks").exists()


@pytest.mark.parametrize(
    ("words", "pool", "place"),
    [
        (["4", "job", "0"], "2,6", "a job needs 4 GPUs, .*gpus=2"),
        (["1", "job", "0"], "3", "CUDA_VISIBLE_DEVICES=1 names 1"),
        (["--nodes", "2", "4", "sida.workflow", "distill"], "", "SLURM_JOB_ID is not set"),
    ],
)
def test_what_cannot_be_given_is_one_line(words, pool, place, machine):
    environment = {**machine.environment, "SIDA_GPUS": pool, "CUDA_VISIBLE_DEVICES": "1"}
    environment.pop("SLURM_JOB_ID", None)
    command = [sys.executable, "-m", "sida.workflow.launch", *words]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    (line,) = found.stderr.splitlines()
    assert re.search(place, line)


def test_torchrun_starts_the_processes_on_each_node(monkeypatch):
    command = on_nodes(1, 2, ["sida.workflow", "distill"])
    assert command[1:] == [
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        "--nproc-per-node=2",
        "--standalone",
        *command[6:],
    ]
    assert command[6:] == ["-m", "sida.workflow", "distill"]
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    command = on_nodes(2, 16, ["sida.workflow", "distill", "--spec", "x"])
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-id=17"} <= {*command}
    assert command[-5:] == ["-m", "sida.workflow", "distill", "--spec", "x"]
    refused("3 GPUs cannot be shared evenly", on_nodes, 2, 3, ["sida.workflow"])


def test_a_workflow_shares_the_named_gpus_else_all(monkeypatch):
    monkeypatch.setattr("sida.workflow.start.driver_cards", lambda: [80.0, 16.0, 16.0])
    monkeypatch.delenv("SIDA_GPUS", raising=False)
    assert shared_gpus() == 3
    monkeypatch.setenv("SIDA_GPUS", "0,2")
    assert shared_gpus() == 2
    monkeypatch.setenv("SIDA_GPUS", "2,2")
    refused("SIDA_GPUS=2,2: .* such as 0,2", shared_gpus)


@pytest.mark.slow
def test_jobs_of_the_workflow_get_their_devices(tmp_path, monkeypatch):
    """A figure's job is told to take a GPU; the lock that it took says which."""
    workspace = Workspace(tmp_path)
    monkeypatch.setenv("SIDA_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("SIDA_GPUS", "2,0")
    words = ["--workflow-profile", "profiles/default", "--config", "gpus=1"]
    words += ["--configfile", "studies/papers/published.yaml", "--", "results/published/figures/figure5.pdf"]
    workspace.done(*words)
    assert {path.name for path in (tmp_path / "locks").iterdir()} == {"line.lock", "gpu-2.lock"}
