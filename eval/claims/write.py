"""Verdicts as a Markdown page for people and as JSON for programs.

Effects of comparisons as text, such as ``fd +1.48 [1.30, 1.66]``.

Reads verdicts of ``sida claims`` without trusting the file: a results folder may come from someone else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.claims.evidence import p_text
from eval.claims.model import DEPENDS_NOTE, SIGNS, Finding, Rule, Verdict, verdict_counts
from eval.tables.model import Cell, Column, Row, Table
from eval.tables.render import markdown, to_html
from sida.errors import UserError
from sida.files.atomic import read_hashed_json, write_hashed_json, write_text


def amount(part: Rule, finding: Finding) -> dict[str, Any] | None:
    """The effect behind a finding with the interval that its rule uses.

    Args:
        part: The comparison. A positive gain supports the claim.
        finding: Outcome of the comparison.

    Returns:
        Name of the quantity (``what``: ``fd``, ``ratio of recall``), its ``value`` and a ``text`` with the interval;
        None if the rule has no such number or nothing was measured.
    """
    numbers, size = finding.numbers, part.effect(finding.numbers)
    if size is None:
        return None
    text = size.text
    if not text:
        text = f"{size.what} {_shown(size.value, _interval(numbers, size.value), size.signed)}"
        text += f", {p_text(numbers['p'])}" if "p" in numbers else ""
        if each := numbers.get("by_teacher"):
            decimals = decimals_of(max(one["high"] - one["low"] for one in each.values()))
            listed = (f"{name} {_number(one['value'], decimals, size.signed)}" for name, one in each.items())
            text += f" ({', '.join(listed)})"
    return {"what": size.what, "value": size.value, "signed": size.signed, "text": text}


def deciding(findings: Sequence[Mapping[str, Any]], verdict: str) -> list[Mapping[str, Any]]:
    """Records of the findings that make a verdict: those with the same outcome; of a supported claim all of them.

    Args:
        findings: Records with ``verdict`` and ``effect``.
        verdict: Verdict on the claim.
    """
    return [one for one in findings if verdict in ("supported", one["verdict"])] or list(findings)


def together(amounts: Sequence[Mapping[str, Any] | None]) -> str:
    """Text for the effects of a claim: its only effect, or the range from the smallest to the largest.

    Args:
        amounts: Effect of each comparison; None if it has no number. The text then says ``2 of 3 comparisons``.
    """
    found = [one for one in amounts if one is not None]
    texts = [_range([one for one in found if one["what"] == what]) for what in dict.fromkeys(a["what"] for a in found)]
    known = "" if len(amounts) == 1 else f" ({len(found)} comparisons)"
    if 0 < len(found) < len(amounts):
        known = f" ({len(found)} of {len(amounts)} comparisons)"
    return "; ".join(texts) + known if texts else ""


def _range(amounts: Sequence[Mapping[str, Any]]) -> str:
    if len(amounts) == 1:
        return str(amounts[0]["text"])
    first, last = min(amounts, key=lambda one: one["value"]), max(amounts, key=lambda one: one["value"])
    decimals = decimals_of(last["value"] - first["value"])
    return f"{first['what']} {' to '.join(_number(one['value'], decimals, one['signed']) for one in (first, last))}"


def _interval(numbers: Mapping[str, Any], value: float) -> tuple[float, float] | None:
    """Interval of a rule, else the value ± the rule's bound for noise; None if the rule has neither."""
    if {"low", "high"} <= numbers.keys():
        return numbers["low"], numbers["high"]
    return (value - numbers["bound"], value + numbers["bound"]) if "bound" in numbers else None


def _shown(value: float, interval: tuple[float, float] | None, signed: bool) -> str:
    if interval is None or not all(map(math.isfinite, interval)):
        return _number(value, 2, signed)
    decimals = decimals_of(interval[1] - interval[0])
    low, high = (_number(end, decimals, signed) for end in interval)
    return f"{_number(value, decimals, signed)} [{low}, {high}]"


