"""A comparison: the operands that a claim names, its two sides, and the finding with the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sida.eval.contrasts import DECIDING, Blocks, Interval, difference, interval_of, joint, mean_interval
from sida.eval.results.conditions import check_columns, matching
from sida.eval.results.measurements import Estimate
from sida.eval.results.sheet import SheetRow

Outcome = Literal["supported", "contradicted", "not decided here"]
UNDECIDED: Outcome = "not decided here"
#: Name instead of a rule's for a statement that no measurement decides.
NO_RULE = "no rule"
#: Variances with their degrees of freedom.
_Parts = Sequence[tuple[float, float]]


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

    def rows_in(self, sheet: Mapping[str, SheetRow]) -> list[str]:
        """Ids of the rows of a sheet that it names; a row by its id also if the sheet does not have it."""
        if self.run is not None:
            return [self.run]
        return [row.run for row in matching(sheet, self.where)] if self.where else []

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
class Side:
    """One side of a comparison.

    Attributes:
        name: The generator, for texts.
        estimate: Mean and spread; of training seeds the mean of the teachers' means.
        noise: Variances of the mean.
        retraining: Variance of a repeated training, of a single one that represents its method. All sides have it from
            one estimate.
        seeds: Values of training seeds by teacher; empty for a single training.
    """

    name: str
    estimate: Estimate
    noise: _Parts = ()
    retraining: _Parts = ()
    seeds: Blocks = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The mean."""
        return self.estimate.mean

    @property
    def text(self) -> str:
        """Mean and spread with the name."""
        return f"{show(self.estimate)} ({self.name})"

    def variances(self, factor: float) -> list[tuple[float, float]]:
        """Variances of ``factor`` times the mean, without that of a repeated training."""
        noise = self.noise
        if self.seeds:
            interval = mean_interval(self.seeds)
            noise = [(interval.standard_error**2, interval.df)]
        return _scaled(noise, factor)

    def minus(self, other: Side, value: float, factor: float, other_factor: float) -> Interval:
        """Interval of ``value``, which is ``factor · mean − other_factor · other.mean`` up to a shift.

        With training seeds of both sides, the interval is Welch's within teachers.
        """
        if self.seeds and other.seeds and factor:
            scale = other_factor / factor
            scaled = {name: {seed: scale * mean for seed, mean in cell.items()} for name, cell in other.seeds.items()}
            interval = difference(self.seeds, scaled, DECIDING)
            return interval.moved(factor, value - factor * interval.value)
        retraining = joint(_scaled(self.retraining, factor) + _scaled(other.retraining, other_factor))
        return interval_of(value, self.variances(factor) + other.variances(other_factor) + retraining, DECIDING)


def exact(name: str, value: float) -> Side:
    """A number without noise."""
    return Side(name, Estimate(value, 0.0, 1), [(0.0, 1)])


def _scaled(parts: _Parts, factor: float) -> list[tuple[float, float]]:
    """Variances of ``factor`` times a value."""
    return [(factor**2 * variance, df) for variance, df in parts]


def show(estimate: Estimate) -> str:
    """Mean and spread as text, ``4.08 ± 0.10``, with enough digits for the spread."""
    if not estimate.std:
        return f"{estimate.mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(estimate.std)))
    return f"{estimate.mean:.{decimals}f} ± {estimate.std:.{decimals}f}"


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


def finding_of(
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
