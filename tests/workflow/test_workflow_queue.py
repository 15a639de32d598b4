"""profiles/generic against fake commands of PBS, LSF and Grid Engine that really run the jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from sida.config.resources import ROOT
from tests.workflow.fake_schedulers import install
from workflow.launch import queue

KINDS = ["pbs", "lsf", "sge"]
PROPERTIES = {
    "rule": "distill",
    "wildcards": {"run": "sida-a1.0"},
    "threads": 2,
    "resources": {"gpu": 4, "runtime": 95, "mem_mb": 9001, "cpus_per_task": 8, "slurm_account": "ours"},
}


@pytest.fixture(params=KINDS)
def site(request, tmp_path, monkeypatch):
    """A folder with a site file, and the fake commands of its scheduler on PATH."""
    install(request.param, tmp_path / "bin")
    (tmp_path / "site.yaml").write_text(f"scheduler: {request.param}\n")
    (tmp_path / "queue").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_SITE", "site.yaml")
    monkeypatch.setenv("FAKE_QUEUE", str(tmp_path / "queue"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return request.param


def submitted(text: str, folder, **properties) -> str:
    """Hands a script in as Snakemake does."""
    script = folder / "snakejob.sh"
    script.write_text(f"#!/bin/sh\n# properties = {json.dumps(PROPERTIES | properties)}\n{text}\n")
    return queue.submit([str(script)])


def settled(job: str) -> str:
    for _ in range(300):
        if (answer := queue.status([job])) != "running":
            return answer
        time.sleep(0.1)
    return "running"


def test_a_job_runs_and_its_exit_status_counts(site, tmp_path):
    good, bad = submitted("echo done > made", tmp_path), submitted("exit 75", tmp_path)
    assert (settled(good), settled(bad)) == ("success", "failed")
    assert (tmp_path / "made").read_text() == "done\n"
    # Again and again the same answer, and a log of its own for each job.
    assert settled(good) == "success"
    assert len(list((tmp_path / "logs/cluster/distill").glob("distill-sida-a1.0-*.log"))) == 2


def test_a_job_asks_for_what_the_plan_says(site, tmp_path):
    settled(submitted("true", tmp_path))
    words = json.loads((tmp_path / "queue/1.json").read_text())["words"]
    text = " ".join(words)
    expected = {
        "pbs": ["select=1:ncpus=8:mem=9001mb:ngpus=4", "walltime=01:35:00", "-A ours"],
        "lsf": ["-n 8", "-W 95", "rusage[mem=9001MB]", "-gpu num=4", "-P ours"],
        "sge": ["-pe smp 8", "h_rt=01:35:00,h_vmem=1126M", "gpu=4", "-P ours"],
    }
    for part in expected[site]:
        assert part in text


def test_a_job_that_is_killed_has_failed(site, tmp_path, monkeypatch):
    job = submitted("echo begun > begun; sleep 600", tmp_path)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    assert queue.status([job]) == "running"
    queue.cancel([job])
    # Its status may be on the way still.
    assert queue.status([job]) == "running"
    monkeypatch.setattr(queue, "GRACE", 0.2)
    assert settled(job) == "failed"


def test_a_scheduler_that_does_not_answer_is_asked_again(site, tmp_path):
    job = submitted("sleep 1; echo done > made", tmp_path)
    (tmp_path / "queue/down").touch()
    assert queue.status([job]) == "running"
    with pytest.raises(SystemExit, match=r"error: [qb]sub: cannot connect to server"):
        submitted("true", tmp_path)
    (tmp_path / "queue/down").unlink()
    assert settled(job) == "success"


def test_several_nodes_are_refused(site, tmp_path):
    with pytest.raises(SystemExit, match="several nodes need profiles/slurm"):
        submitted("true", tmp_path, resources={"nodes": 2})


def test_a_site_without_a_scheduler_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "site.yaml").write_text("gpus_per_node: 4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_SITE", "site.yaml")
    with pytest.raises(SystemExit, match="scheduler is missing; add one of pbs, lsf, sge"):
        submitted("true", tmp_path)
    (tmp_path / "site.yaml").write_text("scheduler: pbs\n")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match="error: qsub: no such command here"):
        submitted("true", tmp_path)


SNAKEFILE = """
rule all:
    input: "made.txt"

rule half:
    output: "{n}.half"
    resources: gpu=1
    shell: "echo {wildcards.n} > {output}"

rule whole:
    input: "1.half", "2.half"
    output: "made.txt"
    # Fails at first, as a job that is preempted.
    shell: "test -e again || {{ touch again; kill -9 $$; }}; cat {input} > {output}"
"""


@pytest.mark.slow
def test_snakemake_runs_a_workflow_through_the_profile(site, tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [f"{os.path.dirname(sys.executable)}/snakemake", "--workflow-profile", str(ROOT / "profiles/generic")]
    command += ["--seconds-between-status-checks", "1", "--latency-wait", "10"]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(
        command, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "made.txt").read_text() == "1\n2\n"
    assert len(list((tmp_path / "queue").glob("*.json"))) == 4