def decimals_of(width: float) -> int:
    """Number of decimals that shows half of a width with two digits; at most three."""
    return min(3, max(0, 1 - math.floor(math.log10(width / 2)))) if width > 0 else 2


def _number(value: float, decimals: int, signed: bool) -> str:
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


VERDICT_MARKS = {outcome: f"{sign} {outcome}" for outcome, sign in SIGNS.items()}
#: Mark of a verdict that does not survive the correction for many comparisons.
CHANCE = "†"
_EXPLANATION = (
    "Every verdict is computed by a rule from measurements with their uncertainty. Rules over evaluation trials (LT, "
    "LTQ, EQ) speak about these generators; statements about training need several training seeds (TRAIN, DIVERGES, "
    "STABLE, TREND, LAW, SPREAD)."
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
        raise UserError(f"--out {out}", "must end in .md", ".json is written beside it")
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


def _summary(verdict: Verdict, printed: dict[str, Verdict]) -> list[str]:
    """Claim, statement and verdict, and the verdict by the published numbers if there are some; see ``_HEADS``."""
    cells = [verdict.claim.id, verdict.claim.statement, marked(verdict.outcome, verdict.chance)]
    by = printed.get(verdict.claim.id)
    return [*cells, VERDICT_MARKS[by.outcome] if by else ""] if printed else cells


_HEADS = ("claim", "statement", "verdict", "by the published numbers")


def verdicts_table(verdicts: Sequence[Verdict], printed: dict[str, Verdict], preamble: str) -> Table:
    """Table of verdicts and evidence with one row per comparison."""
    heads, rows = _HEADS[: 4 if printed else 3], []
    for number, verdict in enumerate(verdicts):
        cells = [Cell(text, bold=head == "verdict") for head, text in zip(heads, _summary(verdict, printed))]
        for i, line in enumerate(_evidence(verdict) or [""]):
            shown = cells if i == 0 else [Cell(kind="blank")] * len(cells)
            rows.append(Row((*shown, Cell(line)), rule=i == 0 and number > 0))
    columns = tuple(map(Column, (*heads, "evidence")))
    notes = (_EXPLANATION, *filter(None, (comparisons(verdicts), _depends(verdicts))))
    return Table("claims", "Claims", preamble, "measured", columns, tuple(rows), notes)


def _depends(verdicts: Sequence[Verdict]) -> str:
    return DEPENDS_NOTE if any("teachers_p" in f.numbers for one in verdicts for f in one.findings) else ""


def verdicts_markdown(verdicts: Sequence[Verdict], printed: dict[str, Verdict], preamble: str) -> str:
    """Markdown page: a summary table, each claim with its evidence, and the rules that were used."""
    counts = verdict_counts(v.outcome for v in verdicts)
    lines = ["# Claims", "", *([preamble, ""] if preamble else []), f"{counts}.", "", _EXPLANATION, ""]
    lines += [line for note in (comparisons(verdicts), _depends(verdicts)) if note for line in (note, "")]
    head = _HEADS[: 4 if printed else 3]
    lines += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for verdict in verdicts:
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in _summary(verdict, printed)) + " |")
    lines += ["", "## Evidence", ""]
    for verdict in verdicts:
        lines += _section(verdict, printed.get(verdict.claim.id))
    used = {part.rule: part.text for verdict in verdicts for part in verdict.claim.parts}
    lines += ["## Rules", "", *(f"- **{rule}**: {used[rule]}." for rule in sorted(used))]
    return markdown("\n".join(lines)) + "\n"


