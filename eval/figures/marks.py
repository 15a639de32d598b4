"""Points of a figure: trainings at their places, their mean and its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from eval.effects.contrast import CONFIDENCE, t_quantile


@dataclass(frozen=True)
class Single:
    """One training (or two, of which it is the difference): ids of its rows, teacher, place and value."""

    runs: tuple[str, ...]
    teacher: str | None
    x: float
    value: float


@dataclass(frozen=True)
class Mark:
    """A point.

    Attributes:
        by: Value of what tells points apart; of teachers, the first that is pooled.
        singles: Its trainings.
        interval: Kind of interval, see :class:`eval.figures.points_layout.PointsLayout`.
        scatter: Standard deviation within the points of its series and its degrees of freedom, where these are pooled.
    """

    by: float | str
    singles: tuple[Single, ...]
    interval: str
    scatter: tuple[float, int] | None = None

    @property
    def x(self) -> float:
        """Mean of the trainings' places."""
        return statistics.fmean(single.x for single in self.singles)

    @property
    def value(self) -> float:
        """Mean over trainings."""
        return statistics.fmean(single.value for single in self.singles)

    @property
    def ends(self) -> tuple[float, float] | None:
        """Ends of the interval; None where there is none: of one training."""
        return interval_of([single.value for single in self.singles], self.interval, self.scatter)

    @property
    def x_ends(self) -> tuple[float, float] | None:
        """The same of the horizontal place; None also where all are at one."""
        places = [single.x for single in self.singles]
        return interval_of(places, self.interval) if len(set(places)) > 1 else None


def interval_of(
    values: Sequence[float], kind: str, scatter: tuple[float, int] | None = None
) -> tuple[float, float] | None:
    """Ends of an interval of some values.

    Args:
        values: Of independent trainings.
        kind: ``t95`` (of their mean, by Student's t), ``pooled95`` (the same, given the scatter), ``std`` (mean ± one
            sample standard deviation), ``range``, ``none``.
        scatter: Standard deviation and its degrees of freedom for ``pooled95``.
    """
    if len(values) < 2 or kind == "none":
        return None
    if kind == "range":
        return min(values), max(values)
    half, df = scatter if kind == "pooled95" and scatter is not None else (statistics.stdev(values), len(values) - 1)
    if kind != "std":
        half *= t_quantile(CONFIDENCE, df) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


@dataclass(frozen=True)
class MarkSeries:
    """Points of one look, in the order in which they are joined; ``lost``: places of trainings that were not finite."""

    label: str
    marks: tuple[Mark, ...]
    by: str
    method: str
    alpha: float | None = None
    lost: tuple[float, ...] = ()
