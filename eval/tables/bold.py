"""The bold rule: the best values of a column, and those that the best one does not beat."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sida.eval.contrasts import DECIDING, interval_of, joint
from sida.eval.results.agreement import PUBLISHED_TRIALS, is_given
from sida.eval.results.identity import NO_DATA, NO_DIGEST, UNKNOWN, Identity, comparable, reason_against
from sida.eval.results.published import Published
from sida.eval.results.retraining import Retraining
from sida.eval.results.sheet import SheetRow
from sida.eval.results.summary import Estimate
from sida.eval.tables.cells import Best, CellSource, Side, TableLine
from sida.eval.tables.layout import BoldSpec, ColumnSpec, Mode, TableLayout
from sida.eval.tables.model import LEVEL_MARK, Rank

#: Reasons for a column of measured values without a best one.
UNDECIDED = "the best one beats none beyond noise and retraining"
NO_TRIALS = "a row has one trial, so the scatter of its value over trials is unknown"
NO_RETRAINING = "the scatter of its values over repeated trainings is unknown"


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A value of a column, which may be its best one.

    Attributes:
        side: Whether the value is published or measured.
        row: Number of its row.
        identity: Identity of the value.
        value: The value in the unit of the column; a measured one is not rounded.
        rounded: The value with the decimals of the table; a published one as printed.
        noise: Variances of the value with their degrees of freedom, or the reason why they are unknown.
        retraining: Variance of a repeated training, of which all candidates have one estimate; empty without one.
        source: Row of the sheet behind a measured value.
        trainings: Number of trainings of this suite behind it.
    """

    side: Side
    row: int
    identity: Identity
    value: float
    rounded: float
    noise: list[tuple[float, float]] | str
    retraining: list[tuple[float, float]]
    source: SheetRow | None
    trainings: int

    @property
    def reason(self) -> str | None:
        """Reason why the value cannot be bold; None without one."""
        return reason_against(self.identity)

    @property
    def ranks(self) -> bool:
        """Whether the column ranks the value, as it does one of an unknown generator, which is not bold itself."""
        return self.reason in (None, UNKNOWN, NO_DIGEST, NO_DATA)

    def retraining_beside(self, other: "_Candidate") -> list[tuple[float, float]]:
        """Variance of a repeated training where the value is compared with another one."""
        return [] if is_given(self.source, self.trainings, [other.source]) else self.retraining

    def beats(self, other: "_Candidate", candidates: int) -> bool:
        """Whether this value is the better one of the two beyond their noise; equal ones as printed are equal.

        Args:
            other: Another value.
            candidates: Number of values of which this is the best: one in a hundred columns of equal generators has a
                pair of values that differ (Bonferroni).
        """
        if self.rounded == other.rounded or isinstance(self.noise, str) or isinstance(other.noise, str):
            return False
        parts = self.noise + other.noise + joint(self.retraining_beside(other) + other.retraining_beside(self))
        confidence = 1 - (1 - DECIDING) / math.comb(candidates, 2)
        return interval_of(abs(self.value - other.value), parts, confidence).low > 0

    def rank_of(self, other: "_Candidate", candidates: int) -> Rank | None:
        """Rank of a value of the column of which this is the best; the arguments are those of :meth:`beats`."""
        if self.rounded == other.rounded:
            return "best"
        return None if self.beats(other, candidates) else "level"


def best_values(
    layout: TableLayout, lines: list[TableLine], mode: Mode, retraining: Retraining | None
) -> tuple[Best, list[str]]:
    """Ranks of each column's values, and notes on them; in audit mode separately for published and measured numbers.

    The best value of a column, which may be a published number of a row that is not measured, ranks first if it beats
    another one beyond the noise of evaluation and the scatter of training; measured values that it does not beat are
    level with it. Published numbers alone are ranked as the paper ranks them, by their values. No measured value has a
    rank where noise or scatter is unknown, or where the measured values are not comparable with each other. A value has
    none if there is a reason against it (:func:`sida.eval.results.identity.reason_against`).

    Args:
        layout: Columns and the bold rule.
        lines: Rows.
        mode: Mode of the table.
        retraining: Scatter of a repeated training; None: unknown.

    Returns:
        The ranks, and notes: the mark of a level value, and why measured values of columns have no rank.
    """
    best = dict[tuple[Side, str, int], Rank]()
    without: dict[str, list[str]] = {UNDECIDED: [], NO_TRIALS: [], NO_RETRAINING: []}
    if layout.bold is None:
        return best, []
    for column in (column for column in layout.columns if _is_ranked(layout.bold, column)):
        candidates = [candidate for candidate in _values(layout.bold, column, lines, retraining) if candidate.ranks]
        measured = [candidate for candidate in candidates if candidate.side == "measured"]
        published = [candidate for candidate in candidates if candidate.side == "published"]
        measured_rows = {candidate.row for candidate in measured}
        rivals = [*measured, *(candidate for candidate in published if candidate.row not in measured_rows)]
        first = None
        # A row alone is not the best of anything.
        if measured and _are_comparable(measured) and len(rivals) > 1:
            leader = _best_of(column, rivals)
            if unknown := next((rival.noise for rival in rivals if isinstance(rival.noise, str)), None):
                without[unknown].append(column.head)
            elif any(leader.beats(rival, len(rivals)) for rival in rivals):
                first = leader
            else:
                without[UNDECIDED].append(column.head)
        ranks = {one: first.rank_of(one, len(rivals)) for one in measured} if first else {}
        if published:
            lowest = _best_of(column, published).rounded
            beside = first if mode == "paper" else None
            ranks |= {
                one: beside.rank_of(one, len(rivals)) if beside else "best"
                for one in published
                if one.rounded == lowest
            }
        best |= {(one.side, column.id, one.row): rank for one, rank in ranks.items() if rank and one.reason is None}
    notes = (
        [f"{LEVEL_MARK}: not beaten by the best one beyond noise and retraining."] if "level" in best.values() else []
    )
    notes += [f"No measured value of {', '.join(heads)} is bold: {why}." for why, heads in without.items() if heads]
    return best, notes


