"""The bold rule: the best values of a column, and those that the best one does not beat."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sida.eval.contrasts import DECIDING, interval_of, joint
from sida.eval.results.identity import NO_DATA, NO_DIGEST, UNKNOWN, comparable, reason_against
from sida.eval.results.numbers import Number
from sida.eval.results.retraining import Retraining
from sida.eval.tables.cells import Side, TableLine
from sida.eval.tables.layout import BoldSpec, ColumnSpec, Mode, TableLayout
from sida.eval.tables.model import LEVEL_MARK, Rank

#: Reasons for a column of measured values without a best one.
UNDECIDED = "the best one beats none beyond noise and retraining"
NO_TRIALS = "a row has one trial, so the scatter of its value over trials is unknown"
NO_RETRAINING = "the scatter of its values over repeated trainings is unknown"
#: Reasons against a value that may be one of an honest generator: it has no rank, and others have one beside it.
_UNSTATED = (None, UNKNOWN, NO_DIGEST, NO_DATA)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A number of a column, which may be its best one.

    Attributes:
        row: Number of its row.
        side: Whether it is published or measured.
        number: The number.
        column: Its column.
        retraining: Scatter of a repeated training; None: unknown.
    """

    row: int
    side: Side
    number: Number
    column: ColumnSpec
    retraining: Retraining | None

    @property
    def scale(self) -> float:
        """Factor of the number for the unit of its column."""
        return 1.0 if self.number.printed else self.column.scale

    @property
    def value(self) -> float:
        """The value in the unit of the column, with the sign that makes lower ones better."""
        return (1 if self.column.direction == "lower" else -1) * self.scale * self.number.estimate.mean

    @property
    def rounded(self) -> float:
        """The same with the decimals of the table, or as printed."""
        return self.value if self.number.printed else round(self.value, self.column.decimals)

    @property
    def unknown(self) -> str | None:
        """Reason why the noise of the value is unknown; None if it is known."""
        if self.number.noise is None:
            return NO_TRIALS
        return NO_RETRAINING if self.number.scatter(self.retraining) is None else None

    def scatter(self, other: "_Candidate") -> list[tuple[float, float]]:
        """Variance of a repeated training where the value is compared with another one."""
        return self.number.scatter(self.retraining, [other.number.row], self.scale) or []

    def beats(self, other: "_Candidate", candidates: int) -> bool:
        """Whether this value is the better one of the two beyond their noise; equal ones as printed are equal.

        Args:
            other: Another value.
            candidates: Number of values of which this is the best: one in a hundred columns of equal generators has a
                pair of values that differ (Bonferroni).
        """
        noise = [(one.scale**2 * one.number.noise[0], one.number.noise[1]) for one in (self, other) if one.number.noise]
        if self.rounded == other.rounded or len(noise) < 2:
            return False
        confidence = 1 - (1 - DECIDING) / math.comb(candidates, 2)
        parts = [*noise, *joint(self.scatter(other) + other.scatter(self))]
        return interval_of(other.value - self.value, parts, confidence).low > 0

    def rank_of(self, other: "_Candidate", candidates: int) -> Rank | None:
        """Rank of a value of the column of which this is the best; the arguments are those of :meth:`beats`."""
        if self.rounded == other.rounded:
            return "best"
        return None if self.beats(other, candidates) else "level"


