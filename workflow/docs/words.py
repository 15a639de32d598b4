"""Text of markers: effects of claims in words, and blocks of lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.claims.amounts import decimals_of
from eval.results.agreement import HIGHER_IS_BETTER

#: Names of metrics in answers.
_NAMES = {
    "fd": "FD",
    "is": "inception score",
    "fd_pixel": "FD in pixels",
    "fd_own": "FD in GDD's features",
    "fd_heldout": "FD to held-out images",
    "fd_glyphs_heldout": "FD to held-out images in features of fonts",
    "copies_pixel": "near copies",
    "memory_mb": "memory",
    "seconds_per_kimg": "seconds per image",
}


def block(lines: Iterable[str]) -> str:
    """Lines of a marker, such as a table, apart from the text around them."""
    return "\n\n" + "\n".join(lines) + "\n\n"


def in_words(findings: Sequence[Mapping[str, Any]]) -> str:
    """Effects of comparisons by one quantity in words: ``FD 0.87 higher, 95 % interval 0.56 to 1.18``."""
    what, signed = (findings[0]["effect"][key] for key in ("what", "signed"))
    values = sorted(finding["effect"]["value"] for finding in findings)
    numbers = findings[0]["numbers"]
    interval, named = [], ""
    if len(findings) > 1:
        named = f" ({len(findings)} comparisons)"
    elif "low" in numbers:
        interval, named = [numbers["low"], numbers["high"]], ", 95 % interval "
    elif "bound" in numbers:
        interval, named = [values[0] - numbers["bound"], values[0] + numbers["bound"]], ", with noise "
    if " share of " in what:
        return " and ".join(dict.fromkeys(str(one["effect"]["text"]) for one in findings)) + named
    decimals = decimals_of((interval or values)[-1] - (interval or values)[0])
    subject = " ".join(_NAMES.get(part, part) for part in what.split())
    if signed and what in (*_NAMES, *HIGHER_IS_BETTER):
        up = what in HIGHER_IS_BETTER
        text = f"{subject} {_directed(values, decimals, up)}{named}"
        return text + (_directed(interval, decimals, up, values[0]) if interval else "")
    return f"{subject} {_span(values, decimals)}{named}" + (_span(interval, decimals) if interval else "")


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
