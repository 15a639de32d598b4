"""Helpers of the rules: bounds of noise, verdicts from gains, and numbers as text."""

from __future__ import annotations

import math

from eval.claims.model import UNDECIDED, Operand, Outcome, Part
from eval.results.summary import Estimate

Z = 2.6


def operand_a(part: Part) -> Operand:
    """First operand of a part."""
    assert part.a is not None
    return part.a


def operand_b(part: Part) -> Operand:
    """Second operand of a part."""
    assert part.b is not None
    return part.b


def show(estimate: Estimate) -> str:
    """Mean and spread as text, ``4.08 ± 0.10``, with enough digits for the spread."""
    if not estimate.std:
        return f"{estimate.mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(estimate.std)))
    return f"{estimate.mean:.{decimals}f} ± {estimate.std:.{decimals}f}"


def ordered(gain: float, limit: float) -> Outcome:
    """Verdict on a gain that must exceed a limit of noise."""
    if gain > limit:
        return "supported"
    return "contradicted" if gain < -limit else UNDECIDED


def of_most(count: int, total: int) -> Outcome:
    """Verdict on a statement that holds for ``count`` of ``total`` runs: at least two thirds decide either way."""
    if 3 * count >= 2 * total:
        return "supported"
    return "contradicted" if 3 * (total - count) >= 2 * total else UNDECIDED


def within(low: float, high: float, part: Part) -> Outcome:
    """Verdict on an interval: supported inside the part's range, contradicted outside, else undecided."""
    if part.low <= low and high <= part.high:
        return "supported"
    return "contradicted" if high < part.low or low > part.high else UNDECIDED


def numbers_of(a: Estimate, b: Estimate, gain: float, limit: float) -> dict[str, float | int | None]:
    """Numbers of a comparison of two means."""
    return {
        "a": a.mean, "a_std": a.std, "a_n": a.trials, "b": b.mean, "b_std": b.std, "b_n": b.trials,
        "gain": gain, "bound": limit,
    }  # fmt: skip
