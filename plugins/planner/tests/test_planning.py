"""Plans: counted operations, costs of Snakemake's jobs, wall time, missing requirements; nothing is run."""

import dataclasses
import math
import re
import types

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eval.contrasts import seeds_to_detect
from eval.results.published import load_published
from eval.results.retraining import load_retraining
from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.config.settings import from_mapping
from sida.files.atomic import jsonl_text
from sida.methods.method import Parts
from sida.methods.registry import DistillConfig, find_method, resolve_recipe
from sida.networks import build_network, family_of
from sida.plugins.planner import doctor
from sida.plugins.planner.plan import Plan, Planned, make_plan, show_plan, wall_hours
from tests.plugins import needs
from tests.refused import refused
from tests.workflow.workspace import ROWS, TINY, put, shipped, study
from workflow.cli import main
from workflow.planning import steps
from workflow.planning.assumptions import Gpu, load_assumptions
from workflow.planning.costs import Cost, Costs, _published_networks
from workflow.planning.steps import student_cost
from workflow.preset import load_preset
from workflow.preset.files import find_preset

PAPER = shipped("paper")
#: Columns of Table 8: key, rows, card. Its hours are the only published ones.
TABLE8 = (
    ("cifar-10", "cifar10-uncond-sid-a1.2", "cifar10-uncond-sida-a1", "V100"),
    ("imagenet", "imagenet64-sid-a1.2", "imagenet64-sida-a1", "H100"),
    ("ffhq", "ffhq64-sid-a1.2", "ffhq64-sida-a1", "H100"),
    ("afhq-v2", "afhq64-sid-a1", "afhq64-sida-a1", "H100"),
)


def test_counted_work_has_the_proportions_of_the_hours_in_table_8_and_memory_is_enough():
    """The rates of plan.yaml come from these hours: what the test holds is one rate of a card for all of its rows."""
    published, rates = load_published(), {}
    for column, sid, sida, card in TABLE8:
        costs = Costs(PAPER, card, 8)
        for method, run in (("sid", sid), ("sida", sida)):
            cost = student_cost(*costs.resolved(run))
            hours = published[f"table8-{method}-hours-per-10m-10-4-k-images-{column}-hours-per-10m"].value
            rates.setdefault((card, cost.fp16), []).append(1e7 * cost.operations / 8 / 3600 / hours)
            reserved = published[f"table8-{method}-max-memory-in-gb-reserved-per-gpu-{column}-mem-reserved-gb"].value
            # Enough, and not far too much.
            assert 0.99 < cost.memory / 2**30 / reserved < 1.25, run
    assert sorted(map(len, rates.values())) == [2, 6]
    assert all(max(measured) < 1.16 * min(measured) for measured in rates.values())


