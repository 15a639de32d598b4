"""Schedulers: what jobs ask of them, and dry runs with each profile."""

import inspect
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import Wildcards

from sida.config.lookup import ROOT
from sida.workflow.planning.costs import STAGES, Costs
from sida.workflow.planning.driver import driver_cards
from sida.workflow.planning.requests import RESUMED, Requests
from sida.workflow.planning.site import Site, load_site
from sida.workflow.preset.files import find_preset, presets
from tests.refused import refused
from tests.workflow.workspace import TINY, forked_snakemake, heed_interrupts, put, shipped, small, study, wait_for


def wildcards(**values):
    return Wildcards(fromdict=values)


PAPER = shipped("paper")
SIDA = wildcards(run="cifar10-uncond-sida-ablation-a1.0")


def asked(stage, named, attempt=1, preset=None, share=1.0, gpu=False, **site):
    """Resources of a job as Snakemake evaluates them."""
    words = Requests(preset or PAPER, Site(**{"gpu": "H100", **site})).of(stage, share, gpu)
    values = {}
    for name, value in words.items():
        if callable(value):
            given = (named, attempt)[: len(inspect.signature(value).parameters)]
            value = value(*given)
        values[name] = value
    return {name: value for name, value in values.items() if value is not None}


def to_run(rule, **values):
    return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=wildcards(**values))


def test_trainings_beyond_the_memory_of_their_card_are_named_before_they_run(monkeypatch):
    jobs = [to_run("distill", run="imagenet64-gdd"), to_run("distill", run="cifar10-uncond-gdd"), to_run("fetch")]
    (line,) = Requests(PAPER, Site(gpu="H100", max_hours=1e4)).warnings(jobs)
    assert line.startswith("warning: 1 of the trainings need more than the 80 GB of H100: imagenet64-gdd (92 GB); ")
    assert "batch_gpu" in line
    assert Requests(PAPER, Site(gpu="H200", max_hours=1e4)).warnings(jobs) == []
    small, large = ([141.0, 16.0], "2 of the trainings"), ([80.0], "imagenet64-gdd (92 GB)")
    for cards, named in (small, large, ([141.0], ""), ([], "")):
        monkeypatch.setattr("sida.workflow.planning.requests.driver_cards", lambda cards=cards: cards)
        lines = Requests(PAPER, None).warnings(jobs)
        assert named in "".join(lines)
        assert bool(lines) == bool(named)
    # Without a training on a GPU nothing is planned.
    monkeypatch.setattr(Requests, "_planned_cost", lambda *args: pytest.fail("planned"))
    assert Requests(PAPER, None).warnings([to_run("fetch"), to_run("measure_0_9", run="edm2-xs-sid")]) == []
    demo = shipped("demo")
    assert Requests(demo, None).warnings([to_run("distill", run="sid-a1.0")]) == []


def test_a_training_beyond_the_sites_limit_names_the_retries_that_it_needs():
    jobs = [to_run("distill", run="edm2-xxl-sid"), to_run("distill", run="cifar10-uncond-sid-a1")]
    requests = Requests(PAPER, Site(gpu="H100"))
    needed = requests.attempts("students", jobs[0].wildcards)
    assert needed > 10
    (line,) = requests.warnings(jobs, retries=5)
    assert line.startswith(f"edm2-xxl-sid is planned for {needed} attempts")
    assert line.endswith(f"give --retries {needed + 5}")
    assert requests.warnings(jobs, retries=needed) == []
    large, unknown = Requests(PAPER, Site(gpu="V100")).warnings([to_run("distill", run="edm2-xs-sid")], retries=5)
    assert unknown.startswith("trainings without a plan")
    # Memory needs no rate.
    assert "16 GB of V100" in large


