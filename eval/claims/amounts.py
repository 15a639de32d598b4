"""Effects of comparisons as text, such as ``fd +1.48 [1.30, 1.66]``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.claims.model import Finding, Part
from eval.claims.numbers import p_text

#: Words for the counts that a rule gives: of the share, for the things counted, and as a verb.
_COUNTED = {"diverged": ("diverging", "seeds", "diverge")}
#: What a rule's gain is about, where it is no difference of the metric itself.
_GAINS = {"SPREAD": "margin of the relative spread of "}


def amount(part: Part, finding: Finding) -> dict[str, Any] | None:
    """The effect behind a finding with the interval that its rule uses.

    Args:
        part: The comparison. A positive gain supports the claim.
        finding: Outcome of the comparison.

    Returns:
        Name of the quantity (``what``: ``fd``, ``ratio of recall``), its ``value`` and a ``text`` with the interval;
        None if the rule has no such number or nothing was measured.
    """
    numbers = finding.numbers
    compared = part.quantity or ("images" if part.rule in ("SPEED", "COST") else part.metric)
    metric = part.fact.replace("_", " ") if part.rule == "FACT" else _GAINS.get(part.rule, "") + part.metric
    # Runs that never reach a level leave a bound: "ratio of images at most".
    ratio = f"ratio of {compared} {numbers.get('censored', '')}".rstrip()
    named = {
        "gain": metric,
        "ratio": ratio,
        "slope": f"slope of {part.metric}",
        "rise": f"end over lowest {part.metric}",
    }
    named |= {"fit": f"R² of {part.metric}", "ahead": f"lead in R² of {part.metric}"}
    for key, what in named.items():
        value = numbers.get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            signed = key not in ("ratio", "rise", "fit")
            text = f"{what} {_shown(value, _interval(numbers, value), signed)}"
            text += f", {p_text(numbers['p'])}" if "p" in numbers else ""
            if each := numbers.get("by_teacher"):
                decimals = decimals_of(max(one["high"] - one["low"] for one in each.values()))
                listed = (f"{name} {_number(one['value'], decimals, signed)}" for name, one in each.items())
                text += f" ({', '.join(listed)})"
            return {"what": what, "value": value, "signed": signed, "text": text}
    for key, (kind, among, verb) in _COUNTED.items():
        if key in numbers:
            what, value = f"{kind} share of {among}", numbers[key] / numbers[among]
            text = f"{numbers[key]} of {numbers[among]} {among} {verb}"
            return {"what": what, "value": value, "signed": False, "text": text}
    return None


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