def ranked(
    layout: TableLayout, lines: Sequence[TableLine], mode: Mode, retraining: Retraining | None
) -> tuple[list[TableLine], list[str]]:
    """Ranks each column's values; in audit mode separately for published and measured numbers.

    A value has no rank if there is a reason against it (:func:`sida.eval.results.identity.reason_against`).

    Args:
        layout: Columns and the bold rule.
        lines: Rows.
        mode: Mode of the table.
        retraining: Scatter of a repeated training; None: unknown.

    Returns:
        The rows with ranks, and notes: the mark of a level value, and why measured values of columns have no rank.
    """
    cells = [dict(line.cells) for line in lines]
    without: dict[str, list[str]] = {UNDECIDED: [], NO_TRIALS: [], NO_RETRAINING: []}
    bold = layout.bold or BoldSpec()
    rows = [number for number, line in enumerate(lines) if layout.bold and _is_about(bold, line)]
    listed = [column for column in layout.columns if bold.columns is None or column.id in bold.columns]
    for column in listed:
        if not column.metric or not column.direction:
            continue
        candidates = [
            _Candidate(row, side, number, column, retraining)
            for row in rows
            for side, number in lines[row].cells[column.id].numbers.items()
            if reason_against(number.identity) in _UNSTATED
        ]
        published, measured = ([one for one in candidates if one.side == side] for side in ("published", "measured"))
        first, reason = _first(published, measured)
        if reason:
            without[reason].append(column.head)
        for one, rank in _ranks(first, published, measured, mode).items():
            if rank and not reason_against(one.number.identity):
                cell = cells[one.row][column.id]
                cells[one.row][column.id] = dataclasses.replace(cell, ranks={**cell.ranks, one.side: rank})
    is_level = any("level" in cell.ranks.values() for row_cells in cells for cell in row_cells.values())
    notes = [f"{LEVEL_MARK}: not beaten by the best one beyond noise and retraining."] * is_level
    notes += [f"No measured value of {', '.join(heads)} is bold: {why}." for why, heads in without.items() if heads]
    return [dataclasses.replace(line, cells=row_cells) for line, row_cells in zip(lines, cells)], notes


def _rivals(published: Sequence[_Candidate], measured: Sequence[_Candidate]) -> list[_Candidate]:
    """Values of which one is the best: the measured ones, and published ones of rows that are not measured."""
    rows = {one.row for one in measured}
    return [*measured, *(one for one in published if one.row not in rows)]


def _first(published: Sequence[_Candidate], measured: Sequence[_Candidate]) -> tuple[_Candidate | None, str | None]:
    """The best value of a column with measured ones, which beats another one; or why there is none.

    No value is where noise or scatter is unknown, or where the measured values are not comparable with each other.
    """
    rivals = _rivals(published, measured)
    # Each with each, since unknown seeds are comparable with any.
    pairs = itertools.combinations({one.number.identity for one in measured}, 2)
    # A row alone is not the best of anything.
    if not measured or len(rivals) < 2 or any(itertools.starmap(comparable, pairs)):
        return None, None
    if reason := next((one.unknown for one in rivals if one.unknown), None):
        return None, reason
    leader = min(rivals, key=lambda one: one.value)
    return (leader, None) if any(leader.beats(one, len(rivals)) for one in rivals) else (None, UNDECIDED)


def _ranks(
    first: _Candidate | None, published: Sequence[_Candidate], measured: Sequence[_Candidate], mode: Mode
) -> dict[_Candidate, Rank | None]:
    """Ranks of a column's values.

    Measured values that the best one, which may be a published number, does not beat are level with it. Published
    numbers alone are ranked as the paper ranks them, by their values.
    """
    rivals = len(_rivals(published, measured))
    ranks = {one: first.rank_of(one, rivals) for one in measured} if first else {}
    lowest = min((one.value for one in published), default=math.inf)
    for one in published:
        if one.rounded == lowest:
            ranks[one] = first.rank_of(one, rivals) if first and mode == "paper" else "best"
    return ranks


def _is_about(bold: BoldSpec, line: TableLine) -> bool:
    """Whether the bold rule is about a row, by its family and its number of evaluations."""
    # A score without a family stands beside the one-step rows if it says so.
    alone = line.spec.scored and not line.family and line.nfe == 1
    if not line.spec.candidate or not (bold.families is None or line.family in bold.families or alone):
        return False
    return bold.max_nfe is None or (line.nfe is not None and line.nfe <= bold.max_nfe)
