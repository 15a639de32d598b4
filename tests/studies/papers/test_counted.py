"""Facts that the papers' claims are about, computed as the study computes them, and the claims that they decide."""

from __future__ import annotations

import pytest

from eval.claims import load_claims
from eval.results.analyses import analyse
from sida.config.resources import ROOT
from tests.eval.claims.evidence import evidence, verdict

PAPERS = ROOT / "studies" / "papers"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    spec = {"analysis": "counted", "function": f"{PAPERS}/analyses.py:COUNTED"}
    analyse(spec, folder / "analyses" / "counted.json")
    return folder


def test_each_claim_about_a_fact_holds_and_could_fail(results):
    about = [claim for claim in load_claims(PAPERS / "claims.yaml") if any(part.facts for part in claim.parts)]
    assert about
    found = evidence(students=results / "students")
    for claim in about:
        for part in (part for part in claim.parts if part.facts):
            for low, high, expected in ((part.low, part.high, "supported"), (9, 99, "contradicted")):
                decided = verdict(found, rule="FACT", of=part.of, fact=part.fact, low=low, high=high)
                assert decided.outcome == expected, (part.fact, decided.findings)
