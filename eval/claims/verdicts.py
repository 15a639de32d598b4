"""Decides claims by their rules, and writes the files of ``sida claims``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eval.claims.evidence import Evidence
from eval.claims.model import (
    DEPENDS,
    UNDECIDED,
    Claim,
    Finding,
    Measured,
    Outcome,
    Rule,
    Verdict,
    load_claims,
    verdict_counts,
)
from eval.claims.write import write_verdicts
from eval.effects.contrast import NotMeasuredError, survivors
from eval.results.published import load_published
from eval.results.sheet import SheetRow, matching, read_runs
from eval.results.summary import Measurements, load_measurements
from sida.errors import UserError, suggestion

#: Words for the operands of a comparison.
_OPERANDS = {"a": "A", "b": "B", "level": "the level"}


def decide_part(part: Rule, evidence: Evidence, where: str) -> Finding:
    """Decides a comparison; without a measurement the outcome is 'not decided here' with the reason."""
    try:
        compared = evidence.identities(part, where) if isinstance(part, Measured) else {}
        finding = part.decide(evidence, where)
    except NotMeasuredError as reason:
        return Finding(UNDECIDED, f"{reason}")
    except ZeroDivisionError:
        return Finding(UNDECIDED, "there is no ratio to a value of 0")
    if not isinstance(part, Measured) or not part.across:
        return finding
    named = "; ".join(f"{_OPERANDS[key]} under {identity}" for key, identity in compared.items())
    return dataclasses.replace(finding, evidence=f"{finding.evidence}; {named} ({part.across})")


def decide(claims: Sequence[Claim], evidence: Evidence, source: str = "claims") -> list[Verdict]:
    """Decides each claim by its rules.

    Args:
        claims: Claims to decide.
        evidence: Measurements, training logs and published numbers.
        source: File named in errors.

    Raises:
        UserError: A part names an unknown published number, or conditions that match several runs.
    """
    verdicts = []
    for claim in claims:
        known = dataclasses.replace(evidence, repeats=claim.repeats)
        findings = tuple(
            decide_part(part, known, f"{source}: {claim.id}.parts[{number}]") for number, part in enumerate(claim.parts)
        ) or (Finding(UNDECIDED, claim.reason),)
        named, measured = claim_rows([claim], evidence.runs), evidence.measurements.runs
        rows = tuple(row for row in named if row in measured)
        missing = tuple(row for row in named if row not in measured)
        verdicts.append(Verdict(claim, combined(findings, claim.combine, claim.ties), findings, rows, missing))
    return _corrected(verdicts)


def _corrected(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts with ``chance``, and findings with the number ``survives``, by all comparisons that have a p value."""
    tests = [finding for verdict in verdicts for finding in verdict.findings if "p" in finding.numbers]
    kept = {id(test): stands for test, stands in zip(tests, survivors([test.numbers["p"] for test in tests]))}

    def marked(finding: Finding) -> Finding:
        known = {"survives": kept[id(finding)]} if id(finding) in kept else {}
        return dataclasses.replace(finding, numbers=finding.numbers | known)

    def without_chance(finding: Finding) -> Finding:
        chance = finding.outcome != UNDECIDED and not kept.get(id(finding), True)
        return dataclasses.replace(finding, outcome=UNDECIDED) if chance else finding

    result = []
    for verdict in verdicts:
        sure = combined([*map(without_chance, verdict.findings)], verdict.claim.combine, verdict.claim.ties)
        findings = tuple(map(marked, verdict.findings))
        result.append(dataclasses.replace(verdict, findings=findings, chance=sure != verdict.outcome))
    return result