def test_a_measurement_beyond_the_sites_limit_names_the_retries_that_it_needs_and_resumes_within_a_trial():
    run = SIDA.run
    jobs, plan = [to_run("measure_0_9", run=run), to_run("fetch")], Requests(PAPER, Site(gpu="H100", margin=60))
    hours = plan._computing("measurements", wildcards(run=run)) / 60 / PAPER.trials
    # 10 trials by parts of two thirds of one.
    short = Site(gpu="H100", margin=60, max_hours=0.5 + 2 / 3 * hours)
    (line,) = Requests(PAPER, short).warnings(jobs, retries=5)
    assert line.startswith(f"measuring {run} is planned for 15 attempts")
    assert "--retries 20" in line
    assert Requests(PAPER, short).warnings(jobs, retries=14) == []
    (line,) = Requests(PAPER, short).warnings([to_run("sample", run=run, trial="0")])
    assert line.startswith(f"measuring {run} is planned for 2 attempts")


def test_an_encoding_resumes_has_each_gpu_of_a_node_and_names_its_retries():
    (archive,) = [path for path in PAPER.archives.made if PAPER.archives.made_from(path).dataset]
    assert asked("archives", wildcards(archive=archive), gpu=True, gpus_per_node=4)["gpu"] == 4
    jobs, alone = [to_run("encode_data", archive=archive)], Site(gpu="A100-80", gpus_per_node=1, max_hours=8)
    needed = Requests(PAPER, alone).attempts("archives", jobs[0].wildcards)
    (line,) = Requests(PAPER, alone).warnings(jobs)
    assert needed > 2
    assert line.startswith(f"encoding {archive} is planned for {needed} attempts")
    assert Requests(PAPER, alone).warnings(jobs, retries=needed) == []
    assert Requests(PAPER, Site(gpu="A100-80")).attempts("archives", jobs[0].wildcards) == 1


@pytest.mark.parametrize("name", sorted(presets()))
def test_no_job_that_cannot_resume_is_planned_for_more_than_an_hour(name):
    preset = shipped(name)
    costs = Costs(preset, "V100" if preset.settings.device != "cpu" else None, timed=preset.settings.device != "cpu")
    prepared = [path for path in preset.archives.made if not preset.archives.made_from(path).dataset]
    jobs = [costs.archive(path) for path in prepared]
    jobs += [costs.imported(checkpoint) for checkpoint in preset.imports]
    assert {*STAGES.values()} == {*RESUMED} - {"measurements"} | {"assets", "checkpoints"}
    assert all(job.gpu_hours + job.cpu_hours <= 1 for job in jobs)


def test_the_driver_lists_the_cards(monkeypatch):
    class Driver:
        def cuDeviceGetCount(self, count):
            count._obj.value = 2

        def cuDeviceGet(self, card, index):
            card._obj.value = index

        def cuDeviceTotalMem_v2(self, size, card):
            size._obj.value = (80_000_000_000, 16_000_000_000)[card.value]

        def cuInit(self, flags):
            assert flags == 0

    monkeypatch.setattr("sida.workflow.planning.driver.ctypes.CDLL", lambda name: Driver())
    assert driver_cards() == [80.0, 16.0]
    monkeypatch.setattr("sida.workflow.planning.driver.ctypes.CDLL", lambda name: object())
    assert driver_cards() == []


def test_time_is_the_planned_one_with_a_margin_and_grows_with_attempts():
    cost = Requests(PAPER, Site(gpu="H100"))._planned_cost("students", SIDA)
    planned = cost.gpu_hours / cost.gpus
    first, second, third = (asked("students", SIDA, attempt, max_hours=1000)["runtime"] for attempt in (1, 2, 3))
    assert first == pytest.approx(30 + 90 * planned, abs=1)
    assert (second, third) == (pytest.approx(1.5 * first, abs=1), pytest.approx(2 * first, abs=1))
    slower = asked("students", SIDA, margin=3.0, max_hours=1000)["runtime"]
    assert slower == pytest.approx(30 + 180 * planned, abs=1)


