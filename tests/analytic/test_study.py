"""``sida analytic`` and what is made of its file: the figure, verdicts and numbers in the documentation."""

from __future__ import annotations

import json
import math

import pytest

from eval.claims import Evidence, load_claims
from eval.claims.rules import decide_part
from eval.figures.build import build_figure
from eval.results.summary import Measurements
from sida.analytic.mixture_training import problem, train
from sida.analytic.numbers import NUMBERS
from sida.cli.main import main
from sida.config.resources import ROOT
from sida.errors import UserError

SMALL = {"levels": 6, "mixture_levels": 4, "mixture_points": 16, "mixture_steps": 40, "steps": 300}
SMALL |= {"starts": [0.3, 3.0], "ratios": [0.05, 1.0], "step": 0.05}
FIGURE = ROOT / "studies/miniature/figures/mini-analytic.yaml"


# One worker computes the study, which takes ten seconds.
pytestmark = pytest.mark.xdist_group("analytic-study")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    assert main(["analytic", "--spec", json.dumps(SMALL), "--out", str(folder / "analytic.json")]) == 0
    return folder


def test_the_study_has_every_number_with_settings_and_origin(results):
    study = json.loads((results / "analytic.json").read_text())
    assert set(study["numbers"]) == set(NUMBERS)
    assert study["settings"]["mixture_steps"] == 40
    assert study["environment"]["code_version"]
    assert study["environment"]["date"]
    assert study["numbers"]["identity_projection"] < 1e-9
    assert study["numbers"]["closed_form"] < 1e-6
    assert study["numbers"]["width_a0.5"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "alphas=[0.5]"], "--set alphas=[0.5]: must include 1.0"),
        (["--set", "alpha=1"], "unknown key 'alpha' (did you mean 'alphas'?)"),
        (["--set", "step=2"], "--set step=2: must be above 0 and at most 0.5"),
        (["--set", "scales=[1, 1]"], "--set scales=[1, 1]: must differ"),
        (["--set", "mixture_points=12"], "--set mixture_points=12: must be a power of two"),
        (["--set", "ratios=[]"], "--set ratios=[]: must not be empty"),
        (["--spec", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_faulty_settings_are_one_line(words, said, capsys, tmp_path):
    assert main(["analytic", *words, "--out", str(tmp_path / "a.json")]) == 1
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_of_another_kind_is_refused(capsys, tmp_path):
    assert main(["analytic", "--out", str(tmp_path / "a.csv")]) == 1
    assert "must end in .json" in capsys.readouterr().err


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
    paths, remarks = build_figure(FIGURE, ROOT / "studies/miniature/runs.tsv", results, tmp_path / "a.pdf")
    assert [path.suffix for path in paths] == [".pdf", ".png", ".csv"]
    assert not remarks
    lines = paths[2].read_text().splitlines()
    assert lines[0] == "panel,alpha,place,outcome,predicted,content_sha256"
    assert any(line.startswith("starts,-0.25,0.3,") for line in lines)


def test_a_figure_without_its_study_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="sida analytic --out"):
        build_figure(FIGURE, ROOT / "studies/miniature/runs.tsv", tmp_path, tmp_path / "a.pdf")
    (tmp_path / "analytic.json").write_text("{}")
    with pytest.raises(UserError, match="was not written by"):
        build_figure(FIGURE, ROOT / "studies/miniature/runs.tsv", tmp_path, tmp_path / "a.pdf")


def decided(folder, part: str):
    path = folder / "claims.yaml"
    path.write_text(f"claims:\n  - {{id: X, scope: digits, statement: s, parts: [{{rule: ANALYTIC, {part}}}]}}\n")
    (claim,) = load_claims(path)
    return decide_part(claim.parts[0], Evidence(Measurements([], "none"), {}, {}, folder / "students"), "here")


def test_claims_are_decided_by_the_numbers(results, tmp_path):
    assert decided(results, "number: width_a0.5, low: 0.99, high: 1.01").outcome == "supported"
    assert decided(results, "number: width_a0.5, low: 1.01").outcome == "contradicted"
    ratio = decided(results, "number: width_a1, than: width_a0, low: 1.05")
    assert ratio.outcome == "supported"
    assert "ratio" in ratio.evidence
    nothing = decided(results, "number: needed_ratio_a1.5, low: 0")
    assert nothing.outcome == "not decided here"
    assert "has no least rate" in nothing.evidence
    assert decided(tmp_path, "number: width_a1, low: 1").evidence == "no analytic study (sida analytic)"


@pytest.mark.parametrize(
    ("part", "said"), [("number: widht_a1", "widht_a1"), ("low: 1", "needs the name of a number of the analytic study")]
)
def test_faulty_claims_are_refused_when_they_are_read(part, said, tmp_path):
    with pytest.raises(UserError, match=said):
        decided(tmp_path, part)
