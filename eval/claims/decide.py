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
        verdicts.append(Verdict(claim, combined(findings, claim.combine, claim.ties), findings))
    return verdicts


def combined(findings: Sequence[Finding], combine: str, ties: int = 0) -> Outcome:
    """The outcome of several comparisons of which all (but a number of ties), or any, must hold.

    A tie is a comparison that was measured and lies within the noise; one that was not measured never counts.
    """
    outcomes = [finding.outcome for finding in findings]
    if combine == "any":
        if "supported" in outcomes:
            return "supported"
        return "contradicted" if set(outcomes) == {"contradicted"} else UNDECIDED
    if "contradicted" in outcomes:
        return "contradicted"
    undecided = [finding for finding in findings if finding.outcome == UNDECIDED]
    tolerated = len(undecided) <= ties and all(finding.numbers for finding in undecided)
    return "supported" if tolerated and "supported" in outcomes else UNDECIDED
