"""Numbers of generators: means of measured trials and printed numbers in one form, and rule EQ between the two.

Tables, their ranks and claims take each number as a :class:`Number`, with the identity by which it may be compared and
the noise with which it is.

Rule EQ compares a measured mean with a published number. The tolerance is three standard errors of the difference with
a floor of one per cent (two per cent when the published number has no spread), because a re-implementation of a metric
differs a little in its last digits. Precision and recall, printed with two decimals, get 0.01. A row that is trained
here is another training than the printed one: the scatter of both counts, and where it is unknown, nothing is compared.

A number that is *better* than printed by more than the tolerance is not a reproduction either: data images among the
samples, or a wrong reference, make numbers better.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from sida.eval.results.identity import Identity, comparable
from sida.eval.results.measurements import Estimate, Measurement, Measurements
from sida.eval.results.published import Published
from sida.eval.results.retraining import Retraining, load_retraining
from sida.eval.results.sheet import SheetRow, exposure_of
from sida.methods.method import Exposure

#: Evaluations behind a printed spread.
PUBLISHED_TRIALS = 10
#: Standard deviation of the lowest of three normal values, in standard deviations of one value.
_SPREAD_OF_LOWEST = 0.748
#: Scatter of printed metrics over trainings: a file of ``config/retraining``.
RETRAINING = "printed"
#: Tolerance of metrics that are printed with two decimals.
COARSE = {"precision": 0.01, "recall": 0.01}
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

    @classmethod
    def by_rule(cls, metric: str, difference: float, error: float, floor: float) -> Self:
        """The agreement by rule EQ.

        Args:
            metric: Key of the metric.
            difference: Measured − published.
            error: Standard error of the difference.
            floor: Least tolerance, of metrics that are printed with more than two decimals.
        """
        return cls(difference, COARSE.get(metric, max(3 * error, floor)), metric in HIGHER_IS_BETTER)

    @property
    def outcome(self) -> AgreementOutcome:
        """Result: agrees within the combined uncertainty, better, or worse."""
        if abs(self.difference) <= self.tolerance + 1e-12:
            return "agrees"
        return "better" if (self.difference > 0) == self.higher else "worse"


@dataclass(frozen=True, eq=False)
class Number:
    """A metric of a generator: the mean of its trials, the mean of several trainings' means, or a printed number.

    Attributes:
        metric: Key of the metric.
        estimate: Mean with its spread over trials, or over trainings.
        identity: Identity of the value, with the networks that the generators were exposed to.
        runs: Measured rows; empty for a printed number.
        row: Row of the sheet of the first one.
        lines: Lines of ``measurements.csv`` behind the mean.
        trainings: Number of trainings of this suite behind it; 0 for other networks.
        printed: The published number.
    """

    metric: str
    estimate: Estimate
    identity: Identity
    runs: tuple[str, ...] = ()
    row: SheetRow | None = None
    lines: Sequence[Measurement] = ()
    trainings: int = 0
    printed: Published | None = None

    @classmethod
    def of_paper(cls, published: Published, metric: str) -> Self:
        """A published number of a metric by its key; its spread is 0 where none is printed."""
        estimate = Estimate(published.value, float(published.std or 0), PUBLISHED_TRIALS)
        return cls(metric, estimate, published.identity, printed=published)

    @classmethod
    def measured(
        cls,
        measurements: Measurements,
        sheet: Mapping[str, SheetRow],
        runs: Sequence[str],
        metric: str,
        where: str = "",
    ) -> Self | None:
        """The mean of one row, or of several rows, each of which counts once; None unless all have the metric.

        Args:
            measurements: Measured values.
            sheet: Rows of the sheet by run.
            runs: Measured rows.
            metric: Key of the metric.
            where: Place, for errors.

        Raises:
            UserError: A trial of a row does not have the metric.
        """
        if not runs or not all(measurements.has(run, metric) for run in runs):
            return None
        means = [measurements.estimate(run, metric, where) for run in runs]
        estimate = means[0] if len(runs) == 1 else Estimate.of([one.mean for one in means])
        lines = [line for run in runs for line in measurements.lines(run, metric)]
        exposures = [exposure_of(measurements.of_run(run)[0], sheet.get(run)) for run in runs]
        known = [exposure for exposure in exposures if exposure is not None]
        exposure = functools.reduce(Exposure.__or__, known) if len(known) == len(exposures) else None
        identity = dataclasses.replace(lines[0].identity, exposure=exposure)
        return cls(metric, estimate, identity, (*runs,), sheet.get(runs[0]), lines, trainings_of(sheet, lines))

    @property
    def name(self) -> str:
        """The generator, for messages."""
        return f"{self.printed.row_label}, published" if self.printed else f"run '{', '.join(self.runs)}'"

    @property
    def noise(self) -> tuple[float, float] | None:
        """Variance of the mean with its degrees of freedom; None for a single trial."""
        std, trials = self.estimate.std, self.estimate.trials
        return None if std is None else (std**2 / trials, trials - 1.0)

    def is_one_network(self, beside: Sequence[SheetRow | None] = ()) -> bool:
        """Whether no repeated training changes the number: it is of several trainings, or of a given network.

        Given are real images, a released teacher, and a teacher that was trained here where it stands beside its own
        students. A printed number is, if it is the lowest of several runs.

        Args:
            beside: Rows that the number is compared with.
        """
        if self.printed is not None:
            return bool(self.printed.lowest_of)
        if len(self.runs) > 1 or self.row is None or self.row.method not in ("data", "teacher"):
            return len(self.runs) > 1
        if self.row.method == "data" or not self.trainings:
            return True
        teacher = self.row.teacher
        return bool(beside) and all(
            other is not None and other.method != "teacher" and other.teacher == teacher is not None for other in beside
        )

    def scatter(
        self, retraining: Retraining | None, beside: Sequence[SheetRow | None] = (), scale: float = 1.0
    ) -> list[tuple[float, float]] | None:
        """Variance of a repeated training with its degrees of freedom: none for one network; None if it is unknown.

        Args:
            retraining: Scatter of training.
            beside: As in :meth:`is_one_network`.
            scale: Factor of the number.
        """
        if self.is_one_network(beside):
            return []
        variance = retraining.variance(self.metric, scale * self.estimate.mean) if retraining else None
        return None if variance is None else [variance]


def trainings_of(rows: Mapping[str, SheetRow], lines: Sequence[Measurement]) -> int:
    """Number of trainings of this suite behind measured lines; 0 if one of them is of another network.

    The sheet says so of generators, and the header of its network of any other one, such as a teacher.

    Args:
        rows: Rows of the sheet by run.
        lines: Lines of one or more runs.
    """
    here = {line.run: bool(line.trained_on) or (line.run in rows and rows[line.run].trained_here) for line in lines}
    return len(here) if all(here.values()) else 0


def compare(number: Number, published: Published) -> Agreement | str:
    """Compares a measured number with a published one of the same protocol; returns the reason if it cannot.

    Args:
        number: The measured number.
        published: Number as printed. For teachers this is the lowest of three runs; it is compared with the lowest of
            the first three trials, which have the seeds of these runs.
    """
    estimate, of_published = number.estimate, published.identity
    identities = dict.fromkeys(line.identity for line in number.lines)
    apart = {identity: why for identity in identities if (why := comparable(identity, of_published))}
    if apart:
        why = "" if of_published.quoted else f": {next(iter(apart.values()))}"
        names = ", ".join(sorted({identity.protocol for identity in apart}))
        return f"measured under {names}, published under {of_published}{why}"
    if estimate.trials < 2:
        return "a single trial does not show the noise"
    if number.trainings and published.metric.lower() not in load_retraining(RETRAINING).std:
        return f"it is unknown how much {published.metric} scatters when a network is trained again"
    if not published.lowest_of:
        return agreement(estimate, published, number.trainings)
    first = [line.value for line in number.lines if line.trial < published.lowest_of]
    if len(first) < published.lowest_of:
        return f"published is the lowest of {published.lowest_of} runs, measured were {len(first)} trials"
    spread = None if estimate.std is None else _SPREAD_OF_LOWEST * estimate.std
    lowest = Estimate(min(first), spread, 1)
    return dataclasses.replace(agreement(lowest, published, number.trainings), lowest=lowest.mean)


def agreement(estimate: Estimate, published: Published, trainings: int = 0) -> Agreement:
    """Compares a measurement with a published number by rule EQ (see the docstring of the module).

    Args:
        estimate: Mean over trials; with a single trial its spread counts as unknown (0).
        published: Number as printed, with its metric and the spread over 10 evaluations.
        trainings: Trainings of this suite that were measured; 0: the released network, whose number is printed.
    """
    metric = published.metric.lower()
    variance = (estimate.std or 0.0) ** 2 / estimate.trials
    if trainings and metric not in COARSE:
        # The printed generator is another training; the spread of several trainings here has their own scatter.
        variance += (load_retraining(RETRAINING).std[metric] * published.value) ** 2 * (2 if trainings == 1 else 1)
    if published.std:
        variance += float(published.std) ** 2 / PUBLISHED_TRIALS
    floor = (0.01 if published.std else 0.02) * abs(published.value)
    return Agreement.by_rule(metric, estimate.mean - published.value, math.sqrt(variance), floor)