def combined(findings: Sequence[Finding], combine: str, ties: int = 0) -> Outcome:
    """Verdict from several comparisons of which all (except a number of ties), or any, must hold.

    A tie is a measured comparison within the noise. A comparison that was not measured is no tie.
    """
    outcomes = [finding.outcome for finding in findings]
    if combine == "any":
        if "supported" in outcomes or DEPENDS in outcomes:
            return "supported" if "supported" in outcomes else DEPENDS
        return "contradicted" if set(outcomes) == {"contradicted"} else UNDECIDED
    if "contradicted" in outcomes or DEPENDS in outcomes:
        return "contradicted" if "contradicted" in outcomes else DEPENDS
    undecided = [finding for finding in findings if finding.outcome == UNDECIDED]
    tolerated = len(undecided) <= ties and all(finding.numbers for finding in undecided)
    return "supported" if tolerated and "supported" in outcomes else UNDECIDED


def decide_claims(
    claims: str | Path,
    out: str | Path,
    *,
    measurements: str | Path | None = None,
    runs: str | Path | None = None,
    results: str | Path | None = None,
    scope: str | None = None,
    published: str | Path | None = None,
) -> tuple[list[Path], str]:
    """Writes ``.md``, ``.json`` and ``.html``; returns their paths and a summary of the verdicts.

    Args:
        claims: Claims and rules (``studies/papers/claims.yaml``).
        out: The ``.md`` file; the other files are written beside it.
        measurements: ``measurements.csv``; None decides by the published numbers alone.
        runs: Sample sheet.
        results: Results of the preset; ``students/<run>/`` holds the training logs.
        scope: Scope of the claims to decide; by default the scope that names most of the measured runs.
        published: Folder of published numbers; by default ``results/published``.

    Raises:
        UserError: Faulty claims, measurements or sheet, or an unknown scope.
    """
    known = load_claims(claims)
    measured = load_measurements(measurements) if measurements else Measurements([], "no measurements")
    sheet = {run.run: run for run in read_runs(runs)} if runs else {}
    students = Path(results) / "students" if results else None
    evidence = Evidence(measured, sheet, load_published(published), students)
    scope = scope or main_scope(known, evidence)
    chosen = [claim for claim in known if claim.scope == scope]
    if not chosen:
        scopes = {claim.scope for claim in known}
        raise UserError(f"--scope {scope}", f"no claim has this scope{suggestion(scope, scopes)}")
    verdicts = decide(chosen, evidence, str(claims))
    printed = decide(chosen, dataclasses.replace(evidence, by_published=True), str(claims)) if scope == "paper" else []
    protocols = sorted({row.protocol for row in measured.rows})
    about = f"Measured under the protocol {', '.join(protocols)}" if protocols else "Nothing was measured"
    text = f"{about}. The statements are about {'the papers’ data sets' if scope == 'paper' else scope}"
    text += "." if scope == "paper" else ", not about the papers' data sets."
    paths = write_verdicts(verdicts, out, printed, text)
    counts = verdict_counts(v.outcome for v in verdicts)
    return paths, counts


def main_scope(claims: list[Claim], evidence: Evidence) -> str:
    """Scope whose claims name most of the measured runs; ``paper`` if nothing was measured and there are several."""
    counts = {claim.scope: 0 for claim in claims}
    for claim in claims:
        for part in claim.parts:
            for operand in part.operands.values():
                named = operand.run in evidence.measurements.runs
                found = operand.where is not None and bool(matching(evidence.runs, operand.where))
                counts[claim.scope] += named or found
    if len(counts) == 1:
        return next(iter(counts))
    best = max(counts, key=lambda scope: counts[scope])
    return best if counts[best] else "paper"


def claim_rows(claims: Iterable[Claim], runs: Mapping[str, SheetRow]) -> list[str]:
    """Ids of the rows that claims name, by id or by conditions, in the order of the sheet."""
    named: set[str] = set()
    for operand in (operand for claim in claims for part in claim.parts for operand in part.operands.values()):
        if operand.run is not None:
            named.add(operand.run)
        elif operand.where is not None:
            named |= {run.run for run in matching(runs, operand.where)}
    return [name for name in runs if name in named]
