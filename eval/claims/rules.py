"""Rules that compare single generators: with each other (LT, NEAR, RATIO) and with published numbers (EQ, LTQ)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.claims.evidence import BLOCKS, TRIALS, Evidence, decide_gain, decide_range, show, sides_of
from eval.claims.model import UNDECIDED, Finding, Measured, Operand, Outcome, Rule
from eval.effects.contrast import CONFIDENCE, Interval, NotMeasuredError, difference, interval_of, mean_interval
from eval.results.published import agreement_of
from eval.results.summary import Estimate
from sida.errors import SettingError

#: The median of n values scatters this many times as much as their mean.
MEDIAN = 1.2533


@dataclass(frozen=True, kw_only=True)
class LessRule(Measured):
    """Rule LT: A is better than B, over evaluation trials.

    Attributes:
        b: The generator that A is compared with.
        direction: Whether lower or higher values are better.
        equal_budget: Whether A and B must have been trained on equally many images (to one percent: the last batch).
    """

    text = (
        "A is better than B: the 99 % interval of the difference of the means (Welch's t over evaluation trials) "
        "excludes 0; for generators trained here the interval also holds the scatter of a row that is trained again on "
        "another kind of processor, if the file of claims states it; speaks about these generators, not about training"
    )
    b: Operand
    direction: Literal["lower", "higher"] = "lower"
    equal_budget: bool = False

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A is better than B beyond the evaluation noise and the scatter of a repeated training."""
        (name_a, a), (name_b, b) = _both(self, self.b, evidence, where)
        if self.equal_budget and not evidence.by_published:
            evidence.require_equal_budget(evidence.runs_of(operand, where)[0] for operand in (self.a, self.b))
        gain = (b.mean - a.mean) if self.direction == "lower" else (a.mean - b.mean)
        found = decide_gain(interval_of(gain, _noise(self, a, self.b, b, evidence, where), TRIALS))
        text = (
            f"{self.metric} {show(a)} ({name_a}; {a.trials} trials) against {show(b)} ({name_b}; {b.trials} trials); "
            f"gain {gain:.3g}, {found.text}"
        )
        return Finding(found.outcome, text, sides_of(a, b) | {"gain": gain} | found.numbers)


@dataclass(frozen=True, kw_only=True)
class NearRule(Measured):
    """Rule NEAR: A is at most a multiple of B.

    Attributes:
        b: The generator that A is compared with.
        factor: Largest multiple of B.
    """

    text = "A is at most the given factor times B, by the rule LT against that multiple"
    b: Operand
    factor: float = 1.0

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A is at most ``factor`` times B."""
        (name_a, a), (name_b, b) = _both(self, self.b, evidence, where)
        gain = self.factor * b.mean - a.mean
        found = decide_gain(interval_of(gain, _noise(self, a, self.b, b, evidence, where, self.factor), TRIALS))
        text = (
            f"{self.metric} {show(a)} ({name_a}) against {show(b)} ({name_b}); ratio {a.mean / b.mean:.3f}, "
            f"allowed {self.factor:g}; gain {gain:.3g}, {found.text}"
        )
        return Finding(found.outcome, text, sides_of(a, b) | {"gain": gain} | found.numbers)


@dataclass(frozen=True, kw_only=True)
class QuotedRule(Measured):
    """Rule LTQ: A is better than a published number.

    Attributes:
        b: The published number.
        direction: Whether lower or higher values are better.
        slack: Extra allowance because b is the minimum of several evaluations.
    """

    text = (
        "A is better than a quoted number b: the interval of rule LT around m lies beyond b, allowing for b's rounding"
    )
    b: Operand
    direction: Literal["lower", "higher"] = "lower"
    slack: float = 0.0

    def __post_init__(self) -> None:
        _require_published("b", self.b)

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A is better than a number that others published."""
        name, a = evidence.estimate(self.a, self.metric, f"{where}.a")
        number = evidence.quoted(self.b, f"{where}.b")
        gain = (number.value - a.mean) if self.direction == "lower" else (a.mean - number.value)
        noise = evidence.noise(self.a, self.metric, a, f"{where}.a")
        # Rounding and the choice of the lowest may each have moved the number by as much as they can.
        allowed = number.half_unit + self.slack
        sure = math.copysign(max(0.0, abs(gain) - allowed), gain)
        found = decide_gain(interval_of(sure, noise, TRIALS))
        text = (
            f"{self.metric} {show(a)} ({name}; {a.trials} trials) against {number.text} ({number.row_label}, "
            f"published); gain {gain:.3g}, after {allowed:.2g} for rounding {found.text}"
        )
        return Finding(found.outcome, text, {"a": a.mean, "b": number.value, "gain": gain} | found.numbers)


