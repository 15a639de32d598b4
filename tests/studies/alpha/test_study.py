"""The analysis of α: its facts, figure and verdicts."""

import json
import math

import pytest

from eval.claims import Evidence, load_claims
from eval.claims.verdicts import decide_part
from eval.figures.build import build_figure
from eval.results.summary import Measurements
from sida.config.resources import ROOT
from sida.errors import UserError
from studies.alpha.model.analysis import NUMBERS
from studies.alpha.model.mixture_training import problem, train
from workflow.cli import eval_main as main

SMALL = {"levels": 6, "mixture_levels": 4, "mixture_points": 16, "mixture_steps": 40, "steps": 300}
SMALL |= {"starts": [0.3, 3.0], "ratios": [0.05, 1.0], "step": 0.05}
FIGURE, SHEET = ROOT / "studies/alpha/figures/alpha.yaml", ROOT / "studies/alpha/runs.tsv"
SPEC = {"analysis": "model", "function": f"{ROOT}/studies/alpha/model/analysis.py:MODEL", "options": SMALL}


# One worker computes the study, which takes ten seconds.
pytestmark = pytest.mark.xdist_group("analytic-study")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    assert main(["analyse", "--spec", json.dumps(SPEC), "--out", str(folder / "analyses/model.json")]) == 0
    return folder


def test_the_study_has_every_number_with_settings_and_origin(results):
    study = json.loads((results / "analyses/model.json").read_text())
    assert set(study["facts"]) == set(NUMBERS)
    assert study["options"]["mixture_steps"] == 40
    assert study["environment"]["code_version"]
    assert study["environment"]["date"]
    assert study["facts"]["identity_projection"] < 1e-9
    assert study["facts"]["closed_form"] < 1e-6
    assert study["facts"]["width_a0.5"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alphas": [0.5]}, "alphas: must include 1.0"),
        ({"alpha": 1}, "alpha: unknown key (did you mean 'alphas'?)"),
        ({"step": 2}, "step: must be above 0 and at most 0.5"),
        ({"scales": [1, 1]}, "scales: must differ"),
        ({"mixture_points": 12}, "mixture_points: must be a power of two"),
        ({"ratios": []}, "ratios: must not be empty"),
    ],
)
def test_faulty_settings_are_one_line(options, said, capsys, tmp_path):
    assert main(["analyse", "--spec", json.dumps(SPEC | {"options": options}), "--out", str(tmp_path / "a.json")]) == 1
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_training_on_the_mixture_comes_near_and_alpha_changes_its_speed():
    found = train(problem(0.8, 0.25, 6, 64, 800.0), [0.0, 1.0], 0.05, 150, None)
    first, last = ([row[number] for row in found["distance"]] for number in (0, -1))
    assert first[0] == first[1] > 5 > 1 > last[0] > last[1]
    assert found["diverged"] == [False, False]
    assert found["cosine"][1] == pytest.approx([1.0] * len(found["steps"]))
    lagging = train(problem(0.8, 0.25, 6, 64, 800.0), [0.0, 1.0], 0.05, 150, 0.3)
    assert lagging["distance"][1][20] > found["distance"][1][20]
    assert math.isnan(lagging["cosine"][0][0])  # ψ is φ there: no slope


def test_the_figure_is_drawn_from_the_file_alone(results, tmp_path):
    paths, remarks = build_figure(FIGURE, SHEET, results, tmp_path / "a.pdf")
    assert [path.suffix for path in paths] == [".pdf", ".png", ".csv"]
    assert not remarks
    lines = paths[2].read_text().splitlines()
    assert lines[0] == "panel,alpha,place,outcome,predicted,content_sha256"
    assert any(line.startswith("starts,-0.25,0.3,") for line in lines)


def test_a_figure_without_its_study_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="sida-eval analyse"):
        build_figure(FIGURE, SHEET, tmp_path, tmp_path / "a.pdf")
    (tmp_path / "analyses").mkdir()
    (tmp_path / "analyses/model.json").write_text("{}")
    with pytest.raises(UserError, match="is not written by"):
        build_figure(FIGURE, SHEET, tmp_path, tmp_path / "a.pdf")


def decided(folder, part: str):
    path = folder / "claims.yaml"
    path.write_text(f"claims:\n  - {{id: X, scope: model, statement: s, parts: [{{rule: FACT, of: model, {part}}}]}}\n")
    (claim,) = load_claims(path)
    return decide_part(claim.parts[0], Evidence(Measurements([], "none"), {}, {}, folder / "students"), "here")


def test_claims_are_decided_by_the_numbers(results, tmp_path):
    assert decided(results, "fact: width_a0.5, low: 0.99, high: 1.01").outcome == "supported"
    assert decided(results, "fact: width_a0.5, low: 1.01").outcome == "contradicted"
    ratio = decided(results, "fact: width_a1, than: width_a0, low: 1.05")
    assert ratio.outcome == "supported"
    assert "ratio" in ratio.evidence
    nothing = decided(results, "fact: needed_ratio_a1.5, low: 0")
    assert nothing.outcome == "not decided here"
    assert "has no least rate" in nothing.evidence
    assert decided(tmp_path, "fact: width_a1, low: 1").evidence == "no analysis model"
