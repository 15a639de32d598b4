"""Experiments of a preset: checked before the first job, and each a target of its own."""

from __future__ import annotations

import pytest

from sida.errors import UserError
from sida.resources import ROOT
from tests.workflow.test_workflow_preset_check import study
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset

CLAIMS = {
    "claims": [
        {
            "id": "T-1",
            "scope": "digits",
            "statement": "SiDA is better than SiD.",
            "parts": [{"rule": "LT", "metric": "fd", "a": {"run": "sida-a1.0"}, "b": {"run": "sid-a1.0"}}],
        },
        {
            "id": "T-2",
            "scope": "digits",
            "statement": "SiD with α = 1.2 is better than its teacher.",
            "parts": [{"rule": "LT", "metric": "fd", "a": {"run": "sid-a1.2"}, "b": {"run": "teacher-nfe35"}}],
        },
        {"id": "P-1", "scope": "paper", "statement": "About something else.", "reason": "It is."},
    ]
}
ADVERSARIAL = {
    "id": "adversarial",
    "title": "The adversarial term",
    "question": "Does it help?",
    "prediction": "It does.",
    "predicted": {"T-1": "supported"},
    "written": "2026-11-21",
    "figures": ["curve"],
    "limits": "A tiny network.",
}
TEACHER = ADVERSARIAL | {"id": "teacher", "predicted": {"T-2": "contradicted"}, "figures": [], "tables": ["main"]}
CURVE = {
    "kind": "curves",
    "panels": [{"series": [{"each": {"method": "sida"}}, {"each": {"method": "sid", "alpha": 1.0}}]}],
}


def asked(folder, *experiments, claims=CLAIMS, **changes):
    """The tiny preset with experiments."""
    files = {"e.yaml": {"experiments": list(experiments)}, "figures/curve.yaml": CURVE}
    files |= {"c.yaml": claims} if claims else {}
    given = {"claims": "c.yaml" if claims else None, "experiments": "e.yaml", "figures": ["curve"]}
    return study(folder, files, **{**given, **changes})


def test_an_experiment_needs_the_rows_of_its_claims_tables_and_figures_alone(tmp_path):
    preset = asked(tmp_path, ADVERSARIAL, TEACHER)
    check_preset(preset)
    needs = preset.experiment_needs("adversarial")
    assert (needs.measured, needs.networks) == (["sid-a1.0", "sida-a1.0"],) * 2
    assert set(preset.experiment_needs("teacher").measured) == set(preset.runs)  # the main table has all
    spec = preset.experiment_spec("adversarial")
    assert [row["run"] for row in spec["runs"]] == ["sid-a1.0", "sida-a1.0"]
    assert spec["experiment"]["predicted"] == {"T-1": "supported"}


@pytest.mark.parametrize(
    ("experiments", "changes", "message"),
    [
        (
            [ADVERSARIAL | {"predicted": {"T-11": "supported"}}],
            {},
            r"e.yaml: adversarial.predicted: no claim 'T-11' in .*c.yaml \(did you mean 'T-1'\?\)",
        ),
        (
            [ADVERSARIAL | {"figures": ["curves"]}, TEACHER],
            {},
            r"e.yaml: adversarial.figures: 'curves' is not in preset.yaml: figures \(did you mean 'curve'\?\)",
        ),
        ([ADVERSARIAL, TEACHER | {"tables": ["mani"]}], {}, r"teacher.tables: 'mani' is not in .*did you mean 'main'"),
        ([ADVERSARIAL], {}, r"e.yaml: no experiment predicts T-2; name each claim in one"),
        ([ADVERSARIAL, TEACHER | {"predicted": {"P-1": "undecided"}}], {}, r"claims of several scopes: 'digits' \(adv"),
        ([ADVERSARIAL], {"claims": None}, r"experiments are decided by claims, and the preset has none"),
    ],
)
def test_what_an_experiment_names_is_checked_before_the_first_job(tmp_path, experiments, changes, message):
    preset = asked(tmp_path, *experiments, **changes)
    with pytest.raises(UserError, match=message) as caught:
        check_preset(preset)
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_experiments_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"experiments: no such file 'x.yaml'"):
        study(tmp_path, experiments="x.yaml")


def test_presets_need_no_experiments():
    assert Preset.load(ROOT / "config/demo.yaml").experiments == {}
    assert Preset.load(ROOT / "config/miniature.yaml").experiments
