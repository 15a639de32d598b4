"""Helpers of the rules: verdicts from intervals, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eval.claims.model import DEPENDS, UNDECIDED, Operand, Outcome, Part
from eval.effects.contrast import Estimated, Interval
from eval.results.summary import Estimate

#: Coverage of intervals over the evaluation trials of single generators; over training seeds it is 95 %.
TRIALS = 0.99
#: Standard errors with this coverage where the noise is known.
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


@dataclass(frozen=True)
class Decision:
    """The verdict that an interval gives.

    Attributes:
        outcome: The verdict.
        numbers: Ends of the interval (``low``, ``high``), its coverage (``confidence``), degrees of freedom (``df``),
            the p value of the nearest value that would turn the verdict (``p``), and with several teachers the value
            and ends of each (``by_teacher``) with the p value of the F test that they are equal (``teachers_p``).
        text: The interval in words.
    """

    outcome: Outcome
    numbers: dict[str, Any]
    text: str


def decide_gain(found: Interval) -> Decision:
    """Decides by a gain, which must be above 0 as a whole interval."""

    def judge(one: Interval) -> Outcome:
        return "supported" if one.low > 0 else "contradicted" if one.high < 0 else UNDECIDED

    return _decided(found, judge, (0.0,))


def decide_range(
    found: Interval, low: float, high: float = math.inf, shown: Callable[[float], float] = lambda value: value
) -> Decision:
    """Decides by a value whose whole interval must lie between two bounds; ``shown`` converts ends for readers."""

    def judge(one: Interval) -> Outcome:
        if low <= one.low and one.high <= high:
            return "supported"
        return "contradicted" if one.high < low or one.low > high else UNDECIDED

    return _decided(found, judge, tuple(filter(math.isfinite, (low, high))), shown)


def _decided(
    found: Interval,
    judge: Callable[[Interval], Outcome],
    bounds: tuple[float, ...],
    shown: Callable[[float], float] = lambda value: value,
) -> Decision:
    low, high = shown(found.low), shown(found.high)
    numbers: dict[str, Any] = {"low": low, "high": high, "confidence": found.confidence, "df": found.df}
    outcome, text = judge(found), f"{100 * found.confidence:.0f} % interval {low:.3g} to {high:.3g}"
    if found.standard_error > 0 and bounds:
        numbers["p"] = _nearest_p(found, bounds, outcome)
        text += f" ({p_text(numbers['p'])})"
    if isinstance(found, Estimated) and len(found.blocks) > 1:
        named = {name: (shown(one.value), shown(one.low), shown(one.high)) for name, one in found.blocks.items()}
        numbers["by_teacher"] = {name: dict(zip(("value", "low", "high"), ends)) for name, ends in named.items()}
        text += f"; by teacher {', '.join(f'{v:.3g} [{a:.3g}, {b:.3g}] ({n})' for n, (v, a, b) in named.items())}"
        numbers["teachers_p"] = found.blocks_p
        if found.blocks_differ and found.blocks_p is not None:
            text += f", which differ by more than their seeds do (F test, {p_text(found.blocks_p)})"
            each = {judge(one) for one in found.blocks.values()}
            outcome = each.pop() if len(each) == 1 and UNDECIDED not in each else DEPENDS
            numbers |= {"p": found.blocks_p} if outcome == DEPENDS else {}
    return Decision(outcome, numbers, text)


def _nearest_p(found: Interval, bounds: tuple[float, ...], outcome: Outcome) -> float:
    """The p value of the bound that decides: the nearest one inside of a range, the farthest one outside of it."""
    values = [found.p_value(bound) for bound in bounds]
    return min(values) if outcome == "contradicted" else max(values)


def p_text(p: float) -> str:
    """A p value as text: ``p 0.043``, ``p < 0.0001``."""
    return "p < 0.0001" if p < 1e-4 else f"p {p:.2g}"


def of_each(outcomes: list[Outcome]) -> Outcome:
    """Verdict on a statement of which all parts must hold."""
    for outcome in ("contradicted", DEPENDS, UNDECIDED):
        if outcome in outcomes:
            return outcome
    return "supported"


def sides_of(a: Estimate, b: Estimate) -> dict[str, float | int | None]:
    """Numbers of two means that are compared."""
    return {"a": a.mean, "a_std": a.std, "a_n": a.trials, "b": b.mean, "b_std": b.std, "b_n": b.trials}
