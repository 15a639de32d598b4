"""Plans: counted operations, jobs as the workflow has them, wall time, what is lacking; nothing is run."""

import base64
import json
import re
import types

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eval.results.published import load_published
from sida.assets.registry import load_registry
from sida.config.resources import ROOT
from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.methods.registry import DistillConfig, resolve_recipe
from workflow.cli import main
from workflow.commands.planning import make_jobs
from workflow.planning import steps
from workflow.planning.costs import Costs, Job
from workflow.planning.doctor import examine
from workflow.planning.jobs import Jobs
from workflow.planning.observed import _trainer, typical
from workflow.planning.plan import make_plan, show_plan, wall_hours
from workflow.planning.rates import Gpu, load_assumptions
from workflow.planning.steps import student_cost
from workflow.preset import Preset
from workflow.preset.files import find_preset

#: Columns of Table 8: key, rows, card. Its hours are the only published ones.
TABLE8 = (
    ("cifar-10", "cifar10-uncond-sid-a1.2", "cifar10-uncond-sida-a1", "V100"),
    ("imagenet", "imagenet64-sid-a1.2", "imagenet64-sida-a1", "H100"),
    ("ffhq", "ffhq64-sid-a1.2", "ffhq64-sida-a1", "H100"),
    ("afhq-v2", "afhq64-sid-a1", "afhq64-sida-a1", "H100"),
)


@pytest.fixture(scope="module")
def paper():
    return Preset.load(ROOT / "studies/papers/paper.yaml")


def jobs_of(preset, gpu="H200", gpus=8, **more):
    return Jobs(Costs(preset, gpu, gpus, **more))


def test_hours_and_memory_agree_with_table_8(paper):
    """One rate a card and precision explains all printed hours: the counts have the right proportions."""
    published = load_published()
    for column, sid, sida, card in TABLE8:
        jobs = jobs_of(paper, card)
        for method, run in (("sid", sid), ("sida", sida)):
            config = jobs.costs.resolved(run)
            cost = student_cost(config, jobs.costs.network(paper.runs[run].teacher))
            hours = 1e7 * cost.operations / jobs.costs.gpu.rate(cost.fp16, card) / 8 / 3600
            printed = published[f"table8-{method}-hours-per-10m-10-4-k-images-{column}-hours-per-10m"].value
            assert hours == pytest.approx(printed, rel=0.08), run
            reserved = published[f"table8-{method}-max-memory-in-gb-reserved-per-gpu-{column}-mem-reserved-gb"].value
            # Enough, and not far too much.
            assert 0.99 < cost.memory / 2**30 / reserved < 1.25, run


TINY = {
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
}  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["sid", "sida"])
@pytest.mark.parametrize("family", list(TINY))
def test_a_real_step_takes_the_counted_operations(family, method, checkpointing):
    spec = {"name": "x", "method": method, "teacher": "t", "dataset": {"name": "d", "kind": "digits"}, "lr": 1e-4}
    spec |= {"total_kimg": 1000, "batch_size": 2, "dropout": 0, "checkpointing": checkpointing}
    config = resolve_recipe(from_mapping(DistillConfig, spec, "spec"), TINY[family])
    trainer = _trainer(config, TINY[family], torch.device("cpu"))
    batch = [(torch.zeros(2, TINY[family]["kwargs"]["img_channels"], 16, 16), torch.eye(4)[:2])]
    with FlopCounterMode(display=False) as counter:
        trainer.batches = lambda stream, nimg, with_images: batch
        trainer.iteration(500_000)
    # What checkpointing does not evaluate again (layers outside of blocks) weighs more in so small a network.
    counted, tolerance = student_cost(config, TINY[family]).operations, 0.1 if checkpointing else 0.05
    assert counter.get_total_flops() / 2 == pytest.approx(counted, rel=tolerance)


@pytest.mark.parametrize(("gpus", "hours"), [(8, 1 + 3 + 2), (4, 1 + 6 + 2), (1, 1 + 24 + 2 + 1)])
def test_wall_time_follows_chains_and_gpus(gpus, hours):
    """A download and data first, then a training on up to eight GPUs and a measurement beside another one's."""
    width = min(8, gpus)
    jobs = {
        "data": Job("data", "data", cpu_hours=1.0),
        "student": Job("student", "student", ["data"], gpus=width, gpu_hours=24.0),
        "teacher": Job("measure", "teacher", [], gpus=1, gpu_hours=1.0),
        "measure": Job("measure", "measure", ["student"], gpus=1, gpu_hours=2.0),
    }
    expected = hours if gpus > 1 else 27.0
    assert wall_hours(jobs, gpus) == pytest.approx(expected)


