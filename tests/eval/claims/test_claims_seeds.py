"""TRAIN over seeds and teachers: the interval that decides, and what the evidence says."""

from __future__ import annotations

import pytest

from eval.claims import Claim, Evidence, Operand, Part, decide
from eval.results.summary import Measurements
from sida.sheet import Run
from tests.eval.claims.test_claims_rules import PUBLISHED, lines, spread

TRAIN = {"rule": "TRAIN", "metric": "fd", "a": Operand(where={"recipe": "a"}), "b": Operand(where={"recipe": "b"})}


def seeds(**values):
    """Evidence of runs ``{recipe}_{teacher}=[value of each training seed]``."""
    rows, sheet = [], {}
    for key, means in values.items():
        recipe, _, teacher = key.partition("_")
        for seed, mean in enumerate(means):
            name = f"{key}-s{seed}"
            rows += lines(name, spread(mean, 0.01))
            sheet[name] = Run(
                run=name, label=recipe, method="sid", sampler="x", recipe=recipe, teacher=teacher, seed=seed
            )
    return Evidence(Measurements(rows, "m.csv"), sheet, PUBLISHED)


def finding(evidence, **part):
    (verdict,) = decide([Claim("X", "x", "test", (Part(**TRAIN | part),))], evidence)
    return verdict.findings[0]


def test_the_interval_decides_and_not_two_standard_errors():
    # Difference 1 with a standard error of 0.408 and four degrees of freedom: 2.45 of them, but t is 2.776.
    near = seeds(a_t=[0.5, 1.0, 1.5], b_t=[1.5, 2.0, 2.5])
    found = finding(near)
    assert found.outcome == "not decided here"
    assert found.numbers["low"] == pytest.approx(1 - 2.776 * 0.40825, abs=1e-3)
    assert found.numbers["df"] == pytest.approx(4)
    far = finding(seeds(a_t=[0.5, 1.0, 1.5], b_t=[1.7, 2.2, 2.7]))
    assert far.outcome == "supported"
    assert "gain 1.2, 95 % interval 0.0665 to 2.33; 2.4 standard deviations over seeds" in far.evidence
    assert finding(seeds(b_t=[0.5, 1.0, 1.5], a_t=[1.7, 2.2, 2.7])).outcome == "contradicted"
    assert finding(seeds(b_t=[0.5, 1.0, 1.5], a_t=[1.7, 2.2, 2.7]), direction="higher").outcome == "supported"


def test_seeds_are_compared_within_teachers():
    two = seeds(a_t=[1.0, 1.2, 0.8], a_u=[3.0, 3.2, 2.8], b_t=[1.5, 1.7, 1.3], b_u=[3.7, 3.9, 3.5])
    found = finding(two)
    assert found.outcome == "supported"
    assert found.numbers["teachers"] == 2
    assert found.evidence.endswith("; by teacher 0.5 (t), 0.7 (u)")


def test_a_teacher_of_one_side_alone_is_not_compared():
    found = finding(seeds(a_t=[1.0, 1.2, 0.8], a_u=[3.0, 3.2, 2.8], b_t=[1.5, 1.7, 1.3]))
    assert found.outcome == "not decided here"
    assert "only one side of the difference has runs of u" in found.evidence
