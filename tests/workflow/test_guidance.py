"""A preset with guided teachers and their students: specs, inputs, plan, faults, and that it runs."""

import json
from pathlib import Path

import pytest

from sida.eval.measuring.measure import measure
from sida.files.atomic import sha256_file
from sida.methods import distill
from sida.networks.file import read_metadata
from sida.sampling.job import SampleConfig, run_job
from sida.training import train_teacher
from sida.workflow.planning.costs import Costs
from sida.workflow.planning.steps import network_cost
from sida.workflow.preset import Preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.jobs import measurement, networks_read, sampling, teacher_training, training
from sida.workflow.preset.specs import Jobs, row_digest
from tests.plugins import needs
from tests.refused import refused
from tests.workflow.workspace import ROWS, TINY, changed, settings_of, study

TEACHER = settings_of(TINY)["teachers"]["digits-short"]
RECIPE = settings_of(TINY)["recipes"]["sida"]
#: The tiny preset with a guide.
GUIDED = {
    "teachers/uncond": changed(TEACHER, {"network/kwargs/label_dim": 0, "dataset": "digits-uncond"}),
    "samplers/heun-guided": {"kind": "heun", "num_steps": 3, "guidance": 1.5},
    "recipes/sida-guided": RECIPE | {"guidance": 1.5},
}
HEUN, SIDA = ROWS["teacher-nfe35"], ROWS["sida-a1.0"]
GUIDED_ROWS = {
    "plain": HEUN,
    "guided": HEUN | {"sampler": "heun-guided", "guide": "uncond"},
    "sida": SIDA,
    "sida-guided": SIDA | {"recipe": "sida-guided", "guide": "uncond"},
}


def preset(folder: Path, changes: dict | None = None, rows: dict = GUIDED_ROWS) -> Preset:
    return study(folder, GUIDED | (changes or {}), rows)


def test_specs_name_the_guide_where_it_acts(tmp_path):
    made = preset(tmp_path)
    check_preset(made)
    guide, teacher = (f"results/tiny/teachers/{name}/network.safetensors" for name in ("uncond", "digits-short"))
    student = training(made, "sida-guided").spec
    assert (student["teacher"], student["guide"], student["guidance"]) == (teacher, guide, 1.5)
    assert measurement(made, "guided").spec["guide"] == sampling(made, "guided/trial-0").spec["gnet"] == guide
    assert measurement(made, "guided").spec["nfe"] == measurement(made, "plain").spec["nfe"] == 5
    # The guide of a student ends with its training.
    assert measurement(made, "sida-guided").spec["guide"] is sampling(made, "sida-guided/trial-0").spec["gnet"] is None
    # Specs of rows without guidance say what they said before there was any.
    assert not {"guide", "guidance"} & training(made, "sida").spec.keys()
    other = preset(tmp_path / "plain", rows={run: row for run, row in GUIDED_ROWS.items() if "guide" not in row})
    for stage, run in (("students", "sida"), ("measurements", "plain")):
        assert Jobs(made).digest(stage, run) == Jobs(other).digest(stage, run)


def test_the_guide_is_an_input_of_what_uses_it(tmp_path):
    made = preset(tmp_path)
    assert training(made, "sida-guided").needs["teachers"] == ["digits-short", "uncond"]
    assert training(made, "sida").needs["teachers"] == measurement(made, "plain").needs["teachers"] == ["digits-short"]
    assert measurement(made, "guided").needs["teachers"] == ["digits-short", "uncond"]
    assert measurement(made, "sida-guided").needs["teachers"] == []
    # A figure draws the samples of a guided teacher itself.
    assert "uncond" in networks_read(made, ["guided"])["teachers"]
    assert "uncond" not in networks_read(made, ["plain", "sida-guided"])["teachers"]