def test_a_plan_has_costs_and_published_scores_as_json_and_as_a_table(paper):
    plan = json.loads(json.dumps(make_plan(jobs_of(paper, fresh=True), ["ffhq64-sida-a1"], 8)))
    totals = plan["totals"]
    assert totals["gpu_hours"] == pytest.approx(sum(job["gpu_hours"] for job in plan["jobs"]))
    assert totals["kwh"] == pytest.approx(0.7 * totals["gpu_hours"])
    assert totals["wall_hours"] > totals["gpu_hours"] / 8
    (student,) = (job for job in plan["jobs"] if job["kind"] == "student")
    assert student["facts"]["images"] == 185_856_000
    assert "fid" in student["facts"]["published"]
    text = show_plan(plan)
    assert "on 8 × H200: " in text
    assert re.search(r"^  ffhq64-sida-a1 .* fid [\d.]+", text, re.MULTILINE)


def test_files_on_top_of_a_preset_are_planned_with_it(capsys):
    assert main(["plan", "gpu-small", "--json", "tables/gpu.tex"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["gpu"] == "CPU"


def test_tables_without_published_numbers_promise_none(capsys):
    """Their columns of effects have no mode but measured."""
    assert main(["plan", "afternoon", "--fresh", "--json", "edm2-sida"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    (student,) = (job for job in jobs if job["kind"] == "student")
    assert student["facts"]["published"] == {}


def test_the_network_that_takes_the_most_is_timed_and_not_the_longest_training():
    jobs = make_jobs("afternoon", "CPU", 1, fresh=True)
    trained = [job for job in jobs.behind([]).values() if job.kind == "student"]
    longest = max(trained, key=lambda job: job.gpu_hours)
    assert jobs.preset.runs[longest.name].teacher == "large"
    found = typical(jobs, trained)
    assert jobs.costs.network(jobs.preset.runs[found.name].teacher) == jobs.costs.network("t30")
    assert found.gpu_hours == max(j.gpu_hours for j in trained if jobs.preset.runs[j.name].teacher.startswith("t"))


def test_a_rate_may_be_measured_here(capsys):
    assert main(["plan", "tests/workflow/tiny.yaml", "--measure", "--fresh", "--json", "sida-a1.0"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rates_from"] == "measured here"
    assert 0 < plan["tflops"]["float32"] < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sida-b1"], "demo.preset.yaml.*'sida-a1.0'"),
        (["--gpu", "H20"], r"--gpu H20: .*'H200'"),
        (["--gpus", "0"], "--gpus: "),
        (["--measure", "teacher-nfe35"], "--measure: "),
    ],
)
def test_faults_are_one_line(arguments, message, capsys):
    assert main(["plan", "demo", *arguments]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    # Lines of progress may stand before it.
    assert [line for line in error.splitlines() if not line.startswith("[plan] ")] == [error.splitlines()[-1]]


def test_released_networks_are_those_of_the_papers_preset_and_others_are_named(monkeypatch):
    """The released checkpoints say what they are when they are there."""
    words = "without the evaluations of 1 networks that the preset does not describe"
    released, hours = Preset.load(find_preset("released")), []
    for described in (True, False):
        if not described:
            monkeypatch.setattr("workflow.planning.costs._published_networks", dict)
        plan = make_plan(jobs_of(released, gpus=1, fresh=True), ["teacher-edm-imagenet64"], 1)
        hours.append(plan["totals"]["gpu_hours"])
        assert (words in show_plan(plan)) == (not described)
    # 511 evaluations of 219 GFLOP for each of 500,000 images.
    assert hours[0] - hours[1] == pytest.approx(500_000 * 511 * 219e9 / 180e12 / 3600, rel=0.02)


def test_a_card_without_a_rate_says_so(paper):
    with pytest.raises(UserError, match=r"gpus\.V100 has no rate in float16"):
        jobs_of(paper, "V100").behind(["ffhq64-sida-a1"])


def verdicts(preset, *targets):
    return {finding.what: finding for finding in examine(jobs_of(preset), targets)}


def cards(monkeypatch, gigabytes, count=1, capability=(8, 9), code=("sm_75", "sm_80", "sm_90")):
    """So many cards of this memory."""
    memory = types.SimpleNamespace(total_memory=gigabytes * 1e9)
    found = {"is_available": True, "device_count": count, "get_arch_list": code}
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)


def test_the_doctor_says_what_is_lacking_and_mends_it(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = "imagenet64-sida-a1"
    found = verdicts(paper, run)
    assert (found["GPU"].verdict, found["data"].verdict) == ("missing", "note")
    hand = next(finding for finding in examine(jobs_of(paper), [run]) if finding.what == "assets")
    assert hand.verdict == "missing"
    assert "ILSVRC2012_img_train.tar" in hand.remedy
    # Table 8 reserves less than is counted, so 48 GB are no fault.
    for gigabytes, verdict in ((16, "missing"), (48, "note"), (80, "note")):
        cards(monkeypatch, gigabytes, count=4)
        gpu = verdicts(paper, run)["GPU"]
        assert gpu.verdict == verdict
        assert ("16 GB" in gpu.text and run in gpu.text) == (verdict == "missing")
    assert gpu.remedy == "--config gpus=4"
    monkeypatch.setattr("shutil.disk_usage", lambda place: types.SimpleNamespace(free=1e9))
    assert verdicts(paper, run)["disk"].verdict == "missing"
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    findings = [f for f in examine(jobs_of(paper), ["cifar10-uncond-sida-a1"]) if f.what == "assets"]
    assert [finding.verdict for finding in findings] == ["missing"]


def test_the_doctor_compares_the_card_and_the_driver_with_torch(paper, monkeypatch):
    told = lambda: next(f for f in examine(jobs_of(paper), ["cifar10-uncond-sida-a1"]) if f.what == "GPU")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("workflow.planning.doctor.driver_cuda", lambda: 12)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA 12" in told().text
    assert "CUDA 13" in told().remedy
    for capability, lacks in (((7, 0), True), ((7, 5), False), ((8, 9), False), ((9, 0), False), ((12, 0), True)):
        cards(monkeypatch, 80, capability=capability, code=("sm_75", "sm_80", "sm_90", "sm_100"))
        assert (told().verdict == "missing" and "no code (it has sm_75, " in told().text) == lacks, capability


def test_gdd_on_imagenet_fits_a_card_and_a_plan_names_what_does_not(paper, capsys):
    runs = ["imagenet64-gdd", "imagenet64-gdd-i"]
    assert make_plan(jobs_of(paper), runs, 1)["too_large"] == ""
    plan = make_plan(jobs_of(paper, "H100"), runs, 1)
    assert plan["too_large"].startswith("2 of the trainings need more than the 80 GB of H100: imagenet64-gdd (92 GB)")
    assert f"warning: {plan['too_large']}" in show_plan(plan)


def test_counts_are_kept_in_the_cache(monkeypatch, tmp_path, capsys):
    network = {"class": "EDMPrecond", "kwargs": {"img_resolution": 8, "img_channels": 1, "model_channels": 16}}
    network["kwargs"] |= {"model_type": "SongUNet", "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    costs = []
    for lines in (1, 0, 1):
        steps._counted.cache_clear()
        costs.append(steps.network_cost(network))
        assert capsys.readouterr().err.count("[plan] counting operations and memory of EDMPrecond, 8×8") == lines
        if not lines:
            next(tmp_path.glob("counts/*.json")).write_text("[3")
    assert costs[0] == costs[1] == costs[2]


def test_a_method_without_images_needs_class_counts_and_no_archive(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    jobs = jobs_of(paper).behind(["edm2-xs-sid"])
    assert not [job.name for job in jobs.values() if job.kind == "data" or job.name == "imagenet-train"]
    assert (
        "results/paper/assets/labels-imagenet.json"
        in jobs["results/paper/students/edm2-xs-sid/network.safetensors"].after
    )
    assert sum(job.disk_gb for job in jobs.values()) < 20
    found = examine(jobs_of(paper), ["ffhq64-sid-a1.2"])
    assert [finding.verdict for finding in found if finding.what == "data"] == ["ok"]
    assert not [finding for finding in found if "ffhq-images" in finding.remedy]
    assert "imagenet-train" in {job.name for job in jobs_of(paper).behind(["edm2-xs-sida"]).values()}


def test_the_doctors_exit_status(monkeypatch, capsys):
    assert main(["doctor", "demo"]) == 0
    assert "ok      packages: torch, snakemake" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "gpu", "sid-a1.0", "--json"]) == 1
    lacking = [entry for entry in json.loads(capsys.readouterr().out) if entry["verdict"] == "missing"]
    assert lacking
    assert all(entry["remedy"] for entry in lacking)


def test_assumptions_have_a_size_for_every_download_without_one():
    assumptions = load_assumptions()
    for asset in load_registry().values():
        assert assumptions.gigabytes(asset) > 0, asset.id
    assert Gpu(memory_gb=1, watts=1, float32=2).rate(False, "x") == 2e12


def test_what_is_there_is_planned_again_where_its_spec_has_changed(tmp_path, monkeypatch):
    """As Snakemake does, by its own records; what follows is made again too."""
    tiny = Preset.load(ROOT / "tests/workflow/tiny.yaml")
    monkeypatch.chdir(tmp_path)
    jobs = jobs_of(tiny, "CPU", 1)
    network, trials = "results/tiny/students/sida-a1.0/network.safetensors", jobs.targets.trials(["sida-a1.0"])
    records = tmp_path / ".snakemake/metadata"
    records.mkdir(parents=True)
    for path in (network, *trials, "results/tiny/teachers/digits-short/network.safetensors"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert jobs.behind(["sida-a1.0"]) == {}
    assert {job.kind for job in jobs_of(tiny, "CPU", 1, fresh=True).behind(["sida-a1.0"]).values()} > {"student"}
    record = records / base64.urlsafe_b64encode(network.encode()).decode()
    record.write_text(json.dumps({"params": [repr(jobs.specs.digest("students", "sida-a1.0"))]}))
    assert jobs.behind(["sida-a1.0"]) == {}
    record.write_text(json.dumps({"params": ["'of other settings'"]}))
    assert [job.kind for job in jobs.behind(["sida-a1.0"]).values()] == ["student", "measure"]