def test_no_job_asks_for_more_than_the_site_has():
    long = wildcards(run="edm2-xxl-sid")
    assert asked("students", long, 9)["runtime"] == 24 * 60
    assert asked("students", long, 9, max_hours=2.5, max_memory_gb=64)["runtime"] == 150
    assert asked("students", long, 9, max_memory_gb=64)["mem_mb"] == 64_000
    # Without a plan it asks for the most: the V100 has no rate in float16, in which EDM2's networks are trained.
    slow = asked("students", wildcards(run="edm2-xs-sid"), gpu="V100", max_hours=7)
    assert slow["runtime"] == 420
    assert slow["mem_mb"] == asked("students", wildcards(run="edm2-xs-sid"))["mem_mb"] < 100_000


@pytest.mark.parametrize(("per_node", "nodes"), [(8, 1), (3, 4)])
def test_a_training_takes_as_many_nodes_as_its_gpus_need(per_node, nodes):
    words = asked("students", SIDA, gpus_per_node=per_node)
    assert (words["gpu"], words["nodes"]) == (8, nodes)
    assert words["cpus_per_task"] == PAPER.settings.threads * 8 // nodes
    assert asked("students", SIDA, gpus_per_node=per_node, cores_per_node=5)["cpus_per_task"] == 5
    # Within the allocation the job starts one launcher on each node by itself.
    several = {"tasks": nodes, "tasks_per_gpu": 0, "mpi": "srun"}
    assert {key: words.get(key) for key in several} == (several if nodes > 1 else dict.fromkeys(several))


OPTIONS = {"partition": "main", "gpu_partition": "cards", "account": "ours", "extra": "--signal=TERM@120"}


@pytest.mark.parametrize(
    ("names", "gpus"),
    [
        (("slurm_partition", "slurm_account", "slurm_extra"), ""),
        (("lsf_queue", "lsf_project", "lsf_extra"), "-gpu num={} "),
        (("partition", "account", "extra"), ""),
    ],
)
def test_each_executor_gets_the_sites_options_by_its_own_names(names, gpus):
    options = lambda *job, **words: [asked(*job, **words)[name] for name in names]
    extra = OPTIONS["extra"]
    assert options("measurements", SIDA, gpu=True, **OPTIONS) == ["cards", "ours", gpus.format(1) + extra]
    assert options("students", SIDA, **OPTIONS) == ["cards", "ours", gpus.format(8) + extra]
    assert options("build", SIDA, **OPTIONS) == ["main", "ours", extra]
    # Without a value an empty text: a submit command may name it.
    assert options("build", SIDA) == ["", "", ""]


def test_an_executor_that_would_drop_what_a_job_needs_is_one_line():
    job = lambda **resources: SimpleNamespace(wildcards=SIDA, resources=resources)
    named, plain = Requests(PAPER, Site(account="ours")), Requests(PAPER, Site())
    refused("executor condor: .*account", named.check_executor, "condor", [])
    refused("executor condor: .*gpus", plain.check_executor, "condor", [job(gpu=0), job(gpu=1)])
    plain.check_executor("condor", [job(gpu=0)])
    for executor in ("lsf", "cluster-generic"):
        named.check_executor(executor, [job(gpu=8, nodes=1)])
        refused(f"executor {executor}: .*2 nodes", plain.check_executor, executor, [job(gpu=8, nodes=2)])
    named.check_executor("slurm", [job(gpu=8, nodes=2)])
    # Without a scheduler nothing is asked for.
    Requests(PAPER, None).check_executor("local", [job(gpu=8)])


def test_jobs_for_a_card_that_ask_for_none_are_one_line(tmp_path):
    job = SimpleNamespace(wildcards=SIDA, resources={"gpu": 0})
    requests = lambda **changes: Requests(study(tmp_path, {"tables": [], "figures": [], **changes}), Site())
    refused(r"preset.yaml: gpus.*cuda:0.*set gpus", requests(device="cuda:0").check_executor, "slurm", [job])
    requests(device="cuda", gpus=1).check_executor("slurm", [job])
    requests(device="cpu").check_executor("slurm", [job])
    requests(device="cuda").check_executor("local", [job])
    requests(device="cuda").check_executor("slurm", [])


