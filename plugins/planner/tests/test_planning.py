"""Plans and doctors: costs of Snakemake's jobs, wall time, missing requirements; nothing is run."""

import contextlib
import math
import re
import types

import pytest
import torch

from sida.config.lookup import ROOT
from sida.errors import UserError
from sida.eval.contrasts import seeds_to_detect
from sida.eval.results.retraining import load_retraining
from sida.machine import why_no_gpu
from sida.plugins.planner import doctor
from sida.plugins.planner.plan import Plan, Planned, make_plan, show_plan, wall_hours
from sida.workflow.cli import main
from sida.workflow.planning.costs import Cost, Costs
from sida.workflow.preset.files import find_preset, presets
from sida.workflow.preset.targets import Targets
from tests.workflow.workspace import TINY, put, shipped

PAPER = shipped("paper")


@pytest.mark.parametrize(("gpus", "hours"), [(8, 1 + 3 + 2), (4, 1 + 6 + 2), (1, 1 + 24 + 2 + 1)])
def test_wall_time_follows_chains_and_gpus(gpus, hours):
    """A download and data first, then a training on up to eight GPUs and a measurement beside another one's."""
    width = min(8, gpus)
    jobs = {
        "data": Cost("data", "data", cpu_hours=1.0),
        "student": Cost("student", "student", ["data"], gpus=width, gpu_hours=24.0),
        "teacher": Cost("measure", "teacher", [], gpus=1, gpu_hours=1.0),
        "measure": Cost("measure", "measure", ["student"], gpus=1, gpu_hours=2.0),
    }
    expected = hours if gpus > 1 else 27.0
    assert wall_hours(jobs, gpus) == pytest.approx(expected)


@pytest.fixture
def planned(monkeypatch):
    """Plans of jobs that stand for Snakemake's, without its start."""

    def make(preset, *jobs, **more):
        found = [Planned(rule, wildcards, inputs, outputs) for rule, wildcards, inputs, outputs in jobs]
        monkeypatch.setattr("sida.plugins.planner.plan.planned_jobs", lambda *args: found)
        return make_plan([find_preset(preset)], **more)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("page", ["laptop", "released", "retrain"])
