"""Verdicts as a Markdown page for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.claims.amounts import amount
from eval.claims.model import DEPENDS_NOTE, RULES, SIGNS, Finding, Verdict, verdict_counts
from eval.tables.html import to_html
from eval.tables.model import Cell, Column, Row, Table
from eval.tables.text import markdown
from sida.errors import UserError
from sida.files.atomic import write_hashed_json, write_text

VERDICT_MARKS = {outcome: f"{sign} {outcome}" for outcome, sign in SIGNS.items()}
#: Mark of a verdict that does not survive the correction for many comparisons.
CHANCE = "†"
_EXPLANATION = (
    "Every verdict is computed by a rule from measurements with their uncertainty. Rules over evaluation trials (LT, "
    "LTQ, EQ) speak about these generators; statements about training need several training seeds (TRAIN, DIVERGES, "
    "STABLE, TREND, SPREAD)."
)


def write_verdicts(
    verdicts: Sequence[Verdict], out: str | Path, by_published: Sequence[Verdict] = (), preamble: str = ""
) -> list[Path]:
    """Writes ``out`` (``.md``) and its siblings ``.json`` and ``.html``; returns the paths.

    Args:
        verdicts: Verdicts from measurements.
        out: Path of the page.
        by_published: Verdicts on the same claims from the published numbers alone, shown in a separate column.
        preamble: Sentence on what the measurements are about.

    Raises:
        UserError: ``out`` does not end in ``.md``.
    """
    out = Path(out)
    if out.suffix != ".md":
        raise UserError(f"--out {out}: must end in .md; .json is written beside it")
    printed = {verdict.claim.id: verdict for verdict in by_published}
    write_text(out, verdicts_markdown(verdicts, printed, preamble))
    write_hashed_json(out.with_suffix(".json"), verdicts_record(verdicts, printed, preamble))
    write_text(out.with_suffix(".html"), to_html(verdicts_table(verdicts, printed, preamble)))
    return [out, out.with_suffix(".json"), out.with_suffix(".html")]


def verdicts_record(verdicts: Sequence[Verdict], printed: dict[str, Verdict], preamble: str = "") -> dict[str, Any]:
    """Verdicts as JSON values, with their evidence, the effect of each comparison, and the rows that they name."""
    record = {"preamble": preamble, "comparisons": comparisons(verdicts)}
    return record | {"claims": [_json(verdict, printed) for verdict in verdicts]}


def comparisons(verdicts: Sequence[Verdict]) -> str:
    """Sentences with the number of comparisons that have a p value, and the number that many comparisons leave."""
    tests = [finding.numbers for verdict in verdicts for finding in verdict.findings if "p" in finding.numbers]
    if not tests:
        return ""
    below, kept = (sum(found) for found in zip(*((test["p"] < 0.05, test["survives"]) for test in tests)))
    chance = sum(verdict.chance for verdict in verdicts)
    return (
        f"{len(tests)} comparisons have a p value (two-sided, of the nearest value that would turn the verdict): "
        f"{below} are below 0.05, and {kept} survive the correction of Benjamini and Hochberg over all of them (at "
        f"most 5 % of these by chance). {CHANCE} marks verdicts that need one that does not: {chance}."
    )


def marked(verdict: str, chance: bool) -> str:
    """A verdict with its sign, and with a mark if it does not survive many comparisons."""
    return VERDICT_MARKS[verdict] + (f" {CHANCE}" if chance else "")  # type: ignore[index]


def verdicts_table(verdicts: Sequence[Verdict], printed: dict[str, Verdict], preamble: str) -> Table:
    """Table of verdicts and evidence with one row per comparison."""
    heads = ["claim", "statement", "verdict", *(["by the published numbers"] if printed else []), "evidence"]
    rows = []
    for number, verdict in enumerate(verdicts):
        claim = verdict.claim
        cells = [Cell(claim.id), Cell(claim.statement), Cell(marked(verdict.outcome, verdict.chance), bold=True)]
        if printed:
            cells.append(Cell(VERDICT_MARKS[printed[claim.id].outcome]))
        for i, line in enumerate(_evidence(verdict) or [""]):
            shown = cells if i == 0 else [Cell(kind="blank")] * len(cells)
            rows.append(Row((*shown, Cell(line)), rule=i == 0 and number > 0))
    columns = tuple(Column(head) for head in heads)
    notes = (_EXPLANATION, *filter(None, (comparisons(verdicts), _depends(verdicts))))
    return Table("claims", "Claims", preamble, "measured", columns, tuple(rows), notes)


def _depends(verdicts: Sequence[Verdict]) -> str:
    return DEPENDS_NOTE if any("teachers_p" in f.numbers for one in verdicts for f in one.findings) else ""


def verdicts_markdown(verdicts: Sequence[Verdict], printed: dict[str, Verdict], preamble: str) -> str:
    """Markdown page: a summary table, each claim with its evidence, and the rules that were used."""
    counts = verdict_counts(v.outcome for v in verdicts)
    lines = ["# Claims", "", *([preamble, ""] if preamble else []), f"{counts}.", "", _EXPLANATION, ""]
    lines += [line for note in (comparisons(verdicts), _depends(verdicts)) if note for line in (note, "")]
    head = ["claim", "statement", "verdict"] + (["by the published numbers"] if printed else [])
    lines += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for verdict in verdicts:
        cells = [verdict.claim.id, verdict.claim.statement, marked(verdict.outcome, verdict.chance)]
        if printed:
            cells.append(VERDICT_MARKS[printed[verdict.claim.id].outcome] if verdict.claim.id in printed else "")
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    lines += ["", "## Evidence", ""]
    for verdict in verdicts:
        lines += _section(verdict, printed.get(verdict.claim.id))
    used = sorted({part.rule for verdict in verdicts for part in verdict.claim.parts})
    lines += ["## Rules", "", *(f"- **{rule}**: {RULES[rule]}." for rule in used)]
    return markdown("\n".join(lines)) + "\n"


def _section(verdict: Verdict, printed: Verdict | None) -> list[str]:
    claim = verdict.claim
    origin = [f"source: {claim.source}"] if claim.source else []
    for word, theirs in (("mirrors", claim.counterpart), ("opposite of", claim.opposite), ("beside", claim.related)):
        origin += [f"{word} {theirs}"] if theirs else []
    lines = [f"### {claim.id}: {marked(verdict.outcome, verdict.chance)}", ""]
    lines += [claim.statement + (f" ({'; '.join(origin)})" if origin else ""), ""]
    lines += _bullets(verdict)
    if printed is not None and any(finding.numbers for finding in printed.findings):
        lines += ["", f"By the published numbers alone: {VERDICT_MARKS[printed.outcome]}.", ""]
        lines += [f"- {SIGNS[f.outcome]} {f.evidence}" for f in printed.findings]
    return [*lines, *(["", claim.note] if claim.note else []), ""]


def _bullets(verdict: Verdict) -> list[str]:
    """One line per comparison; comparisons without a measurement share one line per reason."""
    lines: list[str] = []
    absent: dict[str, list[str]] = {}
    for number, finding in enumerate(verdict.findings):
        rule = verdict.claim.parts[number].rule if verdict.claim.parts else "no rule"
        if finding.numbers or not verdict.claim.parts:
            lines.append(f"- {SIGNS[finding.outcome]} {rule}: {finding.evidence}")
        else:
            reason, _, subject = finding.evidence.partition(" of ")
            absent.setdefault(f"{rule}: {reason}", []).append(subject)
    for reason, subjects in absent.items():
        named = ", ".join(dict.fromkeys(filter(None, subjects)))
        lines.append(f"- – {reason}" + (f" of {named}" if named else ""))
    return lines


def _evidence(verdict: Verdict) -> list[str]:
    return [line.removeprefix("- ") for line in _bullets(verdict)]


def _json(verdict: Verdict, printed: dict[str, Verdict]) -> dict[str, Any]:
    claim = verdict.claim
    record: dict[str, Any] = {
        "id": claim.id,
        "scope": claim.scope,
        "statement": claim.statement,
        "source": claim.source,
        "counterpart": claim.counterpart,
        "note": claim.note,
        "verdict": verdict.outcome,
        "chance": verdict.chance,
        "evidence": _evidence(verdict),
        "findings": _findings(verdict),
        "rows": list(verdict.rows),
        "unmeasured": list(verdict.unmeasured),
    }
    if claim.id in printed:
        record["by_published"] = {
            "verdict": printed[claim.id].outcome,
            "evidence": _evidence(printed[claim.id]),
            "findings": _findings(printed[claim.id]),
        }
    return record


def _findings(verdict: Verdict) -> list[dict[str, Any]]:
    if not verdict.claim.parts:
        return [_finding(finding, "no rule", None) for finding in verdict.findings]
    pairs = zip(verdict.claim.parts, verdict.findings)
    return [_finding(finding, part.rule, amount(part, finding)) for part, finding in pairs]


def _finding(finding: Finding, rule: str, effect: dict[str, Any] | None) -> dict[str, Any]:
    common = {"rule": rule, "verdict": finding.outcome, "evidence": finding.evidence}
    return common | {"numbers": finding.numbers, "effect": effect}