def test_without_a_scheduler_gpus_alone_are_asked_for_and_a_job_does_not_plan_itself_again():
    alone = Requests(PAPER, None)
    assert alone.of("students").keys() == {"gpu", "nodes"}
    assert alone.of("measurements", gpu=True) == {"gpu": 1}
    assert alone.of("build") == {}
    inside = Requests(PAPER, Site(gpus_per_node=4), inside=True).of("students")
    assert not {"runtime", "mem_mb"} & inside.keys()
    assert inside["nodes"](SIDA) == 2


def test_a_preset_for_processors_asks_for_the_memory_of_its_networks():
    words = asked("students", wildcards(run="sida-a1.0"), preset=shipped(TINY))
    assert 4000 < words["mem_mb"] < 6000
    assert words["runtime"] == 31
    assert words["nodes"] == words["cpus_per_task"] == 1


def test_images_that_a_data_set_keeps_are_in_the_memory_of_each_process(tmp_path):
    data = {"kind": "zip", "path": "x.zip", "resolution": 100, "channels": 3, "label_dim": 10, "num_images": 100_000}
    common = {"dataset": "mine", "tables": [], "figures": [], "device": "cuda", "gpus": 2}
    asked_memory = []
    for more in ({}, {"cache": True}, {"cache": True, "channels": 8}, {"cache": True, "num_images": None}):
        preset = study(tmp_path, common | {"datasets": {"mine": data | more}})
        jobs = (("students", {"run": "sid-a1.0"}), ("measurements", {"run": "sid-a1.0"}))
        asked_memory.append([asked(stage, wildcards(**named), preset=preset)["mem_mb"] for stage, named in jobs])
    plain, kept, latents, unknown = asked_memory
    assert [after - before for before, after in zip(plain, kept, strict=True)] == [6000, 3000]
    assert [after - before for before, after in zip(plain, latents, strict=True)] == [64000, 32000]
    assert unknown == plain


