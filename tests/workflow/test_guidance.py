"""A preset with guided teachers and their students: specs, inputs, plan, faults, and that it runs."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from eval.measuring.measure import measure
from sida.config.resources import ROOT
from sida.config.settings import load_yaml
from sida.files.atomic import sha256_file
from sida.methods import distill
from sida.networks.file import read_metadata
from sida.sampling.job import SampleConfig, run_job
from sida.training import train_teacher
from tests.refused import refusing
from workflow.planning.costs import Costs
from workflow.planning.steps import network_cost
from workflow.preset import Preset
from workflow.preset.placeholders import check_preset

TINY = load_yaml(ROOT / "tests/workflow/tiny.yaml")
SHEET = """\
run\tlabel\tmethod\tteacher\talpha\trecipe\tsampler\tguide
plain\tTeacher\tteacher\tdigits-short\t\t\theun-18\t
guided\tGuided teacher\tteacher\tdigits-short\t\t\theun-guided\tuncond
sida\tSiDA\tsida\tdigits-short\t1.0\tsida\tone-step\t
sida-guided\tSiDA, guided\tsida\tdigits-short\t1.0\tsida-guided\tone-step\tuncond
"""


def document(**changes) -> dict:
    """The tiny preset with a guide."""
    made = copy.deepcopy(TINY)
    short = made["teachers"]["digits-short"]
    network = {**short["network"], "kwargs": {**short["network"]["kwargs"], "label_dim": 0}}
    made["teachers"]["uncond"] = {**short, "network": network, "dataset": "digits-uncond"}
    made["samplers"]["heun-guided"] = {"kind": "heun", "num_steps": 3, "guidance": 1.5}
    made["recipes"]["sida-guided"] = {**made["recipes"]["sida"], "guidance": 1.5}
    return {**made, "runs": "runs.tsv", "claims": None, **changes}


def preset(folder: Path, sheet: str = SHEET, **changes) -> Preset:
    (folder / "runs.tsv").write_text(sheet)
    return Preset(document(**changes), "preset.yaml", [folder])


def test_specs_name_the_guide_where_it_acts(tmp_path):
    made = preset(tmp_path)
    check_preset(made)
    guide, teacher = (f"results/tiny/teachers/{name}/network.safetensors" for name in ("uncond", "digits-short"))
    student = made.training("sida-guided").spec
    assert (student["teacher"], student["guide"], student["guidance"]) == (teacher, guide, 1.5)
    assert made.measurement("guided").spec["guide"] == made.sample("guided/trial-0").spec["gnet"] == guide
    assert made.measurement("guided").spec["nfe"] == made.measurement("plain").spec["nfe"] == 5
    # The guide of a student ends with its training.
    assert made.measurement("sida-guided").spec["guide"] is made.sample("sida-guided/trial-0").spec["gnet"] is None
    # Specs of rows without guidance say what they said before there was any.
    assert not {"guide", "guidance"} & made.training("sida").spec.keys()
    (tmp_path / "plain").mkdir()
    other = preset(tmp_path / "plain", "".join(line for line in SHEET.splitlines(True) if "uncond" not in line))
    for stage, run in (("students", "sida"), ("measurements", "plain")):
        assert made.job(stage, run).digest == other.job(stage, run).digest


def test_the_guide_is_an_input_of_what_uses_it(tmp_path):
    made = preset(tmp_path)
    assert made.training("sida-guided").needs["teachers"] == ["digits-short", "uncond"]
    assert made.training("sida").needs["teachers"] == made.measurement("plain").needs["teachers"] == ["digits-short"]
    assert made.measurement("guided").needs["teachers"] == ["digits-short", "uncond"]
    assert made.measurement("sida-guided").needs["teachers"] == []
    # A figure draws the samples of a guided teacher itself.
    assert "uncond" in made.networks(["guided"])["teachers"]
    assert "uncond" not in made.networks(["plain", "sida-guided"])["teachers"]


def test_the_plan_counts_the_guide(tmp_path):
    costs = Costs(preset(tmp_path))
    plain, guided = (costs.student(run).facts["gflop_per_image"] for run in ("sida", "sida-guided"))
    guide = network_cost(document()["teachers"]["uncond"]["network"])
    assert guided - plain == pytest.approx(2 * guide.forward / 1e9)
    assert costs.student("sida-guided").memory_gb > costs.student("sida").memory_gb
    assert costs.measurement("guided").gpu_hours > 1.5 * costs.measurement("plain").gpu_hours


OTHER = yaml.safe_load(yaml.safe_dump(document()["teachers"]["uncond"]))
OTHER["network"]["kwargs"]["img_resolution"] = 16


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("heun-guided\tuncond", "heun-guided\t", r"sampler 'heun-guided'.guidance: "),
        ("heun-18\t", "heun-18\tuncond", r"run 'plain'.guide: "),
        ("sida\tone-step\t\n", "sida\tone-step\tuncond\n", r"run 'sida': guide: .* guidance of 1"),
        ("one-step\tuncond", "one-step\t", r"recipes.sida-guided.guidance: "),
        ("one-step\tuncond", "heun-guided\tuncond", r"run 'sida-guided': sampler 'heun-guided' "),
        ("one-step\tuncond", "one-step\tdigits-short", r"guide 'digits-short' is the teacher of the row"),
        ("one-step\tuncond", "one-step\tother", r"guide 'other'.img_resolution: .* 16"),
        ("\tsida\tdigits-short\t1.0\tsida-g", "\tgdd\tdigits-short\t\tsida-g", r"'gdd' does not read .*guidance"),
    ],
)
def test_faults_are_one_line_before_the_first_job(tmp_path, old, new, fault):
    assert old in SHEET
    teachers = document()["teachers"] | ({"other": OTHER} if "other" in new else {})
    with refusing(fault):
        check_preset(preset(tmp_path, SHEET.replace(old, new), teachers=teachers))


def test_it_runs(tmp_path, monkeypatch):
    """What the workflow's jobs are told, done in one process: a guided teacher, and the student of it."""
    changed = document()
    for teacher in changed["teachers"].values():
        teacher["training"] = {**teacher["training"], "total_kimg": 0.256}
    changed["recipes"]["sida-guided"] |= {"total_kimg": 0.256, "evaluation": None}
    made = preset(tmp_path, **{key: changed[key] for key in ("teachers", "recipes")})
    monkeypatch.chdir(tmp_path)
    folder = Path("results/tiny")
    for name in made.trained_teachers():
        train_teacher(made.teacher_training(name).spec, folder / "teachers" / name)
    distill(made.training("sida-guided").spec, folder / "students/sida-guided")
    metadata = read_metadata(folder / "students/sida-guided/network.safetensors")
    assert metadata["guidance"] == 1.5
    assert metadata["parents"]["guide"] == sha256_file(folder / "teachers/uncond/network.safetensors")
    for run in ("plain", "guided", "sida-guided"):
        measure(made.measurement(run).spec, folder / "measurements" / run, [0])
    found = [json.loads(path.read_text())["metrics"]["fd"] for path in folder.glob("measurements/*/trial-0.json")]
    assert len(found) == len({str(value) for value in found}) == 3
    config = SampleConfig(**made.sample("guided/trial-0").spec, out="samples.npz")
    assert "200 images, 5 network evaluations each" in "".join(run_job(config))
