"""Evidence for claims: measured runs with their training logs, or the published numbers alone.

Verdicts from intervals, and numbers as text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.claims.model import DEPENDS, UNDECIDED, Measured, Operand, Outcome, Repeats
from eval.effects.contrast import Estimated, Interval, NotMeasuredError, mean_interval
from eval.results.analyses import Fact, analysis_path, read_analysis
from eval.results.identity import Identity, comparable
from eval.results.logs import Point, has_log, has_metric, read_evaluations, read_log
from eval.results.published import PUBLISHED_TRIALS, Published, published_number
from eval.results.sheet import SheetRow, matching
from eval.results.summary import Estimate, Measurements
from sida.errors import UserError


@dataclass(frozen=True)
class Evidence:
    """Measurements, training logs and published numbers that decide claims.

    Attributes:
        by_published: Decide from the published numbers themselves instead of measurements.
        students: Folder with the training logs of each run.
        repeats: Scatter of repeated rows; None: not known, or none.
    """

    measurements: Measurements
    runs: Mapping[str, SheetRow]
    published: Mapping[str, Published]
    students: Path | None = None
    by_published: bool = False
    repeats: Repeats | None = None

    def logged(self, operand: Operand) -> list[str]:
        """Ids of the runs that an operand names and that have a training log, measured or not.

        Raises:
            NotMeasuredError: None of them has one.
        """
        named = self._named(operand) if operand.run or operand.where else []
        found = [name for name in named if self.students and has_log(self.students / name / "train.jsonl")]
        if not found:
            raise NotMeasuredError("", f"no training log of {operand}")
        return found

    def require_gpus(self, runs: Iterable[str], gpus: str) -> None:
        """Requires that runs were trained on the cards that a claim about time or memory names (``8 × V100``).

        Raises:
            NotMeasuredError: A run was trained on other cards.
        """
        number, _, card = gpus.partition(" × ")
        for run in runs if gpus else ():
            found = str(self.ticks(run)[-1].get("gpus") or "no GPU")
            if not found.startswith(f"{number} × ") or card not in found:
                raise NotMeasuredError("", f"run '{run}' was trained on {found}; this is about {gpus}")

    def require_equal_budget(self, runs: Iterable[str]) -> None:
        """Requires that runs saw equally many images, up to one percent: a training ends with a whole batch.

        Raises:
            NotMeasuredError: They did not, or a run has no training log.
        """
        seen = [int(self.ticks(run)[-1]["nimg"]) for run in runs]
        if max(seen) - min(seen) > 0.01 * max(seen):
            raise NotMeasuredError("", f"budgets differ: {min(seen):,} to {max(seen):,} training images")

    def runs_of(self, operand: Operand, where: str) -> list[str]:
        """Ids of the measured runs that an operand names.

        Raises:
            NotMeasuredError: None of them is in the sample sheet or the measurements.
        """
        if operand.run is None and operand.where is None:
            raise NotMeasuredError("", f"no run here of {operand.published}")
        measured = [name for name in self._named(operand) if name in self.measurements.runs]
        if not measured:
            raise NotMeasuredError("", f"no measurement of {operand}")
        return measured

    def seeds_of(self, operand: Operand, least: int, where: str) -> list[str]:
        """Ids of the measured runs of an operand: at least as many training seeds as a rule requires.

        Raises:
            NotMeasuredError: There are fewer training seeds.
        """
        if self.by_published:
            raise NotMeasuredError("", "the papers report one training run of each")
        names = self.runs_of(operand, where)
        if len(names) < least:
            have = "one training seed" if len(names) == 1 else f"{len(names)} training seeds"
            raise NotMeasuredError("", f"{have}; this claim is about training and needs {least}")
        return names

    def by_teacher(self, names: Iterable[str], value: Callable[[str], float]) -> dict[str, list[float]]:
        """Values of runs, grouped by teacher."""
        blocks: dict[str, list[float]] = {}
        for name in names:
            blocks.setdefault(self.teacher(name), []).append(value(name))
        return blocks

    def interval_over(self, names: Iterable[str], value: Callable[[str], float]) -> Estimated:
        """Mean of a number over runs with its interval, within teachers.

        Raises:
            NotMeasuredError: Too few training seeds of every teacher.
        """
        return mean_interval(self.by_teacher(names, value))

    def identities(self, part: Measured, where: str) -> dict[str, Identity]:
        """Identities of the values that a part compares, by operand: of a metric of A, B and the level.

        Raises:
            NotMeasuredError: Values that may not be compared, unless the part declares a pair of A and B (``across``).
        """
        found: dict[str, tuple[str, Identity]] = {}
        first: tuple[str, Identity] | None = None
        for key, operand in part.compared.items():
            for name, one in self._identities(operand, part, f"{where}.{key}"):
                other = found.setdefault(key, (name, one)) if part.across else first
                first = first or (name, one)
                found.setdefault(key, (name, one))
                if other is not None and other[1] is not one and (reason := comparable(other[1], one)):
                    raise NotMeasuredError("", f"not compared: {other[0]} and {name}: {reason}")
        return {key: one for key, (_, one) in found.items()}

    def _identities(self, operand: Operand, part: Measured, where: str) -> list[tuple[str, Identity]]:
        if operand.value is not None or not part.measured:
            return []
        if operand.published is not None and (self.by_published or not (operand.run or operand.where)):
            number = self.quoted(operand, where)
            return [(f"{number.row_label}, published", number.identity)]
        names = [] if self.by_published else self._named(operand)
        measured = [name for name in names if self.measurements.has(name, part.measured)]
        found = [(f"run '{name}'", self.measurements.identity(name, part.measured)) for name in measured]
        if not part.across or operand.published is None or not found:
            return found
        # A pair that is declared is one of printed numbers; each side must be measured like its own.
        number = self.quoted(operand, where)
        return found if number.identity.quoted else [(f"{number.row_label}, published", number.identity), *found]

    def estimate(self, operand: Operand, metric: str, where: str) -> tuple[str, Estimate]:
        """Name and mean ± std of one generator; for an operand with a published number alone, the printed number.

        Raises:
            NotMeasuredError: Not measured (or, when deciding by published numbers, not published).
            UserError: The operand's conditions match several runs.
        """
        quoted = operand.published is not None and operand.run is None and operand.where is None
        if self.by_published or quoted:
            if operand.published is None:
                raise NotMeasuredError("", f"no published number for {operand}")
            number = published_number(self.published, operand.published, f"{where}.published")
            std = float(number.std) if number.std else 0.0
            return f"{number.row_label}, published", Estimate(number.value, std, PUBLISHED_TRIALS)
        names = self.runs_of(operand, where)
        if len(names) > 1:
            raise UserError(f"{where}.where", f"{dict(operand.where or {})} matches {', '.join(names)}", "pick one run")
        if not self.measurements.has(names[0], metric):
            raise NotMeasuredError("", f"metric '{metric}' of run '{names[0]}' was not measured")
        return self.label(names[0]), self.measurements.estimate(names[0], metric, where)

    def _named(self, operand: Operand) -> list[str]:
        if operand.run is not None:
            return [operand.run]
        return [run.run for run in matching(self.runs, operand.where or {})]

    def value(self, operand: Operand, run: str, metric: str) -> float:
        """Mean of a metric for one run: of the kept generator, or of the first or last evaluation during training.

        Raises:
            NotMeasuredError: The metric was not measured, or there is no training log.
        """
        if operand.at != "kept":
            return self.curve(run, metric)[0 if operand.at == "start" else -1].value
        if not self.measurements.has(run, metric):
            raise NotMeasuredError("", f"metric '{metric}' of run '{run}' was not measured")
        return self.measurements.estimate(run, metric).mean

    def noise_of_one(self, run: str, metric: str) -> float:
        """Relative standard deviation of one evaluation of a run, by its trials; 0 if the run has none."""
        if not self.measurements.has(run, metric):
            return 0.0
        found = self.measurements.estimate(run, metric)
        return abs((found.std or 0.0) / found.mean) if found.mean else 0.0

    def images(self, operand: Operand, metric: str, where: str) -> int:
        """Images per trial of a measured operand."""
        return self.measurements.lines(self.runs_of(operand, where)[0], metric)[0].n

    def label(self, run: str) -> str:
        """Label of a run with its number of function evaluations."""
        nfe = self.measurements.nfe(run)
        text = self.runs[run].label if run in self.runs else run
        return f"{text}, NFE {nfe}" if nfe and nfe > 1 else text

    def name(self, operand: Operand, runs: Sequence[str] = ()) -> str:
        """Name of an operand with its point on the curve: the label of the first of its ``runs``.

        Without ``runs``: the label of the first matching row of the sheet, measured or not, else the operand as text.
        """
        rows = runs or (self._named(operand) if operand.run or operand.where else [])
        point = {"kept": "", "start": " at the start", "end": " at the end"}[operand.at]
        return self.label(rows[0]) + point if rows else f"{operand}"

    def teacher(self, run: str) -> str:
        """Id of the teacher of a run; empty if the run has no teacher."""
        return (self.runs[run].teacher or "") if run in self.runs else ""

    def quoted(self, operand: Operand, where: str) -> Published:
        """The published number of an operand."""
        return published_number(self.published, str(operand.published), f"{where}.published")

    def curve(self, run: str, metric: str, finite: bool = True) -> tuple[Point, ...]:
        """Evaluations of a run during training; with ``finite`` False a NaN counts as infinity.

        Raises:
            NotMeasuredError: The run has no log, or its log does not have the metric.
        """
        path = self._log(run, "evaluations.jsonl")
        if not has_metric(path, metric):
            raise NotMeasuredError("", f"the training log of run '{run}' has no '{metric}'")
        return read_evaluations(path, metric, finite)

    def ticks(self, run: str) -> list[dict[str, Any]]:
        """Records of a run's ``train.jsonl``.

        Raises:
            NotMeasuredError: The run has no log, or its log is empty.
        """
        if records := read_log(self._log(run, "train.jsonl")):
            return records
        raise NotMeasuredError("", f"no training log of run '{run}'")

    def _log(self, run: str, name: str) -> Path:
        path = self.students / run / name if self.students else None
        if path is None or not has_log(path):
            raise NotMeasuredError("", f"no training log of run '{run}'")
        return path

    def fact(self, analysis: str, name: str, run: str = "") -> tuple[Fact, str]:
        """A fact of an analysis, of a row or of an analysis without rows, and its description.

        Raises:
            NotMeasuredError: The analysis, or this fact of it, was not computed.
            UserError: A faulty file.
        """
        path = analysis_path(self.students.parent, analysis, run) if self.students else None
        if path is None or not has_log(path):
            raise NotMeasuredError("", f"no analysis {analysis}{f' of run {run!r}' if run else ''}")
        found = read_analysis(path)
        if name not in found["facts"]:
            raise NotMeasuredError("", f"no fact '{name}' in {path.name}; compute it again")
        return found["facts"][name], str(found.get("about", {}).get(name, name))

    def repeat_std(self, run: str | None, metric: str) -> float:
        """Relative standard deviation of a metric if a row of this sheet were trained again elsewhere."""
        row = self.runs.get(run or "")
        if self.repeats is None or self.by_published or row is None or row.method in ("data", "external"):
            return 0.0
        return self.repeats.std.get(metric, 0.0)

    def noise(self, operand: Operand, metric: str, estimate: Estimate, where: str) -> list[tuple[float, float]]:
        """Variances of a generator's mean with their degrees of freedom: evaluation trials, and a repeated training.

        Raises:
            NotMeasuredError: The mean is of a single trial, so its noise is unknown.
        """
        if estimate.std is None:
            raise NotMeasuredError("", "a single trial says nothing about the noise; measure at least two")
        parts = [(estimate.std**2 / estimate.trials, max(1.0, estimate.trials - 1))]
        if self.repeats is not None and not self.by_published and (operand.run or operand.where):
            again = self.repeat_std(self.runs_of(operand, where)[0], metric) * estimate.mean
            parts.append((again**2, float(self.repeats.rows)))
        return parts


#: Words of rules for seeds of several teachers.
BLOCKS = "with several teachers within each teacher, averaged over them"


#: Coverage of intervals over the evaluation trials of single generators; over training seeds it is 95 %.
TRIALS = 0.99
#: Standard errors with this coverage where the noise is known.
Z = 2.6


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


def of_each(outcomes: Iterable[Outcome]) -> Outcome:
    """Verdict on a statement of which all parts must hold."""
    for outcome in ("contradicted", DEPENDS, UNDECIDED):
        if outcome in outcomes:
            return outcome
    return "supported"


def sides_of(a: Estimate, b: Estimate) -> dict[str, float | int | None]:
    """Numbers of two means that are compared."""
    return {"a": a.mean, "a_std": a.std, "a_n": a.trials, "b": b.mean, "b_std": b.std, "b_n": b.trials}