def _is_ranked(bold: BoldSpec, column: ColumnSpec) -> bool:
    """Whether the bold rule marks the best value of a column."""
    return bool(column.metric and column.direction) and (bold.columns is None or column.id in bold.columns)


def _best_of(column: ColumnSpec, candidates: Sequence[_Candidate]) -> _Candidate:
    """The best of some values by the column's direction, regardless of noise."""
    choose = min if column.direction == "lower" else max
    return choose(candidates, key=lambda candidate: candidate.value)


def _are_comparable(measured: Iterable[_Candidate]) -> bool:
    """Whether measured values may be compared: each with each, since unknown seeds are comparable with any."""
    identities = {candidate.identity for candidate in measured}
    return not any(itertools.starmap(comparable, itertools.combinations(identities, 2)))


def _values(
    bold: BoldSpec, column: ColumnSpec, lines: Sequence[TableLine], retraining: Retraining | None
) -> Iterator[_Candidate]:
    """All numbers of a column in the rows that the bold rule is about."""
    for row, line in enumerate(lines):
        if not _is_about(bold, line):
            continue
        source = line.sources[column.id]
        if (number := source.published) is not None:
            parts = _published_noise(source, number, retraining)
            yield _Candidate("published", row, number.identity, number.value, number.value, *parts, None, 0)
        if source.estimate is not None and source.identity is not None:
            value = source.estimate.mean * column.scale
            parts = _measured_noise(column, line, source, source.estimate, retraining)
            shown = round(value, column.decimals)
            yield _Candidate("measured", row, source.identity, value, shown, *parts, line.run, source.trainings)


#: Variances of a value with their degrees of freedom (a reason: unknown), and that of a repeated training.
_Parts = tuple[list[tuple[float, float]] | str, list[tuple[float, float]]]


def _measured_noise(
    column: ColumnSpec, line: TableLine, source: CellSource, estimate: Estimate, retraining: Retraining | None
) -> _Parts:
    """Noise of a measured value; several trainings have their own scatter, networks from elsewhere have none."""
    if estimate.std is None:
        return NO_TRIALS, []
    noise = [(column.scale**2 * estimate.std**2 / estimate.trials, estimate.trials - 1.0)]
    if len(source.runs) > 1 or is_given(line.run, source.trainings):
        return noise, []
    return _with_retraining(noise, source.keys, column.scale * estimate.mean, retraining)


def _published_noise(source: CellSource, number: Published, retraining: Retraining | None) -> _Parts:
    """Noise of a published value, with the scatter of training unless it is the lowest of several evaluations."""
    noise = [(float(number.std or 0) ** 2 / PUBLISHED_TRIALS, PUBLISHED_TRIALS - 1.0)]
    return (noise, []) if number.lowest_of else _with_retraining(noise, [source.metric], number.value, retraining)


def _with_retraining(
    noise: list[tuple[float, float]], keys: Sequence[str], value: float, retraining: Retraining | None
) -> _Parts:
    of_training = retraining.variance(keys, value) if retraining else None
    return (NO_RETRAINING, []) if of_training is None else (noise, [of_training])


def _is_about(bold: BoldSpec, line: TableLine) -> bool:
    """Whether the bold rule is about a row, by its family and its number of evaluations."""
    # A score without a family stands beside the one-step rows if it says so.
    alone = line.spec.scored and not line.family and line.nfe == 1
    if not line.spec.candidate or not (bold.families is None or line.family in bold.families or alone):
        return False
    return bold.max_nfe is None or (line.nfe is not None and line.nfe <= bold.max_nfe)