@dataclass(frozen=True, kw_only=True)
class EqualRule(Measured):
    """Rule EQ; A is a row with its published number."""

    text = (
        "a published number is reproduced: |m − p| within three standard errors of the difference (at least 1 % of p; "
        "2 % where no spread was published; 0.01 for precision and recall); outside of that it is better or worse than "
        "printed, and not reproduced either way: a leak or a wrong reference makes numbers better"
    )

    def __post_init__(self) -> None:
        _require_published("a", self.a)

    @property
    def compared(self) -> dict[str, Operand]:
        """Nothing: the agreement with the published number asks whether it may be compared."""
        return {}

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A published number is reproduced; neither a worse nor a better one is a reproduction."""
        number = evidence.quoted(self.a, f"{where}.a")
        if evidence.by_published:
            raise NotMeasuredError("", "needs a measurement")
        name, a = evidence.estimate(self.a, self.metric, f"{where}.a")
        lines = evidence.measurements.lines(evidence.runs_of(self.a, where)[0], self.metric)
        compared = agreement_of(a, lines, number)
        if isinstance(compared, str):
            raise NotMeasuredError("", f"not compared: {compared}")
        word = {"agrees": "agrees", "better": "better than printed", "worse": "worse than printed"}[compared.outcome]
        text = (
            f"{self.metric} {show(a)} ({name}; {a.trials} trials), published {number.text}"
            f"{' ± ' + number.std if number.std else ''}; {word} (Δ {compared.difference:+.3g}, allowed "
            f"{compared.tolerance:.2g})"
        )
        outcome: Outcome = "supported" if compared.outcome == "agrees" else "contradicted"
        return Finding(outcome, text, {"a": a.mean, "published": number.value, "difference": compared.difference})


@dataclass(frozen=True, kw_only=True)
class RatioRule(Measured):
    """Rule RATIO: the ratio of A to B lies in a range.

    Attributes:
        b: The generator or number that A is compared with.
        low: Least value.
        high: Largest value.
        quantity: Quantity of the training logs that is compared instead of a metric (``memory_reserved_gb`` is the most
            that was reserved), or ``nfe``.
        gpus: Cards that a comparison of a logged quantity is about, ``8 × V100``; other cards decide nothing.
        seeds: Least number of training seeds of conditions.
    """

    text = (
        f"the interval of the ratio of A to B lies in the given range as a whole: 95 % over training seeds ({BLOCKS}), "
        "99 % over the records of a log, or over evaluation trials with the scatter of rule LT; contradicted where it "
        "lies outside as a whole"
    )
    effects = {"ratio": "ratio of {}"}
    b: Operand
    low: float = 0.0
    high: float = math.inf
    quantity: (
        Literal["img_per_s", "seconds_per_kimg", "memory_mb", "memory_reserved_mb", "memory_reserved_gb", "nfe"] | None
    ) = None
    gpus: str = ""
    seeds: int = 3

    @property
    def measured(self) -> str:
        """The metric, unless a quantity is compared."""
        return "" if self.quantity else self.metric

    @property
    def subject(self) -> str:
        """The quantity or metric."""
        return self.quantity or self.metric

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """The ratio of a metric or of a logged quantity lies in a range, beyond its uncertainty."""
        name_a, a = self._side(self.a, evidence, f"{where}.a")
        name_b, b = self._side(self.b, evidence, f"{where}.b")
        value = a.mean / b.mean
        found = decide_range(_ratio(a, b, value), self.low, self.high)
        what = "" if self.a.value is not None else self.quantity or self.metric
        claimed = f"{self.low:g} to {self.high:g}" if self.low else f"at most {self.high:g}"
        claimed = claimed if math.isfinite(self.high) else f"at least {self.low:g}"
        text = (
            f"{what} {show(a.estimate)} ({name_a}) against {show(b.estimate)} ({name_b}); ratio {value:.3f}, "
            f"{found.text}, claimed {claimed}"
        )
        return Finding(found.outcome, text.strip(), {"a": a.mean, "b": b.mean, "ratio": value} | found.numbers)

    def _side(self, operand: Operand, evidence: Evidence, where: str) -> tuple[str, _Side]:
        """Name and scatter of a side: a stated number, one run over trials or ticks, or several runs over seeds."""
        quoted = operand.published is not None and (evidence.by_published or operand.run is None)
        if operand.value is not None:
            return operand.label, _exact(operand.value)
        if quoted and self.quantity == "nfe":
            number = evidence.quoted(operand, where)
            return f"{number.row_label}, published", _exact(float(number.nfe))
        logged = self.quantity not in (None, "nfe")
        if quoted or (logged and evidence.by_published):
            names = []
        else:
            names = evidence.logged(operand) if logged else evidence.runs_of(operand, where)
        if (self.quantity is None and len(names) < 2) or not names:
            name, found = evidence.estimate(operand, self.metric, where)
            return name, _Side(found, noise=evidence.noise(operand, self.metric, found, where))
        if operand.where is not None and len(names) < self.seeds:
            raise NotMeasuredError("", f"{len(names)} training seeds of {operand}; this ratio needs {self.seeds}")
        if self.quantity is None:
            values = {name: Estimate(evidence.value(operand, name, self.metric), None, 1) for name in names}
        else:
            evidence.require_gpus(names, self.gpus)
            values = {name: _quantity(evidence, name, self.quantity) for name in names}
        # A training whose generator is not measured has only the beginning of a log.
        begun = logged and names[0] not in evidence.measurements.runs
        label = evidence.label(names[0])
        label += f"; from {max(1, len(evidence.ticks(names[0])) - 1)} ticks" if begun else ""
        if len(names) == 1:
            found = values[names[0]]
            if found.std is None:
                raise NotMeasuredError("", "a single record says nothing about the noise")
            return label, _Side(found, noise=[(found.std**2 / found.trials, found.trials - 1)])
        pooled = Estimate.of([found.mean for found in values.values()])
        blocks = evidence.by_teacher(names, lambda name: values[name].mean)
        return f"{label}; {len(names)} training seeds", _Side(pooled, blocks)


@dataclass(frozen=True, kw_only=True)
class NoRule(Rule):
    """Rule NONE: no rule can decide, for the reason of the claim.

    Attributes:
        label: Reason why no rule applies.
    """

    text = "not decidable by these measurements; the reason is given"
    label: str = ""

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """The reason."""
        return Finding(UNDECIDED, self.label or "no rule applies")


def _require_published(key: str, operand: Operand) -> None:
    if operand.published is None:
        raise SettingError(f"{key}.published", "the rule compares with a published number", "name its id")


def _both(rule: Measured, b: Operand, evidence: Evidence, where: str) -> tuple[tuple[str, Estimate], ...]:
    """Name and mean ± std of both sides of a comparison."""
    first = evidence.estimate(rule.a, rule.metric, f"{where}.a")
    return first, evidence.estimate(b, rule.metric, f"{where}.b")


def _noise(
    rule: Measured, a: Estimate, operand_b: Operand, b: Estimate, evidence: Evidence, where: str, factor: float = 1.0
) -> list[tuple[float, float]]:
    """Variances of A and of ``factor`` times B, with their degrees of freedom."""
    scaled = evidence.noise(operand_b, rule.metric, b, f"{where}.b")
    return [
        *evidence.noise(rule.a, rule.metric, a, f"{where}.a"),
        *((factor**2 * variance, df) for variance, df in scaled),
    ]


@dataclass(frozen=True)
class _Side:
    """A side of a ratio: its mean, and its scatter by teacher over training seeds, or as variances with their df."""

    estimate: Estimate
    blocks: Mapping[str, Sequence[float]] | None = None
    noise: Sequence[tuple[float, float]] = ()

    @property
    def mean(self) -> float:
        """Mean of the teachers' means."""
        return statistics.fmean(map(statistics.fmean, self.blocks.values())) if self.blocks else self.estimate.mean

    def variances(self, factor: float) -> list[tuple[float, float]]:
        """Variances of ``factor`` times the mean, with their degrees of freedom."""
        noise = self.noise
        if self.blocks:
            found = mean_interval(self.blocks)
            noise = [(found.standard_error**2, found.df)]
        return [(factor**2 * variance, df) for variance, df in noise]


