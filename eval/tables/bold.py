"""The bold rule: the best values of a column, and those that the best one does not beat."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sida.eval.contrasts import DECIDING, interval_of, joint
from sida.eval.results.agreement import PUBLISHED_TRIALS, is_given
from sida.eval.results.identity import NO_DATA, NO_DIGEST, UNKNOWN, Identity, comparable, reason_against
from sida.eval.results.retraining import Retraining
from sida.eval.results.sheet import SheetRow
from sida.eval.tables.cells import Best, Side, TableLine
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
        value: The value in the unit of the column, with the sign that makes lower ones better.
        rounded: The same with the decimals of the table, or as printed.
        noise: Variance of the value with its degrees of freedom; None for a single trial.
        retraining: Variance of a repeated training, of which all candidates have one estimate; None: unknown.
        source: Row of the sheet behind a measured value.
        trainings: Number of trainings of this suite behind it.
        is_one_network: Whether no training is repeated: several trainings, a given network, the lowest of several runs.
    """

    side: Side
    row: int
    identity: Identity
    value: float
    rounded: float
    noise: tuple[float, float] | None
    retraining: tuple[float, float] | None
    source: SheetRow | None = None
    trainings: int = 0
    is_one_network: bool = False

    @property
    def unknown(self) -> str | None:
        """Reason why the noise of the value is unknown; None if it is known."""
        if self.noise is None:
            return NO_TRIALS
        return None if self.is_one_network or self.retraining else NO_RETRAINING

    def retraining_beside(self, other: "_Candidate") -> list[tuple[float, float]]:
        """Variance of a repeated training where the value is compared with another one."""
        is_given_there = self.is_one_network or is_given(self.source, self.trainings, [other.source])
        return [self.retraining] if self.retraining and not is_given_there else []

    def beats(self, other: "_Candidate", candidates: int) -> bool:
        """Whether this value is the better one of the two beyond their noise; equal ones as printed are equal.

        Args:
            other: Another value.
            candidates: Number of values of which this is the best: one in a hundred columns of equal generators has a
                pair of values that differ (Bonferroni).
        """
        if self.rounded == other.rounded or self.noise is None or other.noise is None:
            return False
        parts = [self.noise, other.noise, *joint(self.retraining_beside(other) + other.retraining_beside(self))]
        confidence = 1 - (1 - DECIDING) / math.comb(candidates, 2)
        return interval_of(other.value - self.value, parts, confidence).low > 0

    def rank_of(self, other: "_Candidate", candidates: int) -> Rank | None:
        """Rank of a value of the column of which this is the best; the arguments are those of :meth:`beats`."""
        if self.rounded == other.rounded:
            return "best"
        return None if self.beats(other, candidates) else "level"


def best_values(
    layout: TableLayout, lines: Sequence[TableLine], mode: Mode, retraining: Retraining | None
) -> tuple[Best, list[str]]:
    """Ranks of each column's values, and notes on them; in audit mode separately for published and measured numbers.

    A value has no rank if there is a reason against it (:func:`sida.eval.results.identity.reason_against`).

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
    for column in layout.columns:
        bold = layout.bold
        if bold and column.metric and column.direction and (bold.columns is None or column.id in bold.columns):
            candidates = list(_candidates(bold, column, lines, retraining))
            ranks, reason = _ranks(candidates, mode)
            best |= {
                (one.side, column.id, one.row): rank for one, rank in ranks.items() if not reason_against(one.identity)
            }
            if reason:
                without[reason].append(column.head)
    level = f"{LEVEL_MARK}: not beaten by the best one beyond noise and retraining."
    notes = [level] if "level" in best.values() else []
    notes += [f"No measured value of {', '.join(heads)} is bold: {why}." for why, heads in without.items() if heads]
    return best, notes


def _ranks(candidates: Sequence[_Candidate], mode: Mode) -> tuple[dict[_Candidate, Rank], str | None]:
    """Ranks of a column's values, and the reason why no measured one has a rank.

    The best value, which may be a published number of a row that is not measured, ranks first if it beats another one
    beyond the noise of evaluation and the scatter of training; measured values that it does not beat are level with it.
    Published numbers alone are ranked as the paper ranks them, by their values. No measured value has a rank where
    noise or scatter is unknown, or where the measured values are not comparable with each other.
    """
    measured = [one for one in candidates if one.side == "measured"]
    published = [one for one in candidates if one.side == "published"]
    rows = {one.row for one in measured}
    rivals = [*measured, *(one for one in published if one.row not in rows)]
    first = reason = None
    # Each with each, since unknown seeds are comparable with any.
    pairs = itertools.combinations({one.identity for one in measured}, 2)
    # A row alone is not the best of anything.
    if measured and len(rivals) > 1 and not any(itertools.starmap(comparable, pairs)):
        leader = min(rivals, key=lambda one: one.value)
        reason = next((one.unknown for one in rivals if one.unknown), None)
        if not reason and any(leader.beats(rival, len(rivals)) for rival in rivals):
            first = leader
        elif not reason:
            reason = UNDECIDED
    ranks = {one: first.rank_of(one, len(rivals)) for one in measured} if first else {}
    lowest = min((one.value for one in published), default=math.inf)
    for one in published:
        if one.rounded == lowest:
            ranks[one] = first.rank_of(one, len(rivals)) if first and mode == "paper" else "best"
    return {one: rank for one, rank in ranks.items() if rank}, reason


def _candidates(
    bold: BoldSpec, column: ColumnSpec, lines: Sequence[TableLine], retraining: Retraining | None
) -> Iterator[_Candidate]:
    """All numbers of a column in the rows that the bold rule is about, also of unknown generators."""
    sign = 1 if column.direction == "lower" else -1
    for row, line in enumerate(lines):
        source = line.sources[column.id]
        if not _is_about(bold, line):
            continue

        def of_training(mean: float, metric: str = source.metric) -> tuple[float, float] | None:
            return retraining.variance(metric, mean) if retraining else None

        found = list[_Candidate]()
        if (number := source.published) is not None:
            noise = float(number.std or 0) ** 2 / PUBLISHED_TRIALS, PUBLISHED_TRIALS - 1.0
            value, again = sign * number.value, of_training(number.value)
            facts = (number.identity, value, value, noise, again)
            found.append(_Candidate("published", row, *facts, is_one_network=bool(number.lowest_of)))
        if (estimate := source.estimate) is not None and source.identity is not None:
            mean, variance = column.scale * estimate.mean, (column.scale * (estimate.std or 0.0)) ** 2
            noise_here = None if estimate.std is None else (variance / estimate.trials, estimate.trials - 1.0)
            is_one = len(source.runs) > 1 or is_given(line.run, source.trainings)
            shown = (sign * mean, sign * round(mean, column.decimals))
            facts_here = (source.identity, *shown, noise_here, of_training(mean), line.run, source.trainings, is_one)
            found.append(_Candidate("measured", row, *facts_here))
        yield from (one for one in found if reason_against(one.identity) in (None, UNKNOWN, NO_DIGEST, NO_DATA))


def _is_about(bold: BoldSpec, line: TableLine) -> bool:
    """Whether the bold rule is about a row, by its family and its number of evaluations."""
    # A score without a family stands beside the one-step rows if it says so.
    alone = line.spec.scored and not line.family and line.nfe == 1
    if not line.spec.candidate or not (bold.families is None or line.family in bold.families or alone):
        return False
    return bold.max_nfe is None or (line.nfe is not None and line.nfe <= bold.max_nfe)
