"""Experiments as data: what a file may say, and when a prediction was there before its measurement."""

import pytest
import yaml

from eval.claims.experiments import load_experiments
from eval.claims.model import load_claims
from eval.claims.verdicts import claim_rows
from eval.results.sheet import SheetRow
from tests.eval.claims.evidence import experiment
from tests.eval.refused import refused

ALPHA = experiment("alpha", {"T-1": "supported", "T-2": "undecided"})
OTHER = ALPHA | {"id": "other", "predicted": {"T-3": "contradicted"}}


@pytest.fixture
def write(tmp_path):
    def write(*entries, text: str = ""):
        path = tmp_path / "experiments.yaml"
        path.write_text(text or yaml.safe_dump({"experiments": list(entries)}, allow_unicode=True))
        return path

    return write


def test_a_file_of_experiments(write):
    alpha, other = load_experiments(write(ALPHA | {"tables": ["t"], "plan": ["figures/figure1.pdf"]}, OTHER))
    assert alpha.claims == ("T-1", "T-2")  # the one that it was made for first
    assert (alpha.tables, alpha.figures, alpha.plan) == (("t",), (), ("figures/figure1.pdf",))
    assert other.predicted == {"T-3": "contradicted"}


@pytest.mark.parametrize(
    ("entries", "place", "word"),
    [
        ([ALPHA | {"prediction": " "}], "[0] (alpha).prediction", "before it runs"),
        ([ALPHA | {"predicted": {}}], "[0] (alpha).predicted", "no claim"),
        ([ALPHA | {"predicted": {"T-1": "true"}}], "[0] (alpha).predicted.T-1", "one of supported"),
        ([ALPHA | {"written": "today"}], "[0] (alpha).written", "a day"),
        ([ALPHA | {"written": "2026-02-30"}], "[0] (alpha).written", "2026-02-30"),
        ([ALPHA | {"id": "A b"}], "[0] (A b).id", "a-z"),
        ([ALPHA, ALPHA], "[1] (alpha).id", "twice"),
        ([ALPHA, OTHER | {"predicted": {"T-2": "supported"}}], "[1] (other).predicted", "'alpha'"),
        ([[]], "[0]", "mapping"),
        ([{k: v for k, v in ALPHA.items() if k != "limits"}], "[0] (alpha).limits", "missing"),
    ],
)
def test_a_faulty_file_is_one_line(write, entries, place, word):
    path = write(*entries)
    assert refused(word, load_experiments, path).place == f"{path}: experiments{place}"


@pytest.mark.parametrize(
    ("written", "measured", "before"),
    [
        ("2026-11-21", "2026-11-20T23:59:59Z", False),
        ("2026-11-21", "2026-11-21T00:00:00Z", True),  # a day does not tell when
        ("2026-11-21", "2026-11-20", False),
        ("2026-11-21T02:40Z", "2026-11-21T02:39:59Z", False),
        ("2026-11-21T02:40Z", "2026-11-21T02:40:00Z", True),
        ("2026-11-21T02:40:00Z", "2026-11-21T02:39:59Z", False),
        ("2026-11-21T02:40Z", "2026-11-21", True),
        ("2026-11-21T02:40Z", "2026-11-20", False),
    ],
)
@pytest.mark.parametrize("quoted", [True, False])
def test_a_measurement_answers_what_was_predicted_before(write, written, measured, before, quoted):
    text = yaml.safe_dump({"experiments": [ALPHA | {"written": "WHEN"}]})
    path = write(text=text.replace("WHEN", f"'{written}'" if quoted and len(written) < 20 else written))
    (experiment,) = load_experiments(path)
    assert experiment.foreseen(measured) is before


def test_rows_of_claims_are_those_of_every_operand(tmp_path):
    parts = [
        {"rule": "LT", "a": {"run": "a"}, "b": {"where": {"method": "sid", "seed": 1}}},
        {"rule": "REACHES", "a": {"run": "d"}, "images": 1, "level": {"run": "e"}},
    ]
    claims = {"claims": [{"id": "T-1", "scope": "digits", "statement": "s", "parts": parts}]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(claims))
    runs = {name: SheetRow(run=name, label=name, method="sid", seed=seed) for seed, name in enumerate("ebdacf")}
    assert claim_rows(load_claims(tmp_path / "claims.yaml"), runs) == ["e", "b", "d", "a"]
    assert claim_rows([], runs) == []
