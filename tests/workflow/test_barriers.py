"""Barriers in the workflow: which rows have one, what each is computed from, what needs it, and how it is stored."""

from __future__ import annotations

import copy

import pytest
import torch

from eval.results.stored import store
from eval.results.studies import format_of, read_curves
from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.atomic import sha256_file, write_hashed_json, write_json
from sida.files.tensors import write_tensors
from tests.eval.synthetic_output import measurement_lines, write_csv
from tests.workflow.workspace import Workspace
from workflow.archive.verify import verify
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.planning.rates import load_assumptions
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.preset.targets import Targets

CURVES = {"fd": [9.123456789, 5.0, 1.0], "denoising": [0.1, 0.2, 0.3]}


@pytest.fixture(scope="module")
def preset():
    return Preset.load(ROOT / "studies/miniature/preset.yaml")


def changed(preset, **keys):
    config = copy.deepcopy(preset.config)
    config.update(keys)
    return Preset(config, "studies/miniature/preset.yaml")


def test_each_row_is_compared_with_its_teacher(preset):
    names = ("instance", "gdd", "gdd-i", "sid", "sida")
    assert set(preset.studied("barriers")) == {f"line-{name}{seed}" for name in names for seed in ("", "-s1", "-s2")}
    spec = preset.specs.study("barriers", "line-gdd-s1")
    assert spec["student"] == "results/miniature/students/line-gdd-s1/network.safetensors"
    assert spec["teacher"] == "results/miniature/teachers/t30/network.safetensors"
    assert {"where", "trials"}.isdisjoint(spec)
    targets = Targets(preset, paper=False)
    assert {spec["student"], spec["teacher"]} <= set(targets.compared("line-gdd-s1"))
    assert "barriers/line-gdd-s1.json" in targets.short()
    assert targets.shown("figures", "mini-barrier")["studies"] == targets.studies(preset.studied("barriers"))
    assert len(targets.answered("barrier")["studies"]) == 15
    assert targets.answered("gdd")["studies"] == []


def test_each_study_of_weights_runs_its_own_command(tmp_path):
    workspace = Workspace(tmp_path)
    asked = ("--configfile", "studies/miniature/preset.yaml", "--", "barriers/line-gdd.json")
    planned = workspace.snakemake("-n", "-p", "--quiet", "host", *asked)
    assert planned.returncode == 0, planned.stderr
    assert "eval barrier --spec results/miniature/specs/barriers/line-gdd.json" in planned.stdout


def test_a_plan_has_a_job_for_each(preset):
    assumptions = load_assumptions([])
    jobs = Jobs(Costs(preset, assumptions.gpu("H200"), "H200", assumptions, fresh=True))
    job = jobs.job("results/miniature/barriers/line-instance.json")
    assert (job.kind, job.name) == ("build", "barriers/line-instance.json")


@pytest.mark.parametrize(
    ("barriers", "message"),
    [
        ({"where": {}}, "barriers.where: must name conditions"),
        ({"where": {"recipy": "sid"}}, "the sample sheet has no column 'recipy'"),
        ({"where": {"recipe": "sid"}, "points": 1}, "points: must be between 3 and 1001"),
        ({"where": {"run": "teacher-t30"}}, "matches run 'teacher-t30', which is not trained here"),
        (None, "is none of those that 'barriers' of studies/miniature/preset.yaml names"),
    ],
)
def test_fault_is_one_line_before_anything_runs(preset, barriers, message):
    alone = {"tables": [], "figures": ["mini-barrier"], "claims": None, "experiments": None}
    with pytest.raises(UserError) as caught:
        check_preset(changed(preset, barriers=barriers, **alone))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_barrier_between_other_networks_is_found(tmp_path):
    files = {
        "teacher": tmp_path / "teachers/t/network.safetensors",
        "student": tmp_path / "students/s/network.safetensors",
    }
    for role, path in files.items():
        write_tensors(path, {"w": torch.tensor([float(len(role))])}, {"name": role})
    asked = {role: f"results/x/{path.relative_to(tmp_path)}" for role, path in files.items()}
    write_json(tmp_path / "specs/barriers/s.json", asked)
    digests = {"teacher_sha256": sha256_file(files["teacher"]), "network_sha256": sha256_file(files["student"])}
    write_hashed_json(
        tmp_path / "barriers/s.json", {"format": format_of("barriers"), "run": "s", "curves": CURVES, **digests}
    )
    report = verify(tmp_path)
    assert (report.faults, report.counts["parents that are here"]) == ([], 2)
    write_tensors(files["student"], {"w": torch.tensor([0.0])}, {"name": "student"})
    (fault,) = verify(tmp_path).faults
    assert fault.startswith("barriers/s.json: was made from another student than students/s/network.safetensors is now")


def test_stored_curves_come_back(tmp_path):
    results, stored = tmp_path / "results", tmp_path / "stored"
    results.mkdir()
    write_csv(results / "measurements.csv", measurement_lines(1, 10, {"b": (1, {"fd": 5.0})}))
    write_hashed_json(
        results / "barriers/b.json", {"format": format_of("barriers"), "run": "b", "curves": CURVES, "more": 1}
    )
    store(results, stored, {}, {})
    assert read_curves("barriers", stored / "barriers/b.json")["curves"] == CURVES
    # A study without any has no such file, and loses an old one.
    (results / "barriers/b.json").unlink()
    store(results, stored, {}, {})
    assert not (stored / "barriers").exists()
