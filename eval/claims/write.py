"""Decides claims, and writes the verdicts: Markdown for people, JSON for programs."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.eval.claims.claim import Claim, load_claims
from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import NO_RULE, UNDECIDED, Finding, Outcome
from sida.eval.claims.rules import RULES, rule_text
from sida.eval.contrasts import survivors
from sida.eval.results.measurements import Measurements, load_measurements
from sida.eval.results.sheet import SheetRow, read_runs
from sida.eval.tables.render import markdown, spelled, template
from sida.files.atomic import json_text, read_hashed_json, write_files
from sida.files.text_files import with_hash

#: Sign of each verdict, in the order in which verdicts are counted.
SIGNS: dict[Outcome, str] = {"supported": "✓", "contradicted": "✗", UNDECIDED: "–"}
VERDICT_MARKS = {outcome: f"{sign} {outcome}" for outcome, sign in SIGNS.items()}
#: Mark of a verdict that does not survive the correction for many comparisons.
CHANCE = "†"


def verdict_counts(outcomes: Iterable[str]) -> str:
    """Counts of verdicts as text: ``17 supported, 9 contradicted, 12 not decided here``."""
    items = list(outcomes)
    return ", ".join(f"{items.count(outcome)} {outcome}" for outcome in SIGNS)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim with the findings of its parts.

    Attributes:
        rows: Measured rows that the claim names.
        chance: Whether the verdict needs a comparison that does not survive the correction of Benjamini and Hochberg.
    """

    claim: Claim
    outcome: Outcome
    findings: tuple[Finding, ...]
    rows: tuple[str, ...]
    chance: bool


def decide(claims: Sequence[Claim], evidence: Evidence, source: str = "claims") -> list[Verdict]:
    """Decides each claim by its comparisons.

    Args:
        claims: Claims to decide.
        evidence: Measurements, training logs and published numbers.
        source: File named in errors.

    Raises:
        UserError: See :meth:`sida.eval.claims.claim.Claim.findings`.
    """
    decided_claims = [(claim, claim.findings(evidence, source)) for claim in claims]
    tests = _tests(findings for _, findings in decided_claims)
    for test, survives in zip(tests, survivors([test["p"] for test in tests])):
        test["survives"] = survives
    verdicts = []
    for claim, findings in decided_claims:
        outcome = combined(findings, claim.ties)
        by_chance = [not finding.numbers.get("survives", True) for finding in findings]
        surviving = [
            dataclasses.replace(one, outcome=UNDECIDED) if chance else one for one, chance in zip(findings, by_chance)
        ]
        rows = tuple(row for row in named_rows(findings, evidence.runs) if row in evidence.measurements.runs)
        verdicts.append(Verdict(claim, outcome, findings, rows, combined(surviving, claim.ties) != outcome))
    return verdicts


def _tests(findings_by_claim: Iterable[Iterable[Finding]]) -> list[dict[str, Any]]:
    """Numbers of the comparisons that have a p value."""
    return [finding.numbers for findings in findings_by_claim for finding in findings if "p" in finding.numbers]


def combined(findings: Sequence[Finding], ties: int) -> Outcome:
    """Verdict from comparisons that must all hold, except for a number of ties.

    A tie is a measured comparison within the noise. A comparison that was not measured is not a tie.
    """
    outcomes = [finding.outcome for finding in findings]
    if "contradicted" in outcomes:
        return "contradicted"
    undecided = [finding for finding in findings if finding.outcome == UNDECIDED]
    tolerated = len(undecided) <= ties and all(finding.numbers for finding in undecided)
    return "supported" if tolerated and "supported" in outcomes else UNDECIDED


def named_rows(findings: Iterable[Finding], runs: Mapping[str, SheetRow]) -> list[str]:
    """Ids of the rows of the sheet that comparisons name, by id or by conditions."""
    operands = (operand for finding in findings for operand in finding.operands)
    return list(dict.fromkeys(run for operand in operands for run in operand.rows_in(runs) if run in runs))


def decide_claims(
    claims: str | Path,
    out: str | Path,
    *,
    measurements: str | Path | None = None,
    runs: str | Path | None = None,
    results: str | Path | None = None,
) -> tuple[list[Path], str]:
    """Writes ``out`` (``.md``) with ``.json`` beside it; returns the paths and the counts of verdicts.

    Args:
        claims: File of claims (``studies/papers/claims.py``).
        out: The ``.md`` file.
        measurements: ``measurements.csv``; None decides by the published numbers alone.
        runs: Sample sheet.
        results: Results of the preset; ``students/<run>/`` holds the training logs.

    Raises:
        UserError: Faulty claims, measurements or sheet, or an ``out`` that does not end in ``.md``.
    """
    out = Path(out)
    if out.suffix != ".md":
        raise UserError(f"--out {out}", "must end in .md", ".json is written beside it")
    measured = load_measurements(measurements) if measurements else Measurements([], "no measurements")
    sheet = {run.run: run for run in read_runs(runs)} if runs else {}
    record = verdicts_of_file(claims, measured, sheet, results)
    texts = verdict_texts(record)
    write_files({out.with_suffix(suffix): text for suffix, text in texts.items()})
    return [out.with_suffix(suffix) for suffix in texts], verdict_counts(one["verdict"] for one in record["claims"])


def verdict_texts(record: Mapping[str, Any]) -> dict[str, str]:
    """The files of verdicts, by suffix."""
    return {".md": verdicts_markdown(record), ".json": json_text(with_hash(record))}


