"""Experiments of a preset: checked before the first job, and each a target of its own."""

import dataclasses
import json
import shutil

import pytest

from eval.claims.experiments import load_experiments
from eval.report.answers import answer_block
from eval.results.stored import store
from sida.config.resources import ROOT
from sida.errors import UserError
from tests.eval.synthetic_output import measurement_lines, write_csv
from tests.refused import refusing
from tests.workflow.test_preset_check import study
from workflow.docs.study import Study
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.preset.targets import Targets


def compared(identifier, a, b):
    """A claim that one row has a lower FD than another."""
    part = {"rule": "LT", "metric": "fd", "a": {"run": a}, "b": {"run": b}}
    return {"id": identifier, "scope": "digits", "statement": f"{a} is better than {b}.", "parts": [part]}


OTHER = {"id": "P-1", "scope": "paper", "statement": "About something else.", "reason": "It is."}
CLAIMS = {"claims": [compared("T-1", "sida-a1.0", "sid-a1.0"), compared("T-2", "sid-a1.2", "teacher-nfe35"), OTHER]}
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
    needs = preset.specs.experiment_needs("adversarial")
    assert (needs.measured, needs.networks) == (["sid-a1.0", "sida-a1.0"],) * 2
    assert set(preset.specs.experiment_needs("teacher").measured) == set(preset.runs)  # the main table has all
    spec = preset.specs.experiment("adversarial")
    assert [row["run"] for row in spec["runs"]] == ["sid-a1.0", "sida-a1.0"]
    assert spec["experiment"]["predicted"] == {"T-1": "supported"}


@pytest.mark.parametrize(
    ("experiments", "changes", "fault"),
    [
        ([ADVERSARIAL | {"predicted": {"T-11": "supported"}}], {}, r"e.yaml: adversarial.predicted: .*'T-11' .*'T-1'"),
        ([ADVERSARIAL | {"figures": ["curves"]}, TEACHER], {}, r"e.yaml: adversarial.figures: .*'curve'"),
        ([ADVERSARIAL, TEACHER | {"tables": ["mani"]}], {}, r"teacher.tables: .*'main'"),
        ([ADVERSARIAL], {}, r"e.yaml: .* T-2; "),
        ([ADVERSARIAL, TEACHER | {"predicted": {"P-1": "undecided"}}], {}, r"'digits' \(adv"),
        ([ADVERSARIAL], {"claims": None}, r"experiments .* claims, and the preset has none"),
    ],
)
def test_what_an_experiment_names_is_checked_before_the_first_job(tmp_path, experiments, changes, fault):
    preset = asked(tmp_path, *experiments, **changes)
    with refusing(fault):
        check_preset(preset)


@pytest.fixture
def small(tmp_path):
    """The adversarial question alone."""
    return asked(tmp_path, ADVERSARIAL, claims={"claims": CLAIMS["claims"][:1]})


def test_the_answer_to_an_experiment_is_a_target_that_needs_its_rows_alone(small):
    targets = Targets(small, paper=False)
    assert targets.experiments() == ["results/tiny/experiments/adversarial.json"]
    assert "experiments/adversarial.json" in targets.short
    inputs = targets.answered("adversarial")
    assert inputs["shown"] == [f"results/tiny/figures/curve.{end}" for end in ("pdf", "png", "csv")]
    assert inputs["networks"] == targets.networks(["sid-a1.0", "sida-a1.0"])
    assert inputs["measurements"] == "results/tiny/collected/experiments/adversarial.csv"
    found = Jobs(Costs(small, "CPU", fresh=True)).behind(["experiments/adversarial.json"])
    rows = {(kind, run) for kind in ("measure", "student") for run in ("sid-a1.0", "sida-a1.0")}
    needed = {(job.kind, job.name) for job in found.values() if job.kind != "build"}
    assert needed == rows | {("teacher", "digits-short")}


@pytest.fixture
def stored(tmp_path):
    """Stored results of the tiny preset's two rows, measured at a time."""

    def stored(date: str, written: str = "2030-01-01T12:00Z") -> Study:
        root = tmp_path / "root"
        preset = asked(root, ADVERSARIAL | {"written": written}, claims={"claims": CLAIMS["claims"][:1]})
        changed = dataclasses.asdict(dataclasses.replace(preset.settings, runs="runs.tsv"))
        (root / "preset.yaml").write_text(json.dumps(changed))
        truth = {"sida-a1.0": (1, {"fd": 5.0}), "sid-a1.0": (1, {"fd": 7.0})}
        results, folder = tmp_path / "results", root / "docs" / "tiny" / "data"
        results.mkdir(exist_ok=True)
        write_csv(results / "measurements.csv", measurement_lines(2, 200, truth, date))
        store(results, folder, {"preset": "preset.yaml", "title": "Tiny"}, {})
        unpacked = tmp_path / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir()
        return Study(folder, root, unpacked)

    return stored


def test_docs_write_answers_from_stored_results(stored):
    (answer,) = stored("2030-01-01T12:00:59Z").answers
    block = answer_block(answer)
    assert block.startswith("**Question.** Does it help?\n\n**Predicted** (2030-01-01T12:00Z). It does.")
    assert "1 of 1 claim as predicted" in block


def test_docs_refuse_an_answer_that_was_measured_before_its_prediction(stored):
    study = stored("2030-01-01T11:59:59Z")  # the stored results keep the minute
    with pytest.raises(UserError, match=r"'adversarial': row '.*' .* before the prediction was written"):
        assert study.answers
    assert stored("2030-01-01T11:59:59Z", written="2030-01-01").answers


def test_targets_at_the_paper_s_scale_exist():
    jobs = Jobs(Costs(Preset.load(ROOT / "studies/papers/paper.yaml"), "H200", fresh=True))
    for path in (ROOT / "studies").glob("*/questions.yaml"):
        for experiment in load_experiments(path):
            for target in experiment.plan:
                assert jobs.targets.named(target), f"{path}: {experiment.id}"
