"""The workflow through profiles/slurm on a real SLURM, with accounting and without.

Its table is that of a run without SLURM, also after every kind of accident.
"""

import functools
import re
import signal
import time

import pytest
from safetensors.numpy import load_file

from tests.near import assert_near
from tests.slurm.cluster import ClusterWorkspace, fields_of, wait_for
from tests.workflow.workspace import kill_group

TABLE, TEACHER = "results/tiny/tables/main.csv", "results/tiny/teachers/digits-short/network.safetensors"
MEASURED = "results/tiny/measurements/teacher/trial-0.json"
TRAINED = {"digits-short": "rule_train_teacher_wildcards_digits-short"}
TRAINED |= {run: f"rule_distill_wildcards_{run}" for run in ("sid", "sida")}


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory):
    """Three runs at once: one without SLURM, one through it that is left alone, one that the tests disturb.

    The last one's trainings are planned for more attempts than the profile has retries: an attempt of an hour computes
    for half of it, and the plan's quarter of a second times the margin is four hours.
    """
    sites = {"local": {}, "quiet": {}, "disturbed": {"max_hours": 1, "margin": 60_000}}
    found = {name: ClusterWorkspace(cluster, tmp_path_factory.mktemp(name), site) for name, site in sites.items()}
    started = {name: run.begin(*run.slurm(TABLE)) for name, run in found.items() if name != "local"}
    started["local"] = found["local"].begin("--configfile", found["local"].preset, "--", TABLE)
    try:
        yield found
    finally:
        for run in found.values():
            run.stop()


def going_on(run, cluster, name, but):
    """Id of the job of a training that goes on, another one than `but`."""
    job = cluster.job(TRAINED[name], run.folder)
    return job if job != but and run.training(name) and run.ticks(name) else None


def test_accidents_leave_no_trace_in_the_table(runs, cluster):
    """Jobs are cancelled, killed, sent back to the queue, and run out of time; then Snakemake itself is killed."""
    run = runs["disturbed"]

    def running(name, but=""):
        return wait_for(f"{name} to train", lambda: going_on(run, cluster, name, but), run)

    cluster.run("scancel", running("digits-short"))
    stuck = running("sida")
    run.signal("sida", signal.SIGSTOP)
    cluster.run("scontrol", "update", f"JobId={stuck}", "TimeLimit=1")
    killed = running("sid")
    run.signal("sid", signal.SIGKILL)
    back = running("sid", but=killed)
    cluster.run("scontrol", "requeue", back)
    wait_for("the job to wait", lambda: "JobState=RUNNING" not in cluster.show(back) or None)
    # SLURM lets a job rest for two minutes before it starts again.
    cluster.run("scontrol", "update", f"JobId={back}", "StartTime=now")
    wait_for("the limit", lambda: "JobState=TIMEOUT" in cluster.show(stuck) or None)
    kill_group(run.process)
    run.begin(*run.slurm(TABLE))
    run.end()
    assert {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"} <= set(cluster.states(run.folder))
    assert fields_of(cluster.show(back))["Restarts"] == "1"
    if cluster.accounting:
        assert cluster.accounted(stuck) == ["TIMEOUT"]
        assert len(cluster.accounted(back)) == 2
    assert re.search(r"is planned for \d+ attempts of max_hours", (run.folder / "run.log").read_text())
    runs["local"].end()
    assert run.table() == runs["local"].table()


def test_the_preset_runs_to_its_table_as_without_slurm(runs, cluster):
    run = runs["quiet"]
    run.end()
    # Three trainings and three measurements were jobs; what takes seconds ran beside Snakemake.
    assert cluster.states(run.folder) == ["COMPLETED"] * 6
    runs["local"].end()
    assert run.table() == runs["local"].table()


def test_jobs_ask_for_what_the_plan_says(runs, cluster):
    runs["quiet"].end()
    asked = [fields_of(cluster.show(job)) for job in cluster.run("squeue", "-h", "-t", "all", "-o", "%A").split()]
    asked = [fields for fields in asked if fields["WorkDir"] == str(runs["quiet"].folder)]
    trainings = [fields for fields in asked if fields["Comment"] in TRAINED.values()]
    assert len(trainings) == 3
    for fields in trainings:
        assert (fields["TimeLimit"], fields["NumNodes"], fields["Partition"]) == ("00:31:00", "1", "main")
        assert 4000 < int(fields["MinMemoryNode"].removesuffix("M")) < 6000


def test_a_node_that_fails_costs_no_more_than_the_job_that_it_ran(runs, cluster, tmp_path):
    """The training resumes on the other node and ends with the weights of an undisturbed run; later jobs follow."""
    run = ClusterWorkspace(cluster, tmp_path)
    run.begin(*run.slurm(MEASURED))
    job = wait_for("the training", functools.partial(going_on, run, cluster, "digits-short", ""), run)
    node = fields_of(cluster.show(job))["BatchHost"]
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        wait_for("the job to wait", lambda: "JobState=PENDING" in cluster.show(job) or None, run)
        # Long enough for Snakemake to ask for the state of a job that waits after its node failed.
        time.sleep(20)
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        run.end()
    finally:
        run.stop()
        cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    fields = fields_of(cluster.show(job))
    assert fields["BatchHost"] != node
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    assert cluster.states(run.folder) == ["COMPLETED"] * 2
    if cluster.accounting:
        assert cluster.accounted(job) == ["NODE_FAIL", "COMPLETED"]
    runs["local"].end()
    assert (run.folder / TEACHER).read_bytes() == (runs["local"].folder / TEACHER).read_bytes()


# Accounts have no part in how processes are placed.
@pytest.mark.parametrize("cluster", ["plain"], indirect=True)
def test_two_processes_are_one_job_on_one_node_or_on_two(cluster, tmp_path_factory):
    found = {}
    for nodes in (1, 2):
        folder = tmp_path_factory.mktemp(f"gloo-{nodes}")
        found[nodes] = ClusterWorkspace(cluster, folder, {"gpus_per_node": 2 // nodes}, gpus=2)
        found[nodes].begin(*found[nodes].slurm(TEACHER))
    for run in found.values():
        run.end()
    for nodes, run in found.items():
        lines = cluster.run("squeue", "-h", "-t", "all", "-o", "%A %k %Z").splitlines()
        jobs = [line.split()[0] for line in lines if line.split()[1:] == [TRAINED["digits-short"], str(run.folder)]]
        assert len(jobs) == 1
        fields = fields_of(cluster.show(jobs[0]))
        assert (fields["NumNodes"], fields["TresPerJob"].rpartition("gpu:")[2]) == (str(nodes), "2")
        assert run.ticks("digits-short") > 1
    one, two = (load_file(run.folder / TEACHER) for run in found.values())
    for name, tensor in one.items():
        assert_near(tensor, two[name], 1e-4, scale=1.0, name=name)