def verdicts_of_file(
    claims: str | Path, measured: Measurements, sheet: Mapping[str, SheetRow], results: str | Path | None
) -> dict[str, Any]:
    """Decides the claims of a file; returns the record of the verdicts.

    Args:
        claims: File of claims.
        measured: Measurements.
        sheet: Sample sheet by run id.
        results: Results of the preset, with the training logs.
    """
    study = load_claims(claims)
    evidence = Evidence(measured, sheet, Path(results) if results else None, retraining=study.retraining)
    verdicts = decide(study.claims, evidence, str(claims))
    by_published = dataclasses.replace(evidence, by_published=True)
    published = {v.claim.id: v for v in decide(study.claims, by_published, str(claims))} if study.printed else {}
    protocols = sorted({row.protocol for row in measured.rows})
    preamble = f"Measured under the protocol {', '.join(protocols)}" if protocols else "Nothing was measured"
    preamble += f". The statements are about {study.about}."
    if retraining := study.retraining:
        percentages = ", ".join(f"{100 * std:g} % of {metric}" for metric, std in retraining.std.items())
        preamble += f" Scatter of a repeated training: {percentages} ({retraining.source})."
    return verdicts_record(verdicts, published, preamble)


def comparisons(verdicts: Sequence[Verdict], published: Mapping[str, Verdict]) -> str:
    """Sentences with the number of comparisons that have a p value, and the number that many comparisons leave."""
    counts = {
        "Here": _p_value_counts(verdicts),
        "By the published numbers alone": _p_value_counts([*published.values()]),
    }
    if not any(counts.values()):
        return ""
    sentences = "".join(f"{where}, {text}. " for where, text in counts.items() if text)
    return (
        f"{sentences}The correction leaves at most 5 % by chance. p is two-sided, of the nearest value that would turn "
        f"the verdict; {CHANCE} marks verdicts that need a comparison that does not survive."
    )


def _p_value_counts(verdicts: Sequence[Verdict]) -> str:
    tests = _tests(verdict.findings for verdict in verdicts)
    if not tests:
        return ""
    significant, surviving = sum(test["p"] < 0.05 for test in tests), sum(test["survives"] for test in tests)
    correction = "the correction of Benjamini and Hochberg"
    return f"{significant} of {len(tests)} p values are below 0.05 and {surviving} survive {correction}"


def marked(verdict: Mapping[str, Any]) -> str:
    """A verdict with its sign, and with a mark if it does not survive many comparisons."""
    return VERDICT_MARKS[verdict["verdict"]] + f" {CHANCE}" * verdict["chance"]


def verdicts_markdown(record: Mapping[str, Any]) -> str:
    """Markdown page of a record: a summary table, each claim with its evidence, and the rules that were used."""
    claims = _for_pages(record["claims"])
    names = {finding["rule"] for claim in claims for finding in claim["findings"]}
    text = template(Path(__file__).with_name("claims.md.jinja")).render(
        record,
        claims=claims,
        counts=verdict_counts(claim["verdict"] for claim in claims),
        printed=any("by_published" in claim for claim in claims),
        rules={name: rule_text(name) for name in sorted(names & RULES.keys())},
        marked=marked,
        signs=SIGNS,
    )
    return markdown(spelled(text))


def _for_pages(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Claims with ``origin``, and ``printed``: the verdict by published numbers, or None where there are none."""
    documents = []
    for claim in claims:
        origin = [f"source: {claim['source']}"] if claim["source"] else []
        origin += [f"mirrors {claim['counterpart']}"] if claim["counterpart"] else []
        by_published = claim.get("by_published")
        # Without any number the published ones decide nothing.
        printed = by_published if by_published and any(f["numbers"] for f in by_published["findings"]) else None
        documents.append({**claim, "origin": "; ".join(origin), "printed": printed})
    return documents


def _evidence(verdict: Verdict) -> list[str]:
    """One line per comparison; comparisons without a measurement share one line per reason."""
    lines: list[str] = []
    subjects_of: dict[str, list[str]] = {}
    for finding in verdict.findings:
        if finding.numbers or finding.rule == NO_RULE:
            lines.append(f"{SIGNS[finding.outcome]} {finding.rule}: {finding.evidence}")
        else:
            reason, _, subject = finding.evidence.partition(" of ")
            subjects_of.setdefault(f"{finding.rule}: {reason}", []).append(subject)
    for reason, subjects in subjects_of.items():
        rows = ", ".join(dict.fromkeys(filter(None, subjects)))
        lines.append(f"– {reason}" + (f" of {rows}" if rows else ""))
    return lines


def verdicts_record(verdicts: Sequence[Verdict], published: Mapping[str, Verdict], preamble: str) -> dict[str, Any]:
    """Verdicts as JSON values, with the evidence of each comparison, and the measured rows that they name."""
    records = []
    for verdict in verdicts:
        claim = verdict.claim
        record: dict[str, Any] = {
            name: getattr(claim, name) for name in ("id", "statement", "source", "counterpart", "note")
        }
        record |= _verdict_record(verdict) | {"rows": list(verdict.rows)}
        if by_published := published.get(claim.id):
            record["by_published"] = _verdict_record(by_published)
        records.append(record)
    return {"preamble": preamble, "comparisons": comparisons(verdicts, published), "claims": records}


def _verdict_record(verdict: Verdict) -> dict[str, Any]:
    findings = [
        {"rule": f.rule, "verdict": f.outcome, "evidence": f.evidence, "numbers": f.numbers} for f in verdict.findings
    ]
    return {
        "verdict": verdict.outcome, "chance": verdict.chance, "evidence": _evidence(verdict), "findings": findings
    }  # fmt: skip


def read_verdicts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record of :func:`verdicts_record` with further facts of claims for pages: ``origin`` and ``printed``.

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    record = read_hashed_json(path)
    try:
        return record | {"claims": _for_pages(record["claims"])}
    except (KeyError, TypeError, AttributeError):
        raise UserError(path, "holds something else than verdicts", "decide the claims again (sida claims)") from None
