"""Rules over training seeds: TRAIN, TREND, SPREAD, LAW; and FACT, about numbers of analyses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.claims.evidence import BLOCKS, Evidence, decide_gain, decide_range, show, sides_of
from eval.claims.model import UNDECIDED, Finding, Measured, Operand, Outcome, Rule
from eval.effects.contrast import NotMeasuredError, difference, interval_of, mean_interval, pooled_std
from eval.results.summary import Estimate
from sida.errors import SettingError

#: Values of training seeds by teacher.
ByTeacher = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class TrainRule(Measured):
    """Rule TRAIN: A is better than B, over training seeds.

    Attributes:
        b: The generators that A's are compared with.
        direction: Whether lower or higher values are better.
        equal_budget: Whether A and B must have been trained on equally many images (to one percent: the last batch).
        seeds: Least number of training seeds.
    """

    text = (
        "A trains to better values than B: the 95 % interval of the difference over at least three training seeds "
        f"excludes 0 (Welch's t, {BLOCKS}); of the kept generators, or of the start or end of the curves where it says "
        "so"
    )
    b: Operand
    direction: Literal["lower", "higher"] = "lower"
    equal_budget: bool = False
    seeds: int = 3

    def sides(self, evidence: Evidence, where: str, least: int) -> list[tuple[list[str], ByTeacher]]:
        """Runs with their values by teacher, of A and of B, each of at least ``least`` training seeds.

        Raises:
            NotMeasuredError: Too few training seeds, or unequal budgets.
        """
        names = [evidence.seeds_of(self.operands[key], least, f"{where}.{key}") for key in ("a", "b")]
        if self.equal_budget:
            evidence.require_equal_budget([*names[0], *names[1]])
        values = [{name: evidence.value(self.a, name, self.metric) for name in names[0]}]
        values += [{name: evidence.value(self.b, name, self.metric) for name in names[1]}]
        return [(runs, evidence.by_teacher(runs, found.__getitem__)) for runs, found in zip(names, values)]

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A is better than B over training seeds."""
        (names_a, blocks_a), (names_b, blocks_b) = self.sides(evidence, where, self.seeds)
        effect = difference(blocks_a, blocks_b).moved(-1 if self.direction == "lower" else 1)
        found, a, b = decide_gain(effect), _pooled(blocks_a), _pooled(blocks_b)
        text = (
            f"{self.metric} {show(a)} ({evidence.name(self.a, names_a)}; {len(names_a)} training seeds) against "
            f"{show(b)} ({evidence.name(self.b, names_b)}; {len(names_b)} training seeds); gain {effect.value:.3g}, "
            f"{found.text}"
        )
        if effect.std:
            text += f"; {abs(effect.standardised):.1f} standard deviations over seeds"
        numbers = sides_of(a, b) | {"gain": effect.value} | found.numbers | {
            "std": effect.std, "std_df": effect.std_df, "teachers": len(effect.blocks),
        }  # fmt: skip
        return Finding(found.outcome, text, numbers)