def test_the_site_is_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDA_SITE", raising=False)
    # The checkout's own says what is assumed without it.
    assert load_site() == Site()
    put(tmp_path / "profiles/site.yaml", "gpu: V100\ngpus_per_node: 4\n")
    assert load_site() == Site(gpu="V100", gpus_per_node=4)
    (tmp_path / "other.yaml").write_text("max_hours: 2\n")
    monkeypatch.setenv("SIDA_SITE", "other.yaml")
    assert load_site() == Site(max_hours=2)
    (tmp_path / "other.yaml").write_text("# gpu: V100\n")
    assert load_site() == Site()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("partitoin: main", r"site.yaml: partitoin: .*'partition'"),
        ("gpu: H10", r"site.yaml: gpu: .*'H100'"),
        (None, r"SIDA_SITE=site\.yaml: no such file"),
    ],
)
def test_a_faulty_site_is_one_line(text, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_SITE", "site.yaml")
    if text:
        (tmp_path / "site.yaml").write_text(text)
    refused(fault, load_site)


#: All but the usual one, which every run without a profile has.
PROFILES = sorted({path.parent.name for path in (ROOT / "profiles").glob("*/profile.yaml")} - {"default"})
SITE = "gpu: H100\ngpus_per_node: 4\npartition: main\ngpu_partition: cards\naccount: ours\n"


def run(folder, profile, preset, *arguments):
    """Exit status and output of Snakemake."""
    (folder / "site.yaml").write_text(SITE)
    more = {"slurm": [], "generic": ["--cluster-generic-submit-cmd", "sh"]}.get(profile, ["--cores", "2"])
    words = ["-s", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles" / profile), *more]
    words += ["--configfile", str(ROOT / find_preset(preset)), *arguments]
    return forked_snakemake(folder, *words, environment={"SIDA_SITE": "site.yaml"})


#: Jobs ask every scheduler for the same, so one profile reads all presets, and the demo is read with each profile.
#: Another test here runs the generic one.
DRY = [(profile, "demo") for profile in PROFILES] + [("slurm", preset) for preset in presets() if preset != "demo"]


@pytest.mark.parametrize(
    ("profile", "preset"),
    [pytest.param(*dry, marks=[] if dry == ("slurm", "demo") else pytest.mark.slow) for dry in DRY],
)
def test_a_dry_run_plans_everything_and_writes_nothing(profile, preset, tmp_path):
    status, text = run(tmp_path, profile, preset, "-n")
    assert status == 0, text[-3000:]
    assert "This was a dry-run" in text
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_run_without_cores_ends_well(tmp_path):
    """A scheduler's profile says how many jobs there are, and nobody how many cores; this table is no job."""
    status, text = run(tmp_path, "generic", "published", "--", "results/published/tables/table8.tex")
    assert status == 0, text[-3000:]
    assert (tmp_path / "results/published/tables/table8.tex").exists()


SNAKEFILE = """
rule all:
    input: "made.txt"

rule half:
    output: "{n}.half"
    threads: 3
    resources: gpu=1, mem_mb=9001
    shell: "echo {wildcards.n} > {output}"

rule whole:
    input: "1.half", "2.half"
    output: "made.txt"
    # Fails at first, as a job that is preempted.
    shell: "test -e again || {{ touch again; kill -9 $$; }}; cat {input} > {output}"
"""


def _submit(folder):
    """A command that notes its first argument, starts the script that the second names, and prints a job's id."""
    (folder / "submit").write_text('#!/bin/sh\necho "$1" >> asked.txt\nsh "$2" > log.txt 2>&1 &\necho $!\n')
    (folder / "submit").chmod(0o755)


@pytest.mark.slow
def test_the_generic_profile_hands_jobs_to_the_command_that_the_user_names(tmp_path):
    """The command gets a job's needs (minutes by profile and by option) and script; a failed job is sent again."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    _submit(tmp_path)
    command = f"{tmp_path}/submit {{threads}}-{{resources.gpu}}-{{resources.mem_mb}}-{{resources.runtime}}"
    words = ["--workflow-profile", str(ROOT / "profiles/generic"), "--cluster-generic-submit-cmd", command]
    words += ["--seconds-between-status-checks", "1", "--latency-wait", "10", "--set-resources", "half:runtime=600"]
    status, text = forked_snakemake(tmp_path, *words)
    assert status == 0, text[-3000:]
    assert (tmp_path / "made.txt").read_text() == "1\n2\n"
    asked = (tmp_path / "asked.txt").read_text().split()
    assert asked == ["3-1-9001-600", "3-1-9001-600", "1-0-8000-60", "1-0-8000-60"]


@pytest.mark.slow
def test_a_submit_command_can_name_what_the_site_says(tmp_path):
    """Jobs of the workflow itself, and what an interrupt cancels."""
    workspace, arguments = small(tmp_path)
    _submit(tmp_path)
    put(tmp_path / "site.yaml", "partition: main\ngpu_partition: cards\naccount: ours\n")
    put(tmp_path / "cancel", '#!/bin/sh\necho "$@" >> cancelled.txt\nkill "$@"\n').chmod(0o755)
    command = f"{tmp_path}/submit {{resources.partition}}-{{resources.account}}-{{resources.extra}}-{{resources.gpu}}"
    words = ["-m", "snakemake", "--workflow-profile", str(ROOT / "profiles/generic"), "--latency-wait", "10"]
    words += ["--cluster-generic-submit-cmd", command, "--cluster-generic-cancel-cmd", str(tmp_path / "cancel")]
    words += ["--seconds-between-status-checks", "1", "--config", "gpus=1"]
    run = subprocess.Popen(
        [sys.executable, *words, *arguments[:2], "--", "results/small/teachers/digits-short/network.safetensors"],
        cwd=tmp_path,
        env={**workspace.environment(), "SIDA_SITE": "site.yaml"},
        preexec_fn=heed_interrupts,
        start_new_session=True,
    )
    wait_for((tmp_path / "results/small/teachers/digits-short/train.jsonl").exists, 600)
    run.send_signal(signal.SIGINT)
    assert run.wait(600) != 0
    assert (tmp_path / "asked.txt").read_text() == "cards-ours--1\n"
    assert (tmp_path / "cancelled.txt").read_text().strip().isdecimal()
