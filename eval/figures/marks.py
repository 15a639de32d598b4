"""Points of a figure: the mean of trainings, its interval, and the single trainings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from eval.effects.contrast import CONFIDENCE, t_quantile


@dataclass(frozen=True)
class Single:
    """One training, or the difference of two: ids of rows, teacher, horizontal position and value."""

    runs: tuple[str, ...]
    teacher: str | None
    x: float
    value: float


@dataclass(frozen=True)
class Mark:
    """A point of a figure: the mean of trainings.

    Attributes:
        by: Value of the key that distinguishes points; of pooled teachers the first one.
        singles: Trainings of the point.
        interval: Kind of interval, see :class:`eval.figures.points_layout.PointsLayout`.
        scatter: Pooled standard deviation within the points of the series, and its degrees of freedom; None if not
            pooled.
    """

    by: float | str
    singles: tuple[Single, ...]
    interval: str
    scatter: tuple[float, int] | None = None

    @property
    def x(self) -> float:
        """Mean horizontal position of the trainings."""
        return statistics.fmean(single.x for single in self.singles)

    @property
    def value(self) -> float:
        """Mean over trainings."""
        return statistics.fmean(single.value for single in self.singles)

    @property
    def ends(self) -> tuple[float, float] | None:
        """Ends of the interval; None for one training."""
        return interval_ends([single.value for single in self.singles], self.interval, self.scatter)

    @property
    def x_ends(self) -> tuple[float, float] | None:
        """Ends of the interval of the horizontal position; None for one training or equal positions."""
        places = [single.x for single in self.singles]
        return interval_ends(places, self.interval) if len(set(places)) > 1 else None


def interval_ends(
    values: Sequence[float], kind: str, scatter: tuple[float, int] | None = None
) -> tuple[float, float] | None:
    """Ends of an interval of values.

    Args:
        values: Values of independent trainings.
        kind: ``t95`` (95 % interval of the mean by Student's t), ``pooled95`` (like ``t95`` with the given scatter),
            ``std`` (mean ± one sample standard deviation), ``range``, ``none``.
        scatter: Standard deviation and degrees of freedom for ``pooled95``.
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
    """Points of one look in the order of their line; ``lost``: positions of trainings whose value is not finite."""

    label: str
    marks: tuple[Mark, ...]
    by: str
    method: str
    alpha: float | None = None
    lost: tuple[float, ...] = ()