@dataclass(frozen=True, kw_only=True)
class TrendRule(Measured):
    """Rule TREND: a metric falls or rises with a column of the sheet.

    Attributes:
        column: Numeric column of the sheet.
        direction: Whether the metric falls or rises.
        seeds: Least number of training seeds.
    """

    text = (
        "a metric rises (or falls) with a column of the sheet: the 95 % interval of the least-squares slopes of three "
        f"or more training seeds ({BLOCKS}) excludes 0"
    )
    effects = {"slope": "slope of {}"}
    column: str = "alpha"
    direction: Literal["lower", "higher"] = "lower"
    seeds: int = 3

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A metric rises (or falls) with a column of the sheet, by least squares for each training seed."""
        names = evidence.seeds_of(self.a, self.seeds, f"{where}.a")
        by_seed: dict[tuple[str, int], dict[float, str]] = {}
        for name in names:
            row = evidence.runs[name]
            runs = by_seed.setdefault((evidence.teacher(name), row.seed or 0), {})
            runs[float(getattr(row, self.column))] = name
        common = sorted(set.intersection(*(set(found) for found in by_seed.values())))
        if len(by_seed) < self.seeds or len(common) < 3:
            raise NotMeasuredError("", f"{len(by_seed)} seeds with {len(common)} common values of {self.column}")
        slopes = {}
        for runs in by_seed.values():
            values = [evidence.value(self.a, runs[x], self.metric) for x in common]
            slopes[runs[common[0]]] = statistics.linear_regression(common, values).slope
        slope = evidence.interval_over(slopes, slopes.__getitem__)
        found = decide_gain(slope.moved(1 if self.direction == "higher" else -1))
        plain = decide_gain(slope)
        text = (
            f"{self.metric} of {evidence.label(names[0]).partition(',')[0]} over {self.column} {common[0]:g} to "
            f"{common[-1]:g}: slope {show(Estimate.of(list(slopes.values())))} over {len(by_seed)} training seeds, "
            f"{plain.text}"
        )
        return Finding(found.outcome, text, {"slope": slope.value, "seeds": len(by_seed)} | plain.numbers)


@dataclass(frozen=True, kw_only=True)
class LawRule(Measured):
    """Rule LAW: a metric is a power of the teacher's.

    Attributes:
        low: Least exponent.
        high: Largest exponent.
        seeds: Least number of training seeds.
    """

    text = (
        "a metric of students is a power of that of their teachers: the 95 % interval over three or more training "
        "seeds of the exponent (least squares of logarithms over three or more teachers) lies in the given range; "
        "contradicted where it lies outside as a whole"
    )
    effects = {"exponent": "exponent of {}"}
    low: float = 0.0
    high: float = math.inf
    seeds: int = 3

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A metric is a power of the teacher's, by least squares of logarithms for each training seed."""
        names = evidence.seeds_of(self.a, self.seeds, f"{where}.a")
        teachers = {run.teacher: name for name, run in evidence.runs.items() if run.method == "teacher"}
        by_seed: dict[int, dict[str, str]] = {}
        for name in names:
            by_seed.setdefault(evidence.runs[name].seed or 0, {})[evidence.teacher(name)] = name
        common = sorted(set.intersection(*(set(found) for found in by_seed.values())) & {*teachers})
        if len(by_seed) < self.seeds or len(common) < 3:
            raise NotMeasuredError("", f"{len(by_seed)} training seeds with {len(common)} common measured teachers")
        level = {name: math.log(evidence.value(Operand(run=name), name, self.metric)) for name in teachers.values()}
        levels = [level[teachers[teacher]] for teacher in common]
        if min(levels) == max(levels):
            raise NotMeasuredError("", f"teachers with equal {self.metric}")
        exponents = []
        for runs in by_seed.values():
            heights = [math.log(evidence.value(self.a, runs[teacher], self.metric)) for teacher in common]
            exponents.append(statistics.linear_regression(levels, heights).slope)
        exponent = mean_interval({"": exponents})
        found = decide_range(exponent, self.low, self.high)
        text = (
            f"{self.metric} of {evidence.label(names[0]).partition(',')[0]} as a power of its teacher's over "
            f"{len(common)} teachers: exponent {show(Estimate.of(exponents))} over {len(by_seed)} training seeds, "
            f"{found.text}, claimed {self.low:g} to {self.high:g}"
        )
        return Finding(found.outcome, text, {"exponent": exponent.value, "seeds": len(by_seed)} | found.numbers)


@dataclass(frozen=True, kw_only=True)
class SpreadRule(Measured):
    """Rule SPREAD: A's relative spread is smaller than B's.

    Attributes:
        b: The generators that A's are compared with.
        column: Column of the sheet.
        factor: Largest multiple of B's spread.
        seeds: Least number of training seeds for each value of the column.
    """

    text = (
        "the relative spread (largest − smallest, by the mean) over a column's values is at most the factor times "
        "B's, by a 95 % interval over training seeds"
    )
    effects = {"gain": "margin of the relative spread of {}"}
    b: Operand
    column: str = "alpha"
    factor: float = 1.0
    seeds: int = 3

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """(Largest − smallest) / mean over a column's values is at most ``factor`` times B's."""
        sides: list[tuple[float, float, int]] = []
        for key, operand in self.operands.items():
            groups: dict[float, list[float]] = {}
            for name in evidence.seeds_of(operand, self.seeds, f"{where}.{key}"):
                group = groups.setdefault(float(getattr(evidence.runs[name], self.column)), [])
                group.append(evidence.value(operand, name, self.metric))
            if len(groups) < 2 or min(map(len, groups.values())) < self.seeds:
                fault = f"fewer than {self.seeds} training seeds for each {self.column} of {operand}"
                raise NotMeasuredError("", fault)
            cells = sorted(groups.values(), key=statistics.fmean)
            middle = statistics.fmean(map(statistics.fmean, cells))
            std, df = pooled_std(cells)
            width = statistics.fmean(cells[-1]) - statistics.fmean(cells[0])
            sides.append((width / middle, (std / middle) ** 2 * (1 / len(cells[0]) + 1 / len(cells[-1])), df))
        (a, noise_a, df_a), (b, noise_b, df_b) = sides
        gain = interval_of(self.factor * b - a, [(noise_a, df_a), (self.factor**2 * noise_b, df_b)])
        found = decide_gain(gain)
        text = (
            f"relative spread of {self.metric} over {self.column}: {a:.3f} against {b:.3f}, claimed at most "
            f"{self.factor:g} times; margin {gain.value:.3g}, {found.text}"
        )
        return Finding(found.outcome, text, {"a": a, "b": b, "gain": gain.value} | found.numbers)


