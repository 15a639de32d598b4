"""The bold rule: the best printed values of a column, and the measured ones that the best one does not beat."""

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eval.contrasts import DECIDING, interval_of
from eval.results.agreement import PUBLISHED_TRIALS
from eval.results.identity import NO_DATA, NO_DIGEST, UNKNOWN, barred, comparable
from eval.results.retraining import Retraining
from eval.tables.cells import Best, CellSource, Side, TableLine
from eval.tables.layout import BoldSpec, ColumnSpec, Mode, TableLayout

#: Reason for a column of measured values without a best one.
UNRANKED = "nothing says how much its values scatter over trials, or over trainings (`retraining` of a preset)"


@dataclass(frozen=True)
class _Rival:
    """A value that a column ranks.

    Attributes:
        value: The value in the unit of the column; a measured one is not rounded.
        shown: The value as printed.
        noise: Variances of the value with their degrees of freedom; None: unknown.
    """

    value: float
    shown: float
    noise: list[tuple[float, float]] | None

    def beats(self, other: "_Rival") -> bool:
        """Whether this value is the better one of the two beyond their noise; equal ones as printed are equal."""
        if self.shown == other.shown or self.noise is None or other.noise is None:
            return False
        return interval_of(abs(self.value - other.value), self.noise + other.noise, DECIDING).low > 0


def best_values(
    layout: TableLayout, lines: list[TableLine], mode: Mode, retraining: Retraining | None = None
) -> tuple[Best, list[str]]:
    """Best values of the columns: in audit mode separately for published and measured numbers, else one for a column.

    Published numbers are ranked as the paper ranks them, by their printed values. A measured value is best unless the
    best value of the column, which may be a published number of a row that is not measured, beats it beyond the noise
    of evaluation and the scatter of training. Where that is unknown, no measured value is bold; neither if the measured
    values are not comparable with each other. No value is bold that may decide nothing
    (:func:`eval.results.identity.barred`).

    Args:
        layout: Columns and the bold rule.
        lines: Rows.
        mode: Mode of the table.
        retraining: Scatter of a repeated training; None: unknown.

    Returns:
        The best values, and headings of the columns whose measured values are not ranked for an unknown scatter.
    """
    best, unranked = set[tuple[Side, str, int]](), []
    for column in layout.columns:
        if layout.bold is None or column.metric is None or column.direction is None:
            continue
        if layout.bold.columns is not None and column.id not in layout.bold.columns:
            continue
        shown = {n: line.sources[column.id] for n, line in enumerate(lines) if _candidate(layout.bold, line)}
        why = {("published", n): barred(s.published.identity) for n, s in shown.items() if s.published}
        why |= {("measured", n): barred(s.identity) for n, s in shown.items() if s.identity}
        # A value of a generator that the metric's network trained is no rival; one of an unknown generator is.
        ranked = {key for key, reason in why.items() if reason in (None, UNKNOWN, NO_DIGEST, NO_DATA)}
        printed = {n: _printed_rival(s, retraining) for n, s in shown.items() if ("published", n) in ranked}
        values = {n: _rival(column, lines[n], s, retraining) for n, s in shown.items() if ("measured", n) in ranked}
        measured = {n: rival for n, rival in values.items() if rival is not None}
        winner = functools.partial(min if column.direction == "lower" else max, key=lambda rival: rival.value)
        rivals = [*measured.values(), *(rival for n, rival in printed.items() if n not in measured)]
        # A row alone is not the best of anything.
        if measured and _comparable(shown[n] for n in measured) and _number_of_values(shown) > 1:
            if any(rival.noise is None for rival in rivals):
                unranked.append(column.head)
            else:
                first = winner(rivals)
                best |= {("measured", column.id, n) for n, rival in measured.items() if not first.beats(rival)}
        if printed:
            first, among = winner(printed.values()), rivals if mode == "paper" and measured else []
            lead = {n for n, rival in printed.items() if rival.shown == first.shown}
            best |= {("published", column.id, n) for n in lead if not (among and winner(among).beats(printed[n]))}
        best -= {(side, column.id, n) for (side, n), reason in why.items() if reason}
    return best, unranked


def _comparable(sources: Iterable[CellSource]) -> bool:
    """Whether measured values may be compared: each with each, since unknown seeds are comparable with any."""
    identities = {source.identity for source in sources if source.identity}
    return not any(itertools.starmap(comparable, itertools.combinations(identities, 2)))


def _number_of_values(shown: Mapping[int, CellSource]) -> int:
    return sum(bool(source.estimate or source.published) for source in shown.values())


def _rival(column: ColumnSpec, line: TableLine, source: CellSource, retraining: Retraining | None) -> _Rival | None:
    """A measured value with its noise; several trainings have their own scatter, given networks have none."""
    estimate = source.estimate
    if estimate is None:
        return None
    noise = None if estimate.std is None else [(estimate.std**2 / estimate.trials, estimate.trials - 1.0)]
    is_given = line.run is not None and line.run.method in ("data", "teacher")
    if noise is not None and len(source.runs) == 1 and not is_given:
        scatter = retraining.variance(source.keys, estimate.mean) if retraining else None
        noise = None if scatter is None else [*noise, scatter]
    if noise is not None:
        noise = [(column.scale**2 * variance, df) for variance, df in noise]
    value = estimate.mean * column.scale
    return _Rival(value, round(value, column.decimals), noise)


def _printed_rival(source: CellSource, retraining: Retraining | None) -> _Rival:
    number = source.published
    assert number is not None
    noise: list[tuple[float, float]] | None = [(float(number.std or 0) ** 2 / PUBLISHED_TRIALS, PUBLISHED_TRIALS - 1)]
    if noise is not None and not number.lowest_of:
        scatter = retraining.variance([source.metric], number.value) if retraining else None
        noise = None if scatter is None else [*noise, scatter]
    return _Rival(number.value, number.value, noise)


def _candidate(bold: BoldSpec, line: TableLine) -> bool:
    # A score without a family stands beside the one-step rows if it says so.
    alone = line.spec.scored and not line.family and line.nfe == 1
    if not line.spec.candidate or not (bold.families is None or line.family in bold.families or alone):
        return False
    return bold.max_nfe is None or (line.nfe is not None and line.nfe <= bold.max_nfe)
