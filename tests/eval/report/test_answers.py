"""Answers to experiments: of predictions that held, of some that did not, and of some that came too late."""

import dataclasses
import json
import re

import pytest
import yaml

from eval.claims.experiments import load_experiments
from eval.commands import main
from eval.report.answers import answer_block, answers_of, answers_table
from eval.results.summary import load_measurements
from sida.files.atomic import read_hashed_json
from tests.eval.claims.evidence import experiment
from tests.eval.synthetic_output import measurement_lines, write_csv
from tests.refused import refused

RUNS = "run\tlabel\tmethod\tsampler\nsida\tSiDA\tsida\tone\nsid\tSiD\tsid\tone\nteacher\tTeacher\tteacher\theun\n"
TRUTH = {"sida": (1, {"fd": 5.0}), "sid": (1, {"fd": 7.0}), "teacher": (35, {"fd": 9.0})}
BETTER = {"rule": "LT", "metric": "fd", "b": {"run": "sid"}}
STATEMENTS = {
    "T-1": {"statement": "SiDA | better than SiD.", "parts": [{**BETTER, "a": {"run": "sida"}}]},
    "T-2": {"statement": "The teacher is better than SiD.", "parts": [{**BETTER, "a": {"run": "teacher"}}]},
    "T-3": {"statement": "Unknown.", "reason": "Nobody measures it."},
}
CLAIMS = yaml.safe_dump({"claims": [{"id": key, "scope": "digits", **claim} for key, claim in STATEMENTS.items()]})
SHOWN = {"tables": ["main"], "figures": ["curve", "other"], "plan": ["figures/figure1.pdf"]}
SHOWN |= {"question": "Is SiDA better?", "limits": "Two generators.", "paper_scale": "Three seeds of each."}
FIRST = experiment("advantage", {"T-1": "supported", "T-2": "supported"}, written="2030-01-01T12:00Z", **SHOWN)
SECOND = experiment("open", {"T-3": "undecided"}, question="What else?")
EXPERIMENTS = yaml.safe_dump({"experiments": [FIRST, SECOND]})


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
    refused(r"experiment 'advantage': row '\w+' .* before the prediction was written", advantage.require_foreseen)
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
    refused(r"row '(teacher|sid)'", only_one.require_foreseen)
    advantage, _ = made("2029-12-31", without=["sid"])
    advantage.require_foreseen()


def test_answers_are_a_row_of_a_table_and_a_block_each_also_where_they_are_negative(made):
    advantage, other = made()
    _, _, first, second = answers_table([advantage, other], "page.md#").splitlines()
    assert first.startswith("| [Is SiDA better?](page.md#advantage) | ✓ supported |")
    assert second.startswith("| [What else?](page.md#open) | – not decided here | – |")
    text = answer_block(advantage, "p/curve.png", "page.md#", "12 hours", evidence=True)
    said = ["**Question.** Is SiDA", "2030-01-01T12:00Z", "measured 2030-01-01", "SiDA \\| better than SiD."]
    said += ["**✗ contradicted**", "- T-1 ✓ LT: fd", "![The advantage](p/curve.png)", "(page.md#figure-curve)"]
    said += ["(page.md#table-main)", "**Limits.** Two", "12 hours (`sida plan figures/figure1.pdf`)"]
    places = [text.index(words) for words in said]
    assert places == sorted(places)
    assert "nothing was measured" in answer_block(other)


def test_verdicts_that_lack_a_claim_are_one_line(made, tmp_path):
    made()
    experiments = load_experiments(tmp_path / "experiments.yaml")
    measured = load_measurements(tmp_path / "measurements.csv")
    record = read_hashed_json(tmp_path / "claims.json")
    (tmp_path / "claims.json").write_text(json.dumps({"claims": record["claims"][1:]}))
    refused("'T-1' of experiment 'advantage'", answers_of, experiments, tmp_path / "claims.json", measured)
    del record["claims"][0]["rows"]
    (tmp_path / "claims.json").write_text(json.dumps(record))
    refused("no key 'rows'; decide the claims again", answers_of, experiments, tmp_path / "claims.json", measured)
    refused("no verdicts there; decide the claims first", answers_of, experiments, tmp_path / "none.json", measured)
