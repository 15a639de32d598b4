"""Operands of comparisons, and findings: the outcome of a comparison with the numbers behind it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sida.eval.contrasts import Interval
from sida.eval.results.conditions import check_columns

Outcome = Literal["supported", "contradicted", "not decided here"]
UNDECIDED: Outcome = "not decided here"
#: Name instead of a rule's for a statement that no measurement decides.
NO_RULE = "no rule"


@dataclass(frozen=True)
class Operand:
    """A generator in a comparison: measured rows (by id or conditions), a published number, or both; or a number.

    Attributes:
        run: Row of the sheet.
        where: Conditions on the sheet instead: the rows of one generator's training seeds.
        published: Id in ``results/published``; beside a row, the number that decides the papers' statements.
        value: A stated number instead, for rule RATIO.
        label: Description of ``value``.
    """

    run: str | None = None
    where: Mapping[str, Any] | None = None
    published: str | None = None
    value: float | None = None
    label: str = ""

    def __post_init__(self) -> None:
        check_columns("where", self.where or ())

    @property
    def named(self) -> bool:
        """Whether the operand names rows of the sheet."""
        return self.run is not None or self.where is not None

    def __str__(self) -> str:
        conditions = ", ".join(f"{key} {value}" for key, value in (self.where or {}).items())
        return self.run or conditions or self.published or self.label


def row(run: str, published: str | None = None) -> Operand:
    """The row with this id, and the id of the number that is printed of it."""
    return Operand(run=run, published=published)


def rows(**where: Any) -> Operand:
    """The rows whose columns have these values: the training seeds of one generator."""
    return Operand(where=where)


def printed(published: str) -> Operand:
    """A number of ``results/published`` without a row."""
    return Operand(published=published)


def number(value: float, label: str) -> Operand:
    """A stated number, and what it is."""
    return Operand(value=float(value), label=label)


@dataclass(frozen=True)
class Finding:
    """The outcome of a comparison with the numbers behind it.

    Attributes:
        outcome: The verdict.
        evidence: The numbers in words, or the reason why nothing is decided.
        numbers: The numbers; empty where data are missing.
        rule: Name of the rule.
        operands: The generators that are compared.
    """

    outcome: Outcome
    evidence: str
    numbers: dict[str, Any] = field(default_factory=dict)
    rule: str = NO_RULE
    operands: tuple[Operand, ...] = ()


def decided(
    interval: Interval, text: str, numbers: Mapping[str, Any], low: float = 0.0, high: float = math.inf
) -> Finding:
    """Decides by a value whose whole interval must lie between two bounds.

    Args:
        interval: The interval. If teachers differ by an F test and decide differently, nothing is decided.
        text: Evidence before the interval.
        numbers: Numbers of the finding; added are the interval's ends (``low``, ``high``), its coverage
            (``confidence``), ``df``, ``design`` of training seeds, and ``p`` of the nearest value that would turn the
            verdict.
        low: Lower bound.
        high: Upper bound.
    """

    def judge(estimate: Interval) -> Outcome:
        if low <= estimate.low and estimate.high <= high:
            return "supported"
        return "contradicted" if estimate.high < low or estimate.low > high else UNDECIDED

    ends = {"low": interval.low, "high": interval.high, "confidence": interval.confidence, "df": interval.df}
    values = {**numbers, **ends}
    outcome = judge(interval)
    text += f", {100 * interval.confidence:.0f} % interval {interval.low:.3g} to {interval.high:.3g}"
    if interval.design:
        values["design"] = interval.design
        text += f" ({interval.design})"
    bounds = [bound for bound in (low, high) if math.isfinite(bound)]
    if interval.standard_error > 0 and bounds:
        values["p"] = max(map(interval.p_value, bounds))
        text += " (p < 0.0001)" if values["p"] < 1e-4 else f" (p {values['p']:.2g})"
    if len(interval.blocks) > 1:
        blocks = (f"{b.value:.3g} [{b.low:.3g}, {b.high:.3g}] ({name})" for name, b in interval.blocks.items())
        text += f"; by teacher {', '.join(blocks)}"
        if interval.blocks_differ and {judge(block) for block in interval.blocks.values()} != {outcome}:
            return Finding(UNDECIDED, text + ", which differ by more than their seeds do", values)
    return Finding(outcome, text, values)
