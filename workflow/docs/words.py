"""Text of markers: effects of claims in words, and blocks of lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.claims.evidence import p_text
from eval.claims.model import DEPENDS
from eval.claims.write import decimals_of
from eval.results.published import HIGHER_IS_BETTER

#: Names of metrics in answers.
_NAMES = {
    "fd": "FD",
    "is": "inception score",
    "fd_pixel": "FD in pixels",
    "fd_own": "FD in GDD's features",
    "fd_heldout": "FD to held-out images",
    "fd_glyphs": "FD in features of letters",
    "fd_teacher": "FD to the teacher",
    "fd_glyphs_heldout": "FD to held-out images in features of fonts",
    "copies_pixel": "near copies",
    "memory_mb": "memory",
    "seconds_per_kimg": "seconds per image",
}


def block(lines: Iterable[str]) -> str:
    """Lines of a marker, such as a table, apart from the text around them."""
    return "\n\n" + "\n".join(lines) + "\n\n"


def in_words(findings: Sequence[Mapping[str, Any]], comparisons: int = 0) -> str:
    """Effects of comparisons by one quantity in words: ``FD 0.87 higher, 95 % interval 0.56 to 1.18, p 0.002``.

    Args:
        findings: Records of findings; several give a range.
        comparisons: Number of comparisons of the claim, if it has more than these.
    """
    what, signed = (findings[0]["effect"][key] for key in ("what", "signed"))
    values = sorted(finding["effect"]["value"] for finding in findings)
    numbers = findings[0]["numbers"]
    subject = " ".join(_NAMES.get(part, part) for part in what.split())
    up = what in HIGHER_IS_BETTER if signed and what in (*_NAMES, *HIGHER_IS_BETTER) else None
    if " share of " in what:
        text = " and ".join(dict.fromkeys(str(one["effect"]["text"]) for one in findings))
        return text + _counted(len(findings), comparisons)
    if len(findings) > 1:
        return f"{subject} {_worded(values, up)}{_counted(len(findings), comparisons)}"
    each = numbers.get("by_teacher", {})
    if findings[0]["verdict"] == DEPENDS:
        listed = [f"{_with_interval(one['value'], one, up)} ({name})" for name, one in each.items()]
        return f"{subject} {'; '.join(listed)}{_counted(1, comparisons)}"
    text = f"{subject} {_with_interval(values[0], numbers, up)}"
    text += f", {p_text(numbers['p'])}" if "p" in numbers else ""
    if each:
        text += "; " + ", ".join(f"{name} {_worded([one['value']], up, one)}" for name, one in each.items())
    return text + _counted(1, comparisons)


def _counted(shown: int, comparisons: int) -> str:
    """Number of comparisons in brackets; empty for the only one."""
    if comparisons > shown:
        return f" ({shown} of {comparisons} comparisons)"
    return f" ({shown} comparisons)" if shown > 1 else ""


def _with_interval(value: float, numbers: Mapping[str, Any], up: bool | None) -> str:
    """A value with its interval, if it has one."""
    if "low" not in numbers:
        return _worded([value], up)
    ends = [numbers["low"], numbers["high"]]
    decimals = decimals_of(ends[1] - ends[0])
    shown = _span(ends, decimals) if up is None else _directed(ends, decimals, up, value)
    coverage = f"{100 * numbers.get('confidence', 0.95):.0f} % interval"
    return f"{_worded([value], up, numbers)}, {coverage} {shown}"


def _worded(values: Sequence[float], up: bool | None, interval: Mapping[str, Any] | None = None) -> str:
    """One value, or the ends of a range, with as many digits as an interval or the range needs."""
    width = interval["high"] - interval["low"] if interval and "low" in interval else values[-1] - values[0]
    decimals = decimals_of(width)
    return _span(values, decimals) if up is None else _directed(values, decimals, up)


def _directed(values: Sequence[float], decimals: int, up: bool, said: float | None = None) -> str:
    """A gain, or a range of gains, with ``higher`` or ``lower``; without the word if ``said`` has the same sign."""
    better, worse = ("higher", "lower") if up else ("lower", "higher")
    first, last = values[0], values[-1]
    if first * last >= 0:
        ends = sorted(abs(value) for value in (first, last))
        text = _span(ends if len(values) > 1 else ends[:1], decimals)
        return text if said is not None and said * last > 0 else f"{text} {better if last > 0 else worse}"
    return f"{-first:.{decimals}f} {worse} to {last:.{decimals}f} {better}"


def _span(values: Sequence[float], decimals: int) -> str:
    ends = dict.fromkeys(f"{value:.{decimals}f}".replace("-", "−") for value in (values[0], values[-1]))
    return " to ".join(ends)
