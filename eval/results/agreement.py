"""Agreement of a measured mean with a published number: rule EQ, for audit tables, claims and comparisons.

The tolerance is three standard errors of the difference with a floor of one per cent (two per cent when the published
number has no spread), because a re-implementation of a metric differs a little in its last digits. Precision and
recall, printed with two decimals, get 0.01. A row that is trained here is another training than the printed one: the
scatter of both counts, and where it is unknown, nothing is compared.

A number that is *better* than printed by more than the tolerance is not a reproduction either: data images among the
samples, or a wrong reference, make numbers better.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sida.eval.results.identity import comparable
from sida.eval.results.published import Published
from sida.eval.results.retraining import load_retraining
from sida.eval.results.sheet import SheetRow
from sida.eval.results.summary import Estimate, Measurement

#: Evaluations behind a printed spread.
PUBLISHED_TRIALS = 10
#: Standard deviation of the lowest of three normal values, in standard deviations of one value.
_SPREAD_OF_LOWEST = 0.748
#: Scatter of printed metrics over trainings: a file of ``config/retraining``.
RETRAINING = "printed"
_COARSE = {"precision": 0.01, "recall": 0.01}
#: Largest standard error of a score that another one is compared with, relative to the mean. Of the studies' stored
#: values of FD, IS, precision and recall at least 97 of 100 are below it.
MOST_ERROR = 0.05
#: Metrics of published tables and of the pages of which higher values are better.
HIGHER_IS_BETTER = {"is", "precision", "recall", "accuracy"}

AgreementOutcome = Literal["agrees", "better", "worse"]
AGREEMENT_MARKS: dict[AgreementOutcome | None, str] = {None: "", "agrees": "✓", "better": "△", "worse": "✗"}
LEGEND = (
    "✓ agrees within the combined uncertainty (three standard errors of the difference, at least 1 %; 2 % where no "
    "spread was published; 0.01 for precision and recall; with the scatter of two trainings, 1.3 % each for FID, where "
    "the row was trained here); △ better, ✗ worse than printed by more than that"
)


@dataclass(frozen=True)
class Agreement:
    """Difference measured − published with its tolerance, and whether higher values are better.

    ``lowest`` is the lowest value of the first trials if it is compared instead of the mean.
    """

    difference: float
    tolerance: float
    higher: bool = False
    lowest: float | None = None

    @property
    def outcome(self) -> AgreementOutcome:
        """Result: agrees within the combined uncertainty, better, or worse."""
        if abs(self.difference) <= self.tolerance + 1e-12:
            return "agrees"
        return "better" if (self.difference > 0) == self.higher else "worse"


def agreement_of(
    estimate: Estimate, lines: Sequence[Measurement], published: Published, trainings: int = 0
) -> Agreement | str:
    """Compares a measurement with a published number of the same protocol; returns the reason if it cannot.

    Args:
        estimate: Mean over trials.
        lines: Lines of the trials behind the mean.
        published: Number as printed. For teachers this is the lowest of three runs; it is compared with the lowest of
            the first three trials, which have the seeds of these runs.
        trainings: Trainings of this suite that were measured; 0: the released network, whose number is printed.
    """
    of_published = published.identity
    apart = {
        identity: why for identity in {row.identity for row in lines} if (why := comparable(identity, of_published))
    }
    if apart:
        why = "" if of_published.quoted else f": {next(iter(apart.values()))}"
        names = ", ".join(sorted({identity.protocol for identity in apart}))
        return f"measured under {names}, published under {of_published}{why}"
    if estimate.trials < 2:
        return "a single trial does not show the noise"
    metric = published.metric.lower()
    if trainings and metric not in load_retraining(RETRAINING).std:
        return f"it is unknown how much {published.metric} scatters when a network is trained again"
    if not published.lowest_of:
        return agreement(estimate, published, trainings)
    first = [row.value for row in lines if row.trial < published.lowest_of]
    if len(first) < published.lowest_of:
        return f"published is the lowest of {published.lowest_of} runs, measured were {len(first)} trials"
    spread = None if estimate.std is None else _SPREAD_OF_LOWEST * estimate.std
    return dataclasses.replace(agreement(Estimate(min(first), spread, 1), published, trainings), lowest=min(first))


def trainings_of(rows: Mapping[str, SheetRow], lines: Sequence[Measurement]) -> int:
    """Number of trainings of this suite behind measured lines; 0 if one of them is of another network.

    The sheet says so of generators, and the header of its network of any other one, such as a teacher.

    Args:
        rows: Rows of the sheet by run.
        lines: Lines of one or more runs.
    """
    here = {line.run: bool(line.trained_on) or (line.run in rows and rows[line.run].trained_here) for line in lines}
    return len(here) if all(here.values()) else 0


def is_given(row: SheetRow | None, trainings: int, others: Sequence[SheetRow | None] = ()) -> bool:
    """Whether a row is one network and represents no training: real images, or a teacher that is given.

    A released teacher always is, and one that was trained here beside its own students.

    Args:
        row: The row; None: unknown.
        trainings: Number of trainings of this suite behind it (:func:`trainings_of`).
        others: Rows that it is compared with.
    """
    if row is None or row.method not in ("data", "teacher"):
        return False
    if row.method == "data" or not trainings:
        return True
    return bool(others) and all(
        other is not None and other.method != "teacher" and other.teacher == row.teacher is not None for other in others
    )


def agreement(estimate: Estimate, published: Published, trainings: int = 0) -> Agreement:
    """Compares a measurement with a published number by rule EQ (see the docstring of the module).

    Args:
        estimate: Mean over trials; with a single trial its spread counts as unknown (0).
        published: Number as printed, with its metric and the spread over 10 evaluations.
        trainings: See :func:`agreement_of`.
    """
    metric = published.metric.lower()
    difference, higher = estimate.mean - published.value, metric in HIGHER_IS_BETTER
    if metric in _COARSE:
        return Agreement(difference, _COARSE[metric], higher)
    variance = (estimate.std or 0.0) ** 2 / estimate.trials
    if trainings:
        # The printed generator is another training; the spread of several trainings here has their own scatter.
        variance += (load_retraining(RETRAINING).std[metric] * published.value) ** 2 * (2 if trainings == 1 else 1)
    if published.std:
        error = math.sqrt(variance + float(published.std) ** 2 / PUBLISHED_TRIALS)
        return Agreement(difference, max(3 * error, 0.01 * abs(published.value)), higher)
    return Agreement(difference, max(3 * math.sqrt(variance), 0.02 * abs(published.value)), higher)


def agreement_of_two(here: Estimate, there: Estimate, metric: str) -> Agreement | str:
    """Compares two measurements of one network by rule EQ, without a scatter of trainings; or says why it cannot.

    Args:
        here: Mean over trials.
        there: Mean over trials of equal identity, by another group.
        metric: Key of the metric.
    """
    difference, higher = here.mean - there.mean, metric in HIGHER_IS_BETTER
    if here.standard_error is None or there.standard_error is None:
        return "a single trial does not show the noise"
    if any(one.standard_error > MOST_ERROR * abs(one.mean) for one in (here, there) if one.standard_error):
        return f"a standard error above {100 * MOST_ERROR:g} % agrees with too much"
    if metric in _COARSE:
        return Agreement(difference, _COARSE[metric], higher)
    error = math.hypot(here.standard_error, there.standard_error)
    return Agreement(difference, max(3 * error, 0.01 * abs(there.mean)), higher)
