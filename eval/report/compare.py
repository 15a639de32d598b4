"""Compares two sets of measurements: means that differ by more than the evaluation noise.

Values that are not comparable are not compared; a note, or an error if nothing is left, names the differing field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eval.claims.evidence import Z, show
from eval.results.identity import comparable
from eval.results.measurements import read_score
from eval.results.summary import Estimate, Measurements, load_measurements
from eval.tables.model import Cell, Column, Row, Table
from sida.errors import UserError, suggestion

ComparisonOutcome = Literal["identical", "within noise", "lower", "higher", "single trial"]


@dataclass(frozen=True)
class RunDifference:
    """A metric of a run on both sides; ``outcome`` compares the second mean with the first."""

    run: str
    metric: str
    first: Estimate
    second: Estimate
    difference: float
    bound: float | None
    outcome: ComparisonOutcome


@dataclass(frozen=True)
class Comparison:
    """Differences of all common metrics, the runs of one side only, and values that are not compared, with reasons."""

    names: tuple[str, str]
    differences: tuple[RunDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    not_compared: tuple[str, ...] = ()

    @property
    def significant(self) -> list[RunDifference]:
        """Differences beyond the noise."""
        return [d for d in self.differences if d.outcome in ("lower", "higher")]


def compare(
    first: str | Path,
    second: str | Path,
    runs: Sequence[str] | None = None,
    pairs: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares two result folders, ``measurements.csv`` files or results of ``sida score``.

    Args:
        first: Folder of a preset (``results/demo``), a CSV file, or the JSON file of a score.
        second: The same.
        runs: Only these runs; all common ones by default.
        pairs: Runs of the second side by runs of the first, instead of common runs.

    Raises:
        UserError: No common run, an unknown run, or a run without a comparable value on both sides.
    """
    names = (str(first), str(second))
    one, other = _load(first), _load(second)
    if pairs and runs is not None:
        raise UserError("--runs and --pair", "use only one of them")
    if pairs:
        for pair in pairs.items():
            for measured, name, run in zip((one, other), names, pair):
                if run not in measured.runs:
                    raise UserError("--pair", f"{name} has no run '{run}'{suggestion(run, measured.runs)}")
        found, apart = _differences(one, other, names, pairs)
        return Comparison(names, tuple(found), (), (), apart)
    wanted = [run for run in one.runs if run in other.runs and (runs is None or run in runs)]
    missing = [run for run in runs or [] if run not in wanted]
    if missing:
        raise UserError("--runs", f"'{missing[0]}' was not measured on both sides")
    if not wanted:
        raise UserError("", f"{first} and {second} have no measured run in common", "name two with --pair A=B")
    found, apart = _differences(one, other, names, {run: run for run in wanted})
    alone = [() if runs is not None else tuple(r for r in side.runs if r not in wanted) for side in (one, other)]
    return Comparison(names, tuple(found), alone[0], alone[1], apart)


def _differences(
    first: Measurements, second: Measurements, names: tuple[str, str], pairs: Mapping[str, str]
) -> tuple[list[RunDifference], tuple[str, ...]]:
    """Differences of the comparable values of pairs of runs, and a line for each value that is not compared.

    Raises:
        UserError: A pair has common metrics, and no comparable value.
    """
    found: list[RunDifference] = []
    apart: list[str] = []
    for pair in pairs.items():
        common = [m for m in first.metrics if first.has(pair[0], m) and second.has(pair[1], m)]
        reasons = {m: comparable(first.identity(pair[0], m), second.identity(pair[1], m)) for m in common}
        if common and None not in reasons.values():
            why = "; ".join(dict.fromkeys(f"{metric}: {reason}" for metric, reason in reasons.items()))
            raise UserError(
                "",
                f"run '{_named(pair)}' is not comparable in {names[0]} and {names[1]} ({why})",
                "measure one of them again under the other's protocol, with the other's files",
            )
        apart += [f"{metric} of {_named(pair)} ({reason})" for metric, reason in reasons.items() if reason]
        found += [_difference(pair, metric, first, second) for metric, reason in reasons.items() if reason is None]
    return found, tuple(apart)


def _load(path: str | Path) -> Measurements:
    return read_score(Path(path)) if Path(path).suffix == ".json" else load_measurements(path)


def _named(pair: tuple[str, str]) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} / {pair[1]}"


def _difference(pair: tuple[str, str], metric: str, first: Measurements, second: Measurements) -> RunDifference:
    a, b = first.estimate(pair[0], metric), second.estimate(pair[1], metric)
    change, run = b.mean - a.mean, _named(pair)
    same = [row.value for row in first.lines(pair[0], metric)] == [row.value for row in second.lines(pair[1], metric)]
    if a.std is None or b.std is None:
        return RunDifference(run, metric, a, b, change, None, "identical" if same else "single trial")
    limit = Z * math.sqrt(a.std**2 / a.trials + b.std**2 / b.trials)
    outcome: ComparisonOutcome = "lower" if change < -limit else "higher" if change > limit else "within noise"
    return RunDifference(run, metric, a, b, change, limit, "identical" if same else outcome)


def comparison_table(comparison: Comparison) -> Table:
    """Table of the comparison."""
    numbers = (Column(head, number=True) for head in ("first", "second", "difference", "noise bound"))
    columns = (Column("run"), Column("metric"), *numbers, Column("second is"))
    rows, last = [], ""
    for d in comparison.differences:
        cells = [Cell(d.run if d.run != last else ""), Cell(d.metric), Cell(show(d.first)), Cell(show(d.second))]
        cells += [Cell(f"{d.difference:+.3g}".replace("-", "−")), Cell("" if d.bound is None else f"{d.bound:.2g}")]
        cells.append(Cell(d.outcome, bold=d.outcome in ("lower", "higher")))
        rows.append(Row(tuple(cells), rule=bool(last) and d.run != last))
        last = d.run
    counts = len(comparison.significant)
    notes = [f"first: {comparison.names[0]}; second: {comparison.names[1]}."]
    notes.append(
        f"{counts} of {len(comparison.differences)} differences exceed the evaluation noise (2.6 standard errors of "
        "the difference of the means); with this many comparisons about one in a hundred does so by chance."
    )
    for names, word in ((comparison.only_first, "first"), (comparison.only_second, "second")):
        notes += [f"Only in the {word}: {', '.join(names)}."] if names else []
    notes += [f"Not compared: {'; '.join(comparison.not_compared)}."] if comparison.not_compared else []
    return Table("comparison", "Comparison", "", "measured", columns, tuple(rows), tuple(notes))