MIXER = "docs.examples.mixer:MixerPrecond"
NETWORKS = {
    "edm": {
        "class": "EDMPrecond",
        "kwargs": {
            "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3, "label_dim": 4, "augment_dim": 9,
            "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
        },
    },
    "edm2": {
        "class": "EDM2Precond",
        "kwargs": {
            "img_resolution": 16, "img_channels": 4, "label_dim": 4, "model_channels": 32, "channel_mult": [1, 2],
            "num_blocks": 1, "attn_resolutions": [8], "channels_per_head": 32,
        },
    },
    "flow": {
        "class": "SiTPrecond",
        "kwargs": {
            "img_resolution": 16, "img_channels": 4, "label_dim": 4, "hidden_size": 48, "depth": 4, "num_heads": 4,
        },
    },
    "custom": {
        "class": MIXER,
        "kwargs": {"img_resolution": 16, "img_channels": 3, "label_dim": 4, "use_fp16": False},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "method", "checkpointing", "options"),
    [
        ("edm", "sid", False, {}),
        ("edm", "sida", True, {}),
        ("edm2", "sida", False, {}),
        ("edm", "dmd2", False, {"features": "teacher", "fake_score_steps": 2, "r1_weight": 1.0}),
        ("edm", "realsid", False, {"uid_alpha": 0.9, "fake_score_steps": 3}),
        ("edm", "instance", False, {"num_steps": 3}),
        ("flow", "sida", True, {}),
        ("flow", "sid", False, {}),
        ("custom", "sida", False, {}),
        ("edm", "dmd", False, {"of recipe": {"num_steps": 5}}),
        ("edm", "sid", True, {"of recipe": {"num_steps": 3, "gradient": "all"}}),
        pytest.param("edm", "gdd", False, {"backbones": ["lite0_package"], "r1_gamma": 0}, marks=needs("judges")),
    ],
)
def test_a_real_step_takes_the_counted_operations(family, method, checkpointing, options, monkeypatch):
    monkeypatch.setenv("SIDA_ALLOW_CODE", MIXER)
    options, recipe = dict(options), options.get("of recipe", {})
    options.pop("of recipe", None)
    spec = {"name": "x", "method": method, "teacher": "t", "dataset": {"name": "d", "kind": "digits"}, "lr": 1e-4}
    spec |= {"total_kimg": 1000, "batch_size": 2, "dropout": 0, "checkpointing": checkpointing, "options": options}
    spec |= recipe
    config = resolve_recipe(from_mapping(DistillConfig, spec, "spec"), NETWORKS[family])
    made, teacher = find_method(method), build_network(NETWORKS[family])
    options = made.read_options(config.options, "options")
    parts = Parts(made, config, options, family_of(teacher), teacher, teacher, torch.device("cpu"), "spec")
    trainer = parts.trainer()
    # The mean of the drawn numbers.
    trainer.taken_steps = lambda nimg: (config.num_steps + 1) // 2
    batch = [(torch.zeros(2, NETWORKS[family]["kwargs"]["img_channels"], 16, 16), torch.eye(4)[:2])]
    # The processor's own attention is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.batches = lambda stream, nimg, with_images: batch
        # Not the first iteration of a tick, which measures the terms' gradients too.
        trainer.iteration(500_480)
    # What checkpointing does not evaluate again (layers outside of blocks) weighs more in so small a network.
    cost, tolerance = student_cost(config, NETWORKS[family]), 0.1 if checkpointing else 0.05
    assert counter.get_total_flops() / 2 == pytest.approx(cost.operations + cost.features, rel=tolerance)


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


@pytest.mark.parametrize("share", [0.001, 0.1])
def test_a_plan_names_rows_whose_training_says_little_of_a_term(planned, tmp_path, monkeypatch, share):
    monkeypatch.chdir(tmp_path)
    preset = load_preset(ROOT / TINY)
    ticks = [{"nimg": nimg, "share": {"sid": 1 - share, "adversarial": share}} for nimg in range(3)]
    put(tmp_path / preset.results / "students" / "sida-a1.0" / "train.jsonl", jsonl_text(ticks, final=True))
    warned = [line for line in show_plan(planned(str(ROOT / TINY))).splitlines() if "'adversarial'" in line]
    assert [line.startswith("warning: sida-a1.0:") for line in warned] == ([True] if share < 0.01 else [])