def _exact(value: float) -> _Side:
    return _Side(Estimate(value, 0.0, 1), noise=[(0.0, 1)])


def _ratio(a: _Side, b: _Side, value: float) -> Interval:
    """A ratio's interval, to first order in the errors of both sides; A itself may be 0."""
    if a.blocks and b.blocks:
        scaled = {teacher: [value * one for one in values] for teacher, values in b.blocks.items()}
        return difference(a.blocks, scaled).moved(1 / b.mean, value)
    confidence = CONFIDENCE if a.blocks or b.blocks else TRIALS
    return interval_of(value, a.variances(1 / b.mean) + b.variances(value / b.mean), confidence)


def _quantity(evidence: Evidence, run: str, quantity: str) -> Estimate:
    """Median and spread of a logged quantity over the ticks without the first, which includes the start-up.

    For reserved memory: the maximum, without a spread.
    """
    if quantity == "nfe":
        return Estimate(float(evidence.measurements.nfe(run) or 1), 0.0, 1)
    ticks = evidence.ticks(run)
    ticks = ticks[1:] or ticks
    key = {"seconds_per_kimg": "img_per_s", "memory_reserved_gb": "memory_reserved_mb"}.get(quantity, quantity)
    values = [float(tick[key]) for tick in ticks if tick.get(key)]
    if not values:
        raise NotMeasuredError("", f"the training log of run '{run}' has no '{key}'")
    if key == "memory_reserved_mb":
        # Reserved memory only grows; Table 8 prints the maximum, in units of 1024 MiB.
        return Estimate(max(values) / (1024 if quantity == "memory_reserved_gb" else 1), 0.0, len(values))
    if quantity == "seconds_per_kimg":
        values = [1000 / value for value in values]
    spread = MEDIAN * statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.median(values), spread, len(values))