@needs("meanflow")
def test_a_guide_is_compared_with_the_network_of_the_recipe(tmp_path):
    """A row without a teacher has its network in the recipe."""
    network = changed(TEACHER, {"network/kwargs/label_dim": 0})["network"]
    recipe = {"total_kimg": 1, "batch_size": 32, "lr": 1e-3, "network": network}
    row = {"label": "M", "method": "meanflow", "recipe": "mine", "sampler": "one-step", "guide": "null"}
    alone = {"tables": [], "figures": [], "recipes/mine": recipe}
    refused(r"run 'mine': guide: 'null' .*without its classes", study, tmp_path, alone, {"mine": row})
    large = changed(TEACHER, {"network/kwargs/img_resolution": 16})
    alone |= {"teachers/large": large}
    told = r"run 'mine': guide 'large'.img_resolution: .*16"
    refused(told, study, tmp_path, alone, {"mine": row | {"guide": "large"}})


def test_another_guide_makes_another_row(tmp_path):
    before, after = preset(tmp_path), preset(tmp_path, {"teachers/uncond/seed": 1})
    changed_rows = {run for run in before.runs if row_digest(before, run) != row_digest(after, run)}
    assert changed_rows == {"guided", "sida-guided"}


def test_the_plan_counts_the_guide(tmp_path):
    costs = Costs(preset(tmp_path))
    plain, guided = map(costs.student, ("sida", "sida-guided"))
    operations = plain.images * 2 * network_cost(GUIDED["teachers/uncond"]["network"]).forward
    hours = operations / costs.gpu.rate(False, "CPU") / 3600
    assert guided.gpu_hours - plain.gpu_hours == pytest.approx(hours)
    assert guided.memory_gb > plain.memory_gb
    assert costs.measurement("guided").gpu_hours > 1.5 * costs.measurement("plain").gpu_hours


OTHER = changed(TEACHER, {"network/kwargs/img_resolution": 16})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rows/guided/guide": ""}, r"sampler 'heun-guided'.guidance: "),
        ({"rows/plain/guide": "uncond"}, r"run 'plain'.guide: "),
        ({"rows/sida/guide": "uncond"}, r"run 'sida': guide: .* guidance of 1"),
        ({"rows/sida-guided/guide": ""}, r"recipes.sida-guided.guidance: "),
        ({"rows/sida-guided/sampler": "heun-guided"}, r"run 'sida-guided': sampler 'heun-guided' "),
        ({"rows/sida-guided/guide": "digits-short"}, r"guide 'digits-short' is the teacher of the row"),
        ({"rows/sida-guided/guide": "other", "teachers/other": OTHER}, r"guide 'other'.img_resolution: .* 16"),
        ({"rows/sida-guided/method": "gdd", "rows/sida-guided/alpha": ""}, r"'gdd' does not read .*guidance"),
    ],
)
def test_faults_are_one_line_before_the_first_job(tmp_path, changes, fault):
    refused(fault, lambda: check_preset(preset(tmp_path, changes)))


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """What the workflow's jobs are told, done in one process: a guided teacher, and the student of it."""
    short = {f"teachers/{name}/training/total_kimg": 0.256 for name in ("digits-short", "uncond")}
    short |= {"recipes/sida-guided/total_kimg": 0.256, "recipes/sida-guided/evaluation": None}
    made = preset(tmp_path, short)
    monkeypatch.chdir(tmp_path)
    folder = Path("results/tiny")
    for name in made.trained_teachers:
        train_teacher(teacher_training(made, name).spec, folder / "teachers" / name)
    distill(training(made, "sida-guided").spec, folder / "students/sida-guided")
    metadata = read_metadata(folder / "students/sida-guided/network.safetensors")
    assert metadata["guidance"] == 1.5
    assert metadata["parents"]["guide"] == sha256_file(folder / "teachers/uncond/network.safetensors")
    for run in ("plain", "guided", "sida-guided"):
        measure(measurement(made, run).spec, folder / "measurements" / run, [0])
    found = [json.loads(path.read_text())["metrics"]["fd"] for path in folder.glob("measurements/*/trial-0.json")]
    assert len(found) == len({str(value) for value in found}) == 3
    config = SampleConfig(**sampling(made, "guided/trial-0").spec, out="samples.npz")
    assert "200 images, 5 network evaluations each" in "".join(run_job(config))