@dataclass(frozen=True, kw_only=True)
class FactRule(Rule):
    """Rule FACT: facts that no measurement gives, of analyses (:mod:`eval.results.analyses`).

    Attributes:
        of: Name of an analysis of the preset.
        fact: Name of the number.
        than: Name of the number by which it is divided.
        a: Row, or rows by conditions; none for an analysis without rows.
        b: Rows that A's are compared with, instead of a range.
        low: Least value.
        high: Largest value.
        seeds: Least number of training seeds of conditions.
    """

    text = (
        "a number of an analysis, which no measurement gives, lies in the given range (with `than`: its ratio to "
        "another does): of one row the interval that the analysis gives, of conditions the 95 % interval over at least "
        "three training seeds; with B, it is larger for A than for B (Welch's t)"
    )
    effects = {"gain": "{}"}
    of: str
    fact: str
    than: str = ""
    a: Operand | None = None
    b: Operand | None = None
    low: float = 0.0
    high: float = math.inf
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.b is not None and (self.a is None or self.a.run is not None):
            raise SettingError("a", "rule FACT compares rows by conditions on both sides")

    @property
    def subject(self) -> str:
        """Name of the number with spaces."""
        return self.fact.replace("_", " ")

    @property
    def facts(self) -> Mapping[str, tuple[str, ...]]:
        """The number and its divisor."""
        return {self.of: tuple(filter(None, (self.fact, self.than)))}

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A number lies in the range, or the mean of rows over training seeds does, or A's is larger than B's."""
        if self.a is None:
            return self._without_rows(evidence)
        if self.a.run is not None:
            return self._of_row(self.a.run, evidence)
        names = evidence.seeds_of(self.a, self.seeds, f"{where}.a")
        blocks, text = self._over_seeds(names, evidence)
        text = f"{evidence.fact(self.of, self.fact, names[0])[1]} {text}"
        if self.b is not None:
            return self._against(self.b, blocks, text, evidence, where)
        found = mean_interval(blocks)
        decided = decide_range(found, self.low, self.high)
        text += f"; {decided.text}, claimed {self._claimed()}"
        return Finding(decided.outcome, text, {"gain": found.value} | decided.numbers)

    def _without_rows(self, evidence: Evidence) -> Finding:
        """A number of an analysis without rows, or its ratio to another."""
        texts, values = [], []
        for name in self.facts[self.of]:
            value, about, _, _ = self._value(name, "", evidence)
            texts.append(f"{about}: {value:.4g}")
            values.append(value)
        found = values[0] / values[1] if self.than else values[0]
        text = "; ".join(texts) + (f"; ratio {found:.4g}" if self.than else "")
        outcome: Outcome = "supported" if self.low <= found <= self.high else "contradicted"
        return Finding(outcome, f"{text}, claimed {self._claimed()}", {"value": found})

    def _of_row(self, run: str, evidence: Evidence) -> Finding:
        """A value of one row with the interval that the analysis gives."""
        value, about, low, high = self._value(self.fact, run, evidence)
        text = f"{about}: {value:.3g} ({evidence.label(run)})"
        text += f", between {low:.3g} and {high:.3g}" if low < high else ""
        outcome: Outcome = "supported" if self.low <= low and high <= self.high else UNDECIDED
        outcome = "contradicted" if high < self.low or low > self.high else outcome
        return Finding(outcome, f"{text}, claimed {self._claimed()}", {"value": value})

    def _against(self, b: Operand, blocks: ByTeacher, text: str, evidence: Evidence, where: str) -> Finding:
        """A's mean is larger than B's."""
        others = evidence.seeds_of(b, self.seeds, f"{where}.b")
        blocks_b, text_b = self._over_seeds(others, evidence)
        effect = difference(blocks, blocks_b)
        decided = decide_gain(effect)
        text += f" against {text_b}; larger by {effect.value:.3g}, {decided.text}"
        numbers = sides_of(_pooled(blocks), _pooled(blocks_b)) | {"gain": effect.value}
        return Finding(decided.outcome, text, numbers | decided.numbers)

    def _value(self, name: str, run: str, evidence: Evidence) -> tuple[float, str, float, float]:
        """Value of a fact, its description, and the ends of its interval."""
        found, about = evidence.fact(self.of, name, run)
        if found is None:
            raise NotMeasuredError("", f"the analysis {self.of} has no {about} with its settings")
        value, low, high = found if isinstance(found, Sequence) else (found, found, found)
        return value, about, low, high

    def _over_seeds(self, names: Sequence[str], evidence: Evidence) -> tuple[ByTeacher, str]:
        """Values of rows by teacher, and their mean in words."""
        blocks = evidence.by_teacher(names, lambda name: self._value(self.fact, name, evidence)[0])
        return blocks, f"{show(_pooled(blocks))} ({evidence.label(names[0])}; {len(names)} training seeds)"

    def _claimed(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.a is not None else f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.low == -math.inf else f"{self.low:g} to {self.high:g}"


def _pooled(blocks: ByTeacher) -> Estimate:
    return Estimate.of([value for values in blocks.values() for value in values])
