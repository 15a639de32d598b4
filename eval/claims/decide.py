"""Verdicts from claims and evidence."""

from __future__ import annotations

from collections.abc import Sequence

from eval.claims.evidence import Evidence
from eval.claims.model import UNDECIDED, Claim, Finding, Outcome, Verdict
from eval.claims.rules import decide_part


def decide(claims: Sequence[Claim], evidence: Evidence, source: str = "claims") -> list[Verdict]:
    """Decides each claim by its rules.

    Args:
        claims: What to decide.
        evidence: Measurements, training logs and published numbers.
        source: File named in errors.

    Raises:
        UserError: A part names an unknown published number, or conditions that match several runs.
    """
    verdicts = []
    for claim in claims:
        findings = tuple(
            decide_part(part, evidence, f"{source}: {claim.id}.parts[{number}]")
            for number, part in enumerate(claim.parts)
        ) or (Finding(UNDECIDED, claim.reason),)
        verdicts.append(Verdict(claim, combined(findings, claim.combine), findings))
    return verdicts


def combined(findings: Sequence[Finding], combine: str) -> Outcome:
    """The outcome of several comparisons of which all, or any, must hold."""
    outcomes = {finding.outcome for finding in findings}
    first: Outcome = "contradicted" if combine == "all" else "supported"
    other: Outcome = "supported" if combine == "all" else "contradicted"
    if first in outcomes:
        return first
    return other if outcomes == {other} else UNDECIDED
