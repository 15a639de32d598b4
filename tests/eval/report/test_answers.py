"""Answers to experiments: of predictions that held, of some that did not, and of some that came too late."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from eval.claims.experiments import load_experiments
from eval.commands import main
from eval.report.answers import answer_block, answers_of, answers_table
from eval.results.summary import load_measurements
from sida.errors import UserError
from sida.files.atomic import read_hashed_json
from tests.eval.synthetic_output import measurement_lines, write_csv

RUNS = "run\tlabel\tmethod\tsampler\nsida\tSiDA\tsida\tone\nsid\tSiD\tsid\tone\nteacher\tTeacher\tteacher\theun\n"
TRUTH = {"sida": (1, {"fd": 5.0}), "sid": (1, {"fd": 7.0}), "teacher": (35, {"fd": 9.0})}
CLAIMS = """
claims:
  - id: T-1
    scope: digits
    statement: SiDA | better than SiD.
    parts: [{rule: LT, metric: fd, a: {run: sida}, b: {run: sid}}]
  - id: T-2
    scope: digits
    statement: The teacher is better than SiD.
    parts: [{rule: LT, metric: fd, a: {run: teacher}, b: {run: sid}}]
  - {id: T-3, scope: digits, statement: Unknown., reason: Nobody measures it.}
"""
EXPERIMENTS = """
experiments:
  - id: advantage
    title: The advantage
    question: Is SiDA better?
    prediction: It is, and the teacher, too.
    predicted: {T-1: supported, T-2: supported}
    written: 2030-01-01T12:00Z
    tables: [main]
    figures: [curve, other]
    limits: Two generators.
    paper_scale: Three seeds of each.
    plan: [figures/figure1.pdf]
  - id: open
    title: Open
    question: What else?
    prediction: Nothing.
    predicted: {T-3: undecided}
    written: 2030-01-01
    limits: All.
"""


@pytest.fixture
def made(tmp_path):
    """Decides the claims from measurements of a time; returns the answers."""

    def made(date="2030-01-01T12:00:30Z", without=(), later=()):
        truth = {run: values for run, values in TRUTH.items() if run not in without}
        lines = [*measurement_lines(5, 100, truth, date)]
        lines = [line | ({"date": "2030-01-02T00:00:00Z"} if line["run"] in later else {}) for line in lines]
        write_csv(tmp_path / "measurements.csv", lines)
        for name, text in (("runs.tsv", RUNS), ("claims.yaml", CLAIMS), ("experiments.yaml", EXPERIMENTS)):
            (tmp_path / name).write_text(text)
        inputs = ["--measurements", str(tmp_path / "measurements.csv"), "--runs", str(tmp_path / "runs.tsv")]
        claims = ["--claims", str(tmp_path / "claims.yaml"), "--out", str(tmp_path / "claims.md")]
        assert main(["claims", *claims, *inputs]) == 0
        experiments = load_experiments(tmp_path / "experiments.yaml")
        return answers_of(experiments, tmp_path / "claims.json", load_measurements(tmp_path / "measurements.csv"))

    return made


def test_a_claim_whose_rows_are_not_measured_is_neither_as_predicted_nor_otherwise(made):
    advantage, _ = made(without=["teacher"])
    assert [claim.waits for claim in advantage.claims] == [False, True]
    assert advantage.summary == "1 of 2 claims as predicted, 1 not measured yet"
    assert "… not measured yet" in answer_block(advantage)
    assert "1 not measured yet" in answers_table([advantage])
    assert "**" not in answers_table([advantage])


def test_answers_are_the_verdicts_beside_the_predictions(made):
    advantage, other = made()
    assert [(claim.id, claim.predicted, claim.verdict) for claim in advantage.claims] == [
        ("T-1", "supported", "supported"),
        ("T-2", "supported", "contradicted"),
    ]
    assert advantage.summary == "1 of 2 claims as predicted"
    assert re.fullmatch(r"T-1: fd \+[12]\.\d\d? \[\+\d\.\d+, \+\d\.\d+\], p < 0.0001", advantage.effect)
    assert advantage.days == "2030-01-01"
    assert (other.summary, other.effect, other.days) == ("1 of 1 claim as predicted", "–", "")
    for answer in (advantage, other):
        answer.require_foreseen()


@pytest.mark.parametrize("date", ["2030-01-01T11:59:59Z", "2029-12-31"])
def test_an_answer_that_was_there_before_its_prediction_is_refused(made, date):
    advantage, other = made(date)
    with pytest.raises(UserError, match=r"experiment 'advantage': row '\w+' .* before the prediction was written"):
        advantage.require_foreseen()
    assert "no test of it" in answer_block(advantage)
    other.require_foreseen()  # nothing was measured for it
    asked = dataclasses.replace(advantage, experiment=dataclasses.replace(advantage.experiment, stored=True))
    asked.require_foreseen()
    assert "no test of it" in answer_block(asked)
    assert "as predicted" not in asked.summary


def test_a_comparison_is_open_until_its_last_row_is_measured(made):
    advantage, _ = made("2029-12-31", later=["sid"])
    advantage.require_foreseen()
    only_one, _ = made("2029-12-31", later=["sida"])
    with pytest.raises(UserError, match=r"row '(teacher|sid)'"):
        only_one.require_foreseen()
    advantage, _ = made("2029-12-31", without=["sid"])
    advantage.require_foreseen()


def test_one_screen_of_answers(made):
    head, _, first, second = answers_table(made(), "page.md#").splitlines()
    assert head == "| question | first claim | effect | all claims |"
    cells = first.strip("| ").split(" | ")
    assert cells[:2] == ["[Is SiDA better?](page.md#advantage)", "✓ supported"]
    assert cells[3] == "1 of 2 claims as predicted"
    assert second == "| [What else?](page.md#open) | – not decided here | – | 1 of 1 claim as predicted |"


def test_a_block_says_everything_and_negative_results_like_others(made):
    advantage, other = made()
    text = answer_block(advantage, "p/curve.png", "page.md#", "12 hours", evidence=True)
    order = [
        "**Question.** Is SiDA",
        "**Predicted** (2030-01-01T12:00Z). It is",
        "**Came out** (measured 2030-01-01): 1 of 2",
    ]
    order += [
        "| T-1: SiDA \\| better than SiD. | ✓ supported | ✓ supported | fd +",
        "| ✓ supported | **✗ contradicted** | fd −",
    ]
    order += ["- T-1 ✓ LT: fd", "![The advantage](p/curve.png)", "[figure curve](page.md#figure-curve)"]
    order += ["[table main](page.md#table-main)"]
    order += ["**Limits.** Two", "Three seeds of each: 12 hours (`sida plan figures/figure1.pdf`)."]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "At the paper's scale" not in answer_block(other)
    assert "nothing was measured" in answer_block(other)


def test_verdicts_that_lack_a_claim_are_one_line(made, tmp_path):
    made()
    experiments = load_experiments(tmp_path / "experiments.yaml")
    measured = load_measurements(tmp_path / "measurements.csv")
    record = read_hashed_json(tmp_path / "claims.json")
    (tmp_path / "claims.json").write_text(json.dumps({"claims": record["claims"][1:]}))
    with pytest.raises(UserError, match="no verdict on 'T-1' of experiment 'advantage'"):
        answers_of(experiments, tmp_path / "claims.json", measured)
    del record["claims"][0]["rows"]
    (tmp_path / "claims.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no key 'rows'; decide the claims again"):
        answers_of(experiments, tmp_path / "claims.json", measured)
    with pytest.raises(UserError, match="no verdicts there; decide the claims first"):
        answers_of(experiments, tmp_path / "none.json", measured)
