"""An analysis of a study of one's own: its file, its facts in a claim, and permission for its code."""

import json

import pytest
import yaml

from eval.results.analyses import read_analysis
from sida.config.plugins import ALLOW
from tests.eval.claims.evidence import evidence, outcome
from tests.workflow.workspace import settings_of
from workflow.cli import main
from workflow.preset import Preset
from workflow.preset.outside_code import outside_code_of
from workflow.preset.rehearsal import check_preset

CODE = """
from dataclasses import dataclass
from eval.results.analyses import Analysis, Found
from .helper import TWO

@dataclass(frozen=True, kw_only=True)
class Options:
    factor: float = 1.0

def compute(inputs, options):
    return Found({"double": TWO * options.factor, "none": None}, {"x": [1.0, 2.0]}, {"any": "JSON"})

MINE = Analysis(compute, {"double": "twice the factor", "none": "no number"}, Options)
"""


@pytest.fixture
def study(tmp_path):
    """A folder with an analysis and a preset that names it."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("TWO = 2.0\n")
    settings = settings_of("alpha") | {"claims": None, "experiments": None, "figures": []}
    settings["analyses"] = {"one": {"function": "mine.py:MINE", "options": {"factor": 3.0}}}
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def test_facts_and_curves_are_kept_and_decide_a_claim(study, capsys):
    preset = Preset.load(study / "preset.yaml")
    check_preset(preset)
    out = study / "results/analyses/one.json"
    assert main(["analyse", "--spec", json.dumps(preset.specs.analysis("one")), "--out", str(out)]) == 0
    found = read_analysis(out)
    assert (found["facts"], found["curves"]) == ({"double": 6.0, "none": None}, {"x": [1.0, 2.0]})
    assert found["options"] == {"factor": 3.0}
    known = evidence(students=study / "results/students")
    for low, fact, expected in (
        (6, "double", "supported"),
        (7, "double", "contradicted"),
        (0, "none", "not decided here"),
    ):
        assert outcome(known, rule="FACT", of="one", fact=fact, low=low) == expected


def test_a_change_of_the_code_beside_it_makes_the_analysis_again(study):
    before = Preset.load(study / "preset.yaml").specs.analysis("one")
    (study / "helper.py").write_text("TWO = 2.5\n")
    assert Preset.load(study / "preset.yaml").specs.analysis("one") != before


def test_a_stranger_s_analysis_needs_permission_and_the_checkout_s_own_does_not(study, monkeypatch, refusal):
    monkeypatch.setenv(ALLOW, "")
    (code,) = outside_code_of(study / "preset.yaml")
    assert (code.source, code.allowed) == (str(study / "mine.py"), False)
    with pytest.raises(Exception, match=r"analyses.one.function.*which is not run"):
        Preset.load(study / "preset.yaml")
    spec = {"analysis": "one", "function": f"{study}/mine.py:MINE"}
    assert f"{ALLOW}=" in refusal("analyse", "--spec", json.dumps(spec), "--out", str(study / "x.json"))
    assert not (study / "x.json").exists()
    monkeypatch.setenv(ALLOW, f"{study}/mine.py")
    check_preset(Preset.load(study / "preset.yaml"))