def test_the_first_plan_of_a_page_is_on_it(page, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    text = (ROOT / f"docs/{page}.md").read_text()
    asked = re.search(r"^    sida (plan [^#\n]*)", text, flags=re.M)[1].split()
    printed = text.partition("The first command prints, among others:\n\n")[2].partition("\n\n")[0].splitlines()
    assert main(asked) == 0
    assert {" ".join(line.split()) for line in printed} <= {
        " ".join(line.split()) for line in capsys.readouterr().out.splitlines()
    }


def test_a_plan_says_how_many_seeds_show_a_gap(capsys):
    assert main(["plan", "demo", "--detect", "10%"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    scatter = load_retraining("digits-demo").std["fd"]
    expected = [str(seeds_to_detect(0.1, scatter, confidence=one)) for one in (0.95, 0.99)]
    assert ["fd", f"{100 * scatter:.1f}", "%", *expected] in lines
    for gap in ("0%", "ten", "nan"):
        assert main(["plan", "demo", "--detect", gap]) == 1
        assert "such as 10%" in capsys.readouterr().err


def test_a_plan_has_costs(planned):
    network, run = "students/ffhq64-sida-a1/network.safetensors", {"run": "ffhq64-sida-a1"}
    halves = [("measure_0_4", run, [network], list("abcde")), ("measure_5_9", run, [network], list("fghij"))]
    plan = planned("paper", ("distill", run, [], [network]), *halves, ("all", {}, list("aj"), []), gpus=8, fresh=True)
    student, measured, _ = plan.jobs.values()
    assert (student.name, measured.name) == (run["run"], run["run"])
    assert measured.after == ["students/ffhq64-sida-a1"]
    assert measured.gpu_hours == pytest.approx(plan.costs.measurement("ffhq64-sida-a1").gpu_hours)
    assert student.images == 185_856_000
    hours = sum(job.gpu_hours for job in plan.jobs.values())
    assert wall_hours(plan.jobs, 8) > hours / 8
    text = show_plan(plan)
    assert text.startswith("preset paper (")
    assert "on 8 × H200: " in text
    assert f", {0.7 * hours:,.0f} kWh\n" in text
    lines = [line for line in text.splitlines() if line.startswith("  ffhq64-sida-a1 ")]
    # As in Snakemake's list: both jobs of the measurement, and the rule `all`.
    assert [line.split()[1] for line in lines] == ["1", "2"]
    assert re.search(r"^all +4 ", text, re.M)
    for job, line in zip((student, measured), lines, strict=True):
        hours = job.gpu_hours
        assert (f" {hours:,.1f} h " if hours >= 1 else f" {math.ceil(60 * hours)} min ") in line
        assert f" {job.memory_gb:.0f} GB" in line


def test_images_of_a_trial_cost_its_share_of_the_measurement(planned):
    run = "ffhq64-sida-a1"
    plan = planned("paper", ("sample", {"run": run, "trial": "3"}, [], ["a"]), gpus=1)
    (drawn,) = plan.jobs.values()
    assert (drawn.kind, drawn.images) == ("measure", 50_000)
    assert drawn.gpu_hours == pytest.approx(plan.costs.measurement(run).gpu_hours / 10)


def test_the_jobs_are_those_that_snakemake_would_run(tmp_path, monkeypatch):
    """Finished products cost nothing."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "results/tiny/students/sida-a1.0/network.safetensors")
    for fresh, kinds in ((False, ["measure"]), (True, ["teacher", "student", "measure"])):
        found = make_plan([ROOT / TINY], ["sida-a1.0"], fresh=fresh)
        assert [job.kind for job in found.jobs.values()] == kinds


def test_released_networks_are_those_of_the_papers_preset_and_others_are_named(planned, monkeypatch):
    words, hours = "without the evaluations of 1 networks that the preset does not describe", []
    for described in (True, False):
        if not described:
            monkeypatch.setattr("sida.workflow.planning.costs._published_networks", dict)
        job = ("measure_0_9", {"run": "teacher-edm-imagenet64"}, [], list("abcdefghij"))
        plan = planned("released", job, card="H200")
        hours.append(sum(job.gpu_hours for job in plan.jobs.values()))
        assert (words in show_plan(plan)) == (not described)
    # 511 evaluations of 219 GFLOP for each of 500,000 images.
    assert hours[0] - hours[1] == pytest.approx(500_000 * 511 * 219e9 / 180e12 / 3600, rel=0.02)


def test_a_plan_begins_with_what_was_asked_and_ends_with_the_rows_that_are_left_out(planned):
    job = ("measure_0_9", {"run": "cifar10-uncond-sida-a1"}, [], list("abcdefghij"))
    plan = planned("released", job, targets=["tables/table1.tex"])
    text = show_plan(plan)
    assert text.startswith("preset released (")
    assert re.search(r"^  cifar10-uncond-sida-a1 +1 +\d+ min ", text, re.M)
    assert re.search(r"^on 1 × H200: \d+ minutes", text, re.M)
    *before, last = text.partition("rows that are left out")
    assert "sid-a1 " not in before[0]
    assert [line.split(":")[0] for line in last.splitlines()[1:3]] == [
        "  cifar10-uncond-sid-a1",
        "  cifar10-uncond-gdd-i",
    ]
    assert "--verbose" in last
    assert "ffhq64-sid-a1" not in last
    assert "\n  ffhq64-sid-a1: ffhq64-sid-a1 has no public address\n" in show_plan(plan, verbose=True)


def cards(monkeypatch, gigabytes, count=1, capability=(8, 9), code=("sm_75", "sm_80", "sm_90")):
    """So many cards of this memory."""
    memory = types.SimpleNamespace(total_memory=gigabytes * 1e9)
    found = {"is_available": True, "device_count": count, "get_arch_list": code}
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)


@pytest.fixture
def verdicts(monkeypatch):
    """Findings for a training with its downloads and data."""

    def make(run, *downloads):
        costs = Costs(PAPER)
        jobs = {f"students/{run}": costs.student(run)}
        jobs |= {f"assets/{name}": costs.fetch(name) for name in downloads}
        monkeypatch.setattr(doctor, "make_plan", lambda *args: Plan(PAPER, (), costs, 8, jobs))
        return {finding.subject: finding for finding in doctor.examine([], [])}

    return make


def test_the_doctor_says_what_is_missing_and_how_to_mend_it(verdicts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = "imagenet64-sida-a1"
    found = verdicts(run, "imagenet-train")
    assert [found[what].verdict for what in ("GPU", "data", "assets")] == ["missing"] * 3
    assert "ILSVRC2012_img_train.tar" in found["assets"].remedy
    # Table 8 reserves less than is counted, so 48 GB are no fault.
    for gigabytes, verdict in ((16, "missing"), (48, "note"), (80, "note")):
        cards(monkeypatch, gigabytes, count=4)
        gpu = verdicts(run)["GPU"]
        assert gpu.verdict == verdict
        assert ("16 GB" in gpu.text and run in gpu.text) == (verdict == "missing")
    assert gpu.remedy == "--config gpus=4"
    monkeypatch.setattr("shutil.disk_usage", lambda place: types.SimpleNamespace(free=1e9))
    assert verdicts(run)["disk"].verdict == "missing"
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    assert verdicts("cifar10-uncond-sida-a1", "inception")["assets"].verdict == "missing"
    # Counts of classes replace the images of a method that sees none.
    assert verdicts("ffhq64-sid-a1.2")["data"].verdict == "ok"


@pytest.mark.parametrize("name", sorted(presets()))
def test_files_in_the_cache_change_only_what_is_to_download(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = shipped(name)
    answers, assets = [], list[str]()
    with contextlib.suppress(UserError):  # a preset without downloads
        assets = Targets(preset).paths_of("downloads")
    for state in ("empty", "full"):
        monkeypatch.setenv("SIDA_CACHE", str(tmp_path / state))
        costs = Costs(preset)
        jobs = {path: costs.fetch(path.rpartition("/")[2].removesuffix(".json")) for path in assets}
        for job in jobs.values() if state == "full" else ():
            put(costs.registry[job.name].path)
        monkeypatch.setattr(doctor, "make_plan", lambda *args: Plan(preset, (), costs, 1, jobs))  # noqa: B023
        monkeypatch.setattr(doctor, "check_reachable", lambda names: None)
        found = doctor.examine([], [])
        answers.append([finding for finding in found if finding.subject not in ("assets", "disk")])
        if assets:
            downloads = {finding.verdict for finding in found if finding.subject == "assets"}
            assert (downloads == {"ok"}) == (state == "full")
    assert answers[0] == answers[1]


def test_the_doctor_compares_the_card_with_torch(verdicts, monkeypatch):
    told = lambda: verdicts("cifar10-uncond-sida-a1")["GPU"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for built in (None, "13.0"):
        monkeypatch.setattr(torch.version, "cuda", built)
        reason, remedy = why_no_gpu()
        assert told().text.endswith(reason)
        assert told().remedy == remedy
    for capability, lacks in (((7, 0), True), ((7, 5), False), ((8, 9), False), ((9, 0), False), ((12, 0), True)):
        cards(monkeypatch, 80, capability=capability, code=("sm_75", "sm_80", "sm_90", "sm_100"))
        found = doctor._gpu(Plan(shipped("gpu"), (), None, 1, {}))
        lacking = [check for check in found if "has no code" in check.text or "no code (it has sm_75, " in check.text]
        assert bool(lacking) == lacks, capability


def test_the_doctors_exit_status(monkeypatch, capsys):
    assert main(["doctor", "demo"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("preset ")
    assert "ok      packages: torch, snakemake" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "gpu", "sid-a1.0"]) == 1
    assert re.search("^missing GPU: .*\n +→ .", capsys.readouterr().out, re.M)