def test_a_plan_says_how_many_seeds_show_a_gap(capsys):
    assert main(["plan", "demo", "--detect", "10%"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    scatter = load_retraining("digits").std["fd"]
    expected = [str(seeds_to_detect(0.1, scatter, confidence=one)) for one in (0.95, 0.99)]
    assert ["fd", f"{100 * scatter:.1f}", "%", *expected] in lines
    for gap in ("0%", "ten", "nan"):
        assert main(["plan", "demo", "--detect", gap]) == 1
        assert "such as 10%" in capsys.readouterr().err


def test_a_plan_has_costs(planned):
    network, run = "students/ffhq64-sida-a1/network.safetensors", {"run": "ffhq64-sida-a1"}
    halves = [("measure_0_4", run, [network], list("abcde")), ("measure_5_9", run, [network], list("fghij"))]
    plan = planned("paper", ("distill", run, [], [network]), *halves, ("all", {}, list("aj"), []), gpus=8, fresh=True)
    assert list(plan.jobs) == ["students/ffhq64-sida-a1", "measurements/ffhq64-sida-a1"]
    measured = plan.jobs["measurements/ffhq64-sida-a1"]
    assert measured.after == ["students/ffhq64-sida-a1"]
    assert measured.gpu_hours == pytest.approx(plan.costs.measurement("ffhq64-sida-a1").gpu_hours)
    assert plan.jobs["students/ffhq64-sida-a1"].images == 185_856_000
    hours = sum(job.gpu_hours for job in plan.jobs.values())
    assert wall_hours(plan.jobs, 8) > hours / 8
    text = show_plan(plan)
    assert text.startswith("preset paper (")
    assert "on 8 × H200: " in text
    assert f", {0.7 * hours:,.0f} kWh\n" in text
    lines = [line for line in text.splitlines() if line.startswith("  ffhq64-sida-a1 ")]
    for job, line in zip(plan.jobs.values(), lines, strict=True):
        hours = job.gpu_hours
        assert (f" {hours:,.1f} h " if hours >= 1 else f" {math.ceil(60 * hours)} min ") in line
        assert f" {job.memory_gb:.0f} GB" in line


def test_a_recipe_is_resolved_once_for_all_its_rows(tmp_path, monkeypatch):
    """Rows that differ in names, seed and α alone cost the same."""
    rows = {run: cells for run, cells in ROWS.items() if cells["method"] in ("teacher", "sida")}
    one = next(run for run, cells in rows.items() if cells["method"] == "sida")
    rows |= {f"sida-{seed}": {**rows[one], "seed": seed, "alpha": 1 + seed / 100} for seed in range(20)}
    costs = Costs(study(tmp_path, rows=rows))
    expected, resolved = Costs(costs.preset).student(one), []
    resolve = lambda config, *rest: resolved.append(config.name) or resolve_recipe(config, *rest)
    monkeypatch.setattr("workflow.planning.costs.resolve_recipe", resolve)
    for row in costs.preset.students:
        assert costs.student(row.run) == dataclasses.replace(expected, name=row.run)
    assert len(resolved) == 1


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
            monkeypatch.setattr("workflow.planning.costs._published_networks", dict)
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
    *before, last = text.partition("checkpoints have no public address")
    assert "sid-a1\n" not in before[0]
    assert last.splitlines()[1:3] == ["  cifar10-uncond-sid-a1", "  cifar10-uncond-gdd-i"]
    assert "--verbose" in last
    assert "  ffhq64-sid-a1" not in last.splitlines()
    assert "  ffhq64-sid-a1" in show_plan(plan, verbose=True).splitlines()


def test_a_faulty_preset_of_the_folder_is_no_fault_of_the_others(tmp_path, monkeypatch):
    put(tmp_path / "studies/x/preset.yaml", "runs: runs.tsv\nrows:\n  a:\n    checkpoint: x\n")
    monkeypatch.chdir(tmp_path)
    _published_networks.cache_clear()
    assert "teacher-edm-imagenet64" in _published_networks()


def test_a_part_of_a_data_set_as_a_reference_costs_its_part(tmp_path):
    protocol = yaml.safe_load((ROOT / "tests/workflow/tiny-protocol.yaml").read_text())
    protocol["references"]["data"] |= {"dataset": "mine", "fixed": True}
    protocol |= {"metrics": [protocol["metrics"][0] | {"extractor": "inception"}], "watch": None}
    hours = []
    for size in (None, 10_000, 1_000):
        data = {"kind": "zip", "path": "a.zip", "resolution": 8, "num_images": 100_000, "max_size": size}
        changes = {"protocol": "p.yaml", "p.yaml": protocol, "datasets": {"mine": data}, "tables": [], "figures": []}
        hours.append(Costs(study(tmp_path, changes)).measurement("data").gpu_hours)
    assert hours[0] - hours[1] == pytest.approx(10 * (hours[1] - hours[2]))
    assert hours[1] > hours[2]


def test_a_card_without_a_rate_says_so():
    refused(r"gpus\.V100 has no rate in float16", Costs(PAPER, "V100").of, "students", "ffhq64-sida-a1")


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


def test_the_doctor_compares_the_card_with_torch(verdicts, monkeypatch):
    told = lambda: verdicts("cifar10-uncond-sida-a1")["GPU"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA 13" in told().text
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


def test_counts_are_kept_in_the_cache(monkeypatch, tmp_path, capsys):
    network = {"class": "EDMPrecond", "kwargs": {"img_resolution": 8, "img_channels": 1, "model_channels": 16}}
    network["kwargs"] |= {"model_type": "SongUNet", "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    monkeypatch.setattr(steps, "PATIENCE", -1.0)
    costs = []
    for lines in (1, 0, 1):
        steps._counted.cache_clear()
        costs.append(steps.network_cost(network))
        assert capsys.readouterr().err.count("[plan] counting operations and memory of EDMPrecond, 8×8") == lines
        if not lines:
            next(tmp_path.glob("counts/*.json")).write_text("[3")
    assert costs[0] == costs[1] == costs[2]


def test_assumptions_have_a_size_for_every_download_without_one():
    assumptions = load_assumptions()
    for asset in load_registry().values():
        assert assumptions.gigabytes(asset) > 0, asset.id
    assert Gpu(memory_gb=1, watts=1, float32=2).rate(False, "x") == 2e12
