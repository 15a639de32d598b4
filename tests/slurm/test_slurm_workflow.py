"""The workflow through profiles/slurm on a real SLURM: its table, and the same table after every kind of accident."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from sida.io import read_jsonl
from tests.slurm.cluster import ClusterWorkspace, requests_of, signal_training, wait_for
from tests.workflow.workspace import kill_group

TABLE = "tables/main.csv"
TRAINED = {"digits-short": "rule_train_teacher_wildcards_digits-short", "sid": "rule_distill_parent_wildcards_sid"}
TRAINED |= {run: f"rule_distill_wildcards_{run}" for run in ("sida", "sid2a")}


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """A run through SLURM that is left alone."""
    workspace = ClusterWorkspace(cluster, tmp_path_factory.mktemp("undisturbed"))
    done = workspace.snakemake(*workspace.slurm(TABLE), timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    workspace.output = done.stdout + done.stderr
    return workspace


def test_the_preset_runs_to_its_table_as_without_slurm(undisturbed, cluster, tmp_path):
    assert set(cluster.states(undisturbed.folder)) == {"COMPLETED"}
    # Four trainings and four measurements were jobs; what takes seconds ran beside Snakemake.
    assert len(cluster.states(undisturbed.folder)) == 8
    local = ClusterWorkspace(cluster, tmp_path)
    done = local.snakemake("--configfile", local.preset, "--", TABLE, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert undisturbed.table() == local.table()


def test_jobs_ask_for_what_the_plan_says(undisturbed, cluster):
    asked = [requests_of(cluster.show(job)) for job in cluster.run("squeue", "-h", "-t", "all", "-o", "%A").split()]
    asked = [fields for fields in asked if fields["WorkDir"] == str(undisturbed.folder)]
    trainings = [fields for fields in asked if fields["Comment"] in TRAINED.values()]
    assert len(trainings) == 4
    for fields in trainings:
        assert (fields["TimeLimit"], fields["NumNodes"], fields["Partition"]) == ("00:31:00", "1", "main")
        assert 4000 < int(fields["MinMemoryNode"].removesuffix("M")) < 6000


def test_accidents_leave_no_trace_in_the_table(undisturbed, cluster, tmp_path):
    """One job is cancelled, one killed, one runs out of time, one is sent back to the queue; then Snakemake itself."""
    workspace = ClusterWorkspace(cluster, tmp_path)
    # SLURM's own second start, where a job loses its node or its place.
    process = workspace.start(*workspace.slurm(TABLE))

    def running(run):
        def look():
            assert process.poll() is None, workspace.log()
            return cluster.job(TRAINED[run], tmp_path) if workspace.ticks(run) else None

        return wait_for(f"{run} to train", look)

    try:
        cluster.run("scancel", running("digits-short"))
        running("sid")
        signal_training(workspace, "sid")
        stuck = running("sida")
        signal_training(workspace, "sida", signal.SIGSTOP)
        cluster.run("scontrol", "update", f"JobId={stuck}", "TimeLimit=1")
        back = running("sid2a")
        cluster.run("scontrol", "requeue", back)
        wait_for("the job to wait", lambda: "JobState=RUNNING" not in cluster.show(back) or None, 60)
        cluster.run("scontrol", "update", f"JobId={back}", "StartTime=now")
        # Snakemake dies, jobs go on; the same command picks up what they left.
        wait_for("the limit", lambda: "JobState=TIMEOUT" in cluster.show(stuck) or None)
        kill_group(process)
        process = workspace.start(*workspace.slurm(TABLE))
        assert process.wait(timeout=1800) == 0, workspace.log()
    finally:
        if process.poll() is None:
            kill_group(process)
    states = cluster.states(tmp_path)
    assert {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"} <= set(states), states
    assert requests_of(cluster.show(back))["Restarts"] == "1"
    assert workspace.table() == undisturbed.table()


def test_two_processes_are_one_job_on_one_node_or_on_two(cluster, tmp_path_factory):
    networks, shapes = [], []
    for per_node in (2, 1):
        folder = tmp_path_factory.mktemp(f"gloo-{per_node}")
        workspace = ClusterWorkspace(cluster, folder, {"gpus_per_node": per_node}, gpus=2)
        done = workspace.snakemake(*workspace.slurm("students/sid/network.safetensors"), timeout=1800)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        networks.append(load_file(folder / "results/tiny/students/sid/network.safetensors"))
        jobs = cluster.run("squeue", "-h", "-t", "all", "-o", "%A %k %Z").splitlines()
        jobs = [line.split()[0] for line in jobs if line.split()[1:] == [TRAINED["sid"], str(folder)]]
        assert len(jobs) == 1
        fields = requests_of(cluster.show(jobs[0]))
        shapes.append((fields["NumNodes"], fields["TRES"].rpartition("gpu=")[2]))
        ticks = read_jsonl(folder / "results/tiny/students/sid/train.jsonl")
        assert ticks[-1]["nimg"] >= 2000
    assert shapes == [("1", "2"), ("2", "2")]
    for name, tensor in networks[0].items():
        np.testing.assert_allclose(tensor, networks[1][name], rtol=1e-4, atol=1e-5, err_msg=name)
