"""Barriers in the workflow: which rows have one, what each is computed from, what needs it, and how it is stored."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from eval.results.analyses import ANALYSIS_FORMAT, read_analysis
from eval.results.stored import store
from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.atomic import sha256_file, write_hashed_json, write_json
from sida.files.tensors import write_tensors
from tests.eval.synthetic_output import measurement_lines, write_csv
from workflow.archive.verify import verify
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.preset.targets import Targets

CURVES = {"fd": [9.123456789, 5.0, 1.0], "denoising": [0.1, 0.2, 0.3]}


@pytest.fixture(scope="module")
def preset():
    return Preset.load(ROOT / "studies/miniature/preset.yaml")


def changed(preset, **keys):
    config = dataclasses.asdict(preset.settings)
    config.update(keys)
    return Preset(config, "studies/miniature/preset.yaml", preset.own)


def test_each_row_is_compared_with_its_teacher(preset):
    names = ("instance", "gdd", "gdd-i", "sid", "sida")
    assert set(preset.analysed("barriers")) == {f"line-{name}{seed}" for name in names for seed in ("", "-s1", "-s2")}
    spec = preset.specs.analysis("barriers", "line-gdd-s1")
    assert spec["network"] == "results/miniature/students/line-gdd-s1/network.safetensors"
    assert spec["teacher"] == "results/miniature/teachers/t30/network.safetensors"
    assert "trials" not in spec["protocol"] or "rows" not in spec
    targets = Targets(preset, paper=False)
    assert {spec["network"], spec["teacher"]} <= set(targets.analysed("line-gdd-s1"))
    assert "analyses/barriers/line-gdd-s1.json" in targets.short
    assert targets.shown("figures", "mini-barrier")["analyses"] == targets.analyses()
    assert len(targets.answered("barrier")["analyses"]) == 15
    assert targets.answered("gdd")["analyses"] == []


def test_a_plan_has_a_job_for_each(preset):
    jobs = Jobs(Costs(preset, "H200", fresh=True))
    job, _ = jobs.job("results/miniature/analyses/barriers/line-instance.json")
    assert (job.kind, job.name) == ("build", "analyses/barriers/line-instance.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {}}, "analyses.barriers.rows: must name conditions"),
        ({"rows": {"recipy": "sid"}}, "the sample sheet has no column 'recipy'"),
        ({"options": {"points": 1}}, "points: must be between 3 and 1001"),
        ({"rows": {"run": "data"}}, "matches run 'data', which is neither trained here nor a teacher"),
        ({"function": "barrier.py:LIEN"}, "has no 'LIEN' (did you mean 'LINE'?)"),
        ({"function": "barier.py:LINE"}, "no such file 'barier.py'"),
        (None, "no analysis 'barriers'"),
    ],
)
def test_fault_is_one_line_before_anything_runs(preset, change, message):
    alone = {"tables": [], "figures": ["mini-barrier"], "claims": None, "experiments": None}
    analyses = {"barriers": dataclasses.asdict(preset.settings.analyses["barriers"]) | change} if change else {}
    with pytest.raises(UserError) as caught:
        check_preset(changed(preset, analyses=analyses, **alone))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_analysis_of_another_network_is_found(tmp_path):
    files = {
        "teacher": tmp_path / "teachers/t/network.safetensors",
        "network": tmp_path / "students/s/network.safetensors",
    }
    for role, path in files.items():
        write_tensors(path, {"w": torch.tensor([float(ord(role[0]))])}, {"name": role})
    asked = {role: f"results/x/{path.relative_to(tmp_path)}" for role, path in files.items()}
    write_json(tmp_path / "specs/analyses/barriers/s.json", asked)
    inputs = {role: sha256_file(path) for role, path in files.items()}
    record = {"format": ANALYSIS_FORMAT, "run": "s", "facts": {}, "curves": CURVES, "inputs": inputs}
    write_hashed_json(tmp_path / "analyses/barriers/s.json", record)
    report = verify(tmp_path)
    assert (report.faults, report.counts["parents that are here"]) == ([], 2)
    write_tensors(files["network"], {"w": torch.tensor([0.0])}, {"name": "student"})
    (fault,) = verify(tmp_path).faults
    assert fault.startswith("analyses/barriers/s.json: was made from another network than students/s/network.safe")


def test_stored_curves_come_back(tmp_path):
    results, stored = tmp_path / "results", tmp_path / "stored"
    results.mkdir()
    write_csv(results / "measurements.csv", measurement_lines(1, 10, {"b": (1, {"fd": 5.0})}))
    record = {"format": ANALYSIS_FORMAT, "run": "b", "facts": {}, "curves": CURVES}
    write_hashed_json(results / "analyses/barriers/b.json", record)
    store(results, stored, {}, {})
    assert read_analysis(stored / "analyses/barriers/b.json")["curves"] == CURVES
    # A study without any has no such file, and loses an old one.
    (results / "analyses/barriers/b.json").unlink()
    store(results, stored, {}, {})
    assert not (stored / "analyses").exists()
