"""What the rules share: bounds of noise, outcomes from gains, and how numbers are shown."""

from __future__ import annotations

import math

from eval.claims.model import UNDECIDED, Operand, Outcome, Part
from eval.results.summary import Estimate

Z = 2.6


def operand_a(part: Part) -> Operand:
    """The part's first operand."""
    assert part.a is not None
    return part.a


def operand_b(part: Part) -> Operand:
    """The part's second operand."""
    assert part.b is not None
    return part.b


def show(estimate: Estimate) -> str:
    """``4.08 ± 0.10`` with digits enough to see the spread."""
    if not estimate.std:
        return f"{estimate.mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(estimate.std)))
    return f"{estimate.mean:.{decimals}f} ± {estimate.std:.{decimals}f}"


def ordered(gain: float, limit: float) -> Outcome:
    """Supported, contradicted or undecided, for a gain that must exceed a limit of noise."""
    if gain > limit:
        return "supported"
    return "contradicted" if gain < -limit else UNDECIDED


def within(low: float, high: float, part: Part) -> Outcome:
    """Supported where an interval lies in a part's range, contradicted where it lies outside, undecided between."""
    if part.low <= low and high <= part.high:
        return "supported"
    return "contradicted" if high < part.low or low > part.high else UNDECIDED


def numbers_of(a: Estimate, b: Estimate, gain: float, limit: float) -> dict[str, float | int | None]:
    """The numbers behind a comparison of two means."""
    return {
        "a": a.mean, "a_std": a.std, "a_n": a.trials, "b": b.mean, "b_std": b.std, "b_n": b.trials,
        "gain": gain, "bound": limit,
    }  # fmt: skip
