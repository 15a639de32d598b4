"""``sida-eval power``: by numbers, of stored studies, and what the documentation shows of it."""

from __future__ import annotations

import json
import re

import pytest

from sida.config.resources import ROOT
from workflow.cli import eval_main as main


def test_the_example_of_the_documentation_is_what_the_command_prints(capsys):
    text = (ROOT / "docs" / "reference" / "statistics.md").read_text()
    command, output = re.search(r"    \$ sida-eval (power [^\n]*)\n((?:    [^\n]+\n)+)", text).groups()
    assert main(command.split()) == 0
    assert capsys.readouterr().out == re.sub(r"^    ", "", output, flags=re.M)


def test_numbers_as_json(capsys):
    assert main(["power", "--effect", "0.5", "--std", "1", "--seeds", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["needed"] == 64
    assert found["power"] == pytest.approx(0.801, abs=1e-3)


def test_a_stored_study_says_what_it_cannot_plan(capsys):
    assert main(["power", "--store", str(ROOT / "studies/demo/stored")]) == 0
    out = capsys.readouterr().out
    assert "D-10: one training seed" in out
    assert main(["power", "--store", str(ROOT / "studies/demo/stored"), "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["claim"], plan["difference"]) == ("D-10", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("power", "either --store .* or --effect"),
        ("power --store x --effect 1 --std 1", "either --store .* or --effect"),
        ("power --effect 1", "needs --std"),
        ("power --effect 1 --std 1 --seeds 1", "1 training seeds have no interval"),
        ("power --store nowhere", "no preset 'nowhere'"),
    ],
)
def test_faults_are_one_line(words, message, capsys):
    assert main(words.split()) != 0
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert len(err.strip().splitlines()) == 1