def _section(verdict: Verdict, printed: Verdict | None) -> list[str]:
    claim = verdict.claim
    origin = [f"source: {claim.source}"] if claim.source else []
    for word, theirs in (("mirrors", claim.counterpart), ("opposite of", claim.opposite), ("beside", claim.related)):
        origin += [f"{word} {theirs}"] if theirs else []
    lines = [f"### {claim.id}: {marked(verdict.outcome, verdict.chance)}", ""]
    lines += [claim.statement + (f" ({'; '.join(origin)})" if origin else ""), ""]
    lines += [f"- {line}" for line in _evidence(verdict)]
    if printed is not None and any(finding.numbers for finding in printed.findings):
        lines += ["", f"By the published numbers alone: {VERDICT_MARKS[printed.outcome]}.", ""]
        lines += [f"- {SIGNS[f.outcome]} {f.evidence}" for f in printed.findings]
    return [*lines, *(["", claim.note] if claim.note else []), ""]


def _evidence(verdict: Verdict) -> list[str]:
    """One line per comparison; comparisons without a measurement share one line per reason."""
    lines: list[str] = []
    absent: dict[str, list[str]] = {}
    for part, finding in zip(verdict.claim.parts or [None], verdict.findings):
        rule = part.rule if part else "no rule"
        if finding.numbers or part is None:
            lines.append(f"{SIGNS[finding.outcome]} {rule}: {finding.evidence}")
        else:
            reason, _, subject = finding.evidence.partition(" of ")
            absent.setdefault(f"{rule}: {reason}", []).append(subject)
    for reason, subjects in absent.items():
        named = ", ".join(dict.fromkeys(filter(None, subjects)))
        lines.append(f"– {reason}" + (f" of {named}" if named else ""))
    return lines


def _json(verdict: Verdict, printed: dict[str, Verdict]) -> dict[str, Any]:
    claim = verdict.claim
    named = ("id", "scope", "statement", "source", "counterpart", "note")
    record: dict[str, Any] = {name: getattr(claim, name) for name in named}
    record |= {"verdict": verdict.outcome, "chance": verdict.chance, **_decided(verdict)}
    record |= {"rows": list(verdict.rows), "unmeasured": list(verdict.unmeasured)}
    if by := printed.get(claim.id):
        record["by_published"] = {"verdict": by.outcome, **_decided(by)}
    return record


def _decided(verdict: Verdict) -> dict[str, Any]:
    """Evidence and findings of a verdict."""
    findings = []
    for part, finding in zip(verdict.claim.parts or [None], verdict.findings):
        findings.append({
            "rule": part.rule if part else "no rule",
            "verdict": finding.outcome,
            "evidence": finding.evidence,
            "numbers": finding.numbers,
            "effect": amount(part, finding) if part else None,
        })  # fmt: skip
    return {"evidence": _evidence(verdict), "findings": findings}


_AGAIN = "decide the claims again (sida claims)"


def read_verdicts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record of :func:`eval.claims.write.verdicts_record`.

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    record = read_hashed_json(path)
    try:
        known = isinstance(record["claims"], list) and all(map(_is_claim, record["claims"]))
        known = known and _are_texts([record.get(key, "") for key in ("preamble", "comparisons")])
    except KeyError as error:
        raise UserError(path, f"no key {error}", _AGAIN) from None
    except (TypeError, AttributeError):
        known = False
    if not known:
        raise UserError(path, "holds something else than verdicts", _AGAIN)
    return record


def _is_claim(claim: Any) -> bool:
    return (
        isinstance(claim.get("chance", False), bool)
        and _are_texts([claim[key] for key in ("id", "statement", "source", "counterpart", "note")])
        and all(_are_texts(claim.get(key, [])) for key in ("rows", "unmeasured"))
        and all(map(_is_decided, [claim, claim.get("by_published", claim)]))
    )


def _is_decided(record: Any) -> bool:
    findings = record["findings"]
    decided = record["verdict"] in SIGNS and _are_texts(record["evidence"])
    return decided and isinstance(findings, list) and all(map(_is_finding, findings))


def _is_finding(finding: Any) -> bool:
    effect = finding.get("effect") or {"what": "", "text": "", "value": 0}
    number = isinstance(effect["value"], (int, float)) and not isinstance(effect["value"], bool)
    texts = [finding["rule"], effect["what"], effect["text"]]
    return number and _are_texts(texts) and isinstance(finding["numbers"], dict)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
