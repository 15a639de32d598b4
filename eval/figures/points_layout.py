"""Layout of a figure of points: measured generators against a column, a setting or another metric."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from eval.figures.kind import LineSpec, PanelsFigure, Runs, check_pick
from eval.results.selection import SELECTABLE
from eval.results.sheet import Run
from sida.errors import suggestion

#: Columns of the sample sheet that are numbers.
NUMBER_COLUMNS = ("alpha", "seed", "nfe")
#: Points by teacher: those that differ in nothing but their seed are one, where a panel pools teachers.
TEACHER = "teacher"
AxisScale = Literal["log", "linear"]
#: Intervals over the trainings of a point: ``t95`` (95 % interval of their mean by Student's t), ``pooled95`` (the same
#: with one standard deviation for all points of a series: for points of two or three trainings that scatter alike),
#: ``std`` (their sample standard deviation), ``range`` (lowest to highest) or ``none``. One training has none of them.
IntervalKind = Literal["t95", "pooled95", "std", "range", "none"]


@functools.cache
def settings_of(group: str) -> tuple[str, ...]:
    """Settings that points may stand against, by whose they are: ``recipe``, ``sampler``, ``teacher``; else none."""
    from sida.config.samplers import Sampler
    from sida.methods.recipe import Recipe
    from sida.training.config import TeacherTraining

    classes: dict[str, type] = {"recipe": Recipe, "sampler": Sampler, "teacher": TeacherTraining}
    return tuple(field.name for field in fields(classes[group])) if group in classes else ()


def check_by(key: str | None) -> None:
    """Requires a key that rows have a value of.

    Raises:
        ValueError: There is none of this name.
    """
    if key is None or key == TEACHER or key in NUMBER_COLUMNS:
        return
    group, _, name = key.partition(".")
    if known := settings_of(group):
        if name not in known:
            raise ValueError(f"by: a {group} has no setting '{name}'{suggestion(name, known)}")
        return
    ways = (TEACHER, *NUMBER_COLUMNS, "recipe.<setting>", "sampler.<setting>", "teacher.<setting>")
    raise ValueError(f"by: must be one of {', '.join(ways)}, got '{key}'")


@dataclass(frozen=True)
class MeasuredX:
    """A metric on the horizontal axis.

    Attributes:
        metric: Key of the metric in the protocol.
        of: Of the row itself, or of its teacher: the row of the sheet with method ``teacher`` and the same teacher.
        where: Conditions that pick one of several rows of the teacher.
    """

    metric: str
    of: Literal["row", "teacher"] = "row"
    where: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in self.where or {}:
            if key not in SELECTABLE:
                raise ValueError(f"where: the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")
        if self.where and self.of == "row":
            raise ValueError("where: picks a teacher's row; remove it, or set of to teacher")


@dataclass(frozen=True)
class PointSeries:
    """Points of one look, one for each value of what tells them apart; rows that differ in their seed are one point.

    Attributes:
        each: Conditions on the sample sheet.
        minus: Conditions on other rows, and the points are differences: each row's value less that of the row with the
            same value of ``by``, teacher and seed.
        share: Differences are shares of ``each``'s own value: 0.1 where ``minus`` is a tenth lower.
        by: What tells points apart, where it is not the panel's.
        label: Name in the legend (default the first row's in the sheet).
        optional: Whether no match, and rows without a measurement, are allowed; they are then reported as missing.
    """

    each: Mapping[str, Any]
    minus: Mapping[str, Any] | None = None
    share: bool = False
    by: str | None = None
    label: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        check_pick(self, ("each",), "give conditions")
        if self.minus is not None:
            check_pick(self, ("minus",), "give conditions")
        elif self.share:
            raise ValueError("share: is of differences; give minus, or remove it")
        check_by(self.by)


@dataclass(frozen=True)
class PointsPanel:
    """One pair of axes.

    Attributes:
        metric: On the vertical axis: key of the metric in the protocol.
        at: The kept generator's measurement, or the last evaluation of its training.
        by: What tells the points of a series apart, and, without ``x``, the horizontal axis: a column that is a number
            (:data:`NUMBER_COLUMNS`), a setting (``recipe.lambda_d``, ``sampler.guidance``, ``teacher.total_kimg``) or
            ``teacher``.
        x: A metric on the horizontal axis.
        pool_teachers: Rows whose teachers differ only in their seed are one point.
        lines: Horizontal lines, as in figures of curves.
        diagonal: Name of a line at which both axes have the same value; null draws none.
        name_points: Write the value of ``by`` beside each point.
        connect: Join the points of a series.
        interval: In the place of the layout's, one of :data:`IntervalKind`.
        legend: Place of the legend in matplotlib's words, e.g. ``lower left``.
        optional: Whether the panel is left out where no row matches its series.
    """

    series: tuple[PointSeries, ...]
    by: str
    metric: str = "fd"
    at: Literal["kept", "end"] = "kept"
    x: MeasuredX | None = None
    pool_teachers: bool = False
    lines: tuple[LineSpec, ...] = ()
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    x_scale: AxisScale = "linear"
    y_scale: AxisScale = "linear"
    diagonal: str | None = None
    name_points: bool = False
    connect: bool = True
    interval: IntervalKind | None = None
    legend: str = "best"
    optional: bool = False

    def __post_init__(self) -> None:
        if not self.series:
            raise ValueError("series: must not be empty")
        check_by(self.by)
        if self.x is None and TEACHER in (self.by, *(series.by for series in self.series)):
            raise ValueError("x: teachers have no place on an axis; give a metric, e.g. {metric: fd, of: teacher}")
        if self.diagonal is not None and self.x is None:
            raise ValueError("diagonal: needs a metric on both axes; give x")
        differences = [series.minus is not None for series in self.series]
        if any(differences) and not all(differences):
            raise ValueError("series: differences have a panel of their own; give all of them minus, or none")
        if any(differences) and (self.y_scale == "log" or (self.x is not None and self.x.of == "row")):
            key = "y_scale" if self.y_scale == "log" else "x"
            raise ValueError(f"{key}: differences may be negative and are of two rows; choose another {key}")


@dataclass(frozen=True, kw_only=True)
class PointsLayout(PanelsFigure):
    """A figure of measured generators against what tells them apart.

    Attributes:
        interval: Over the trainings of a point, one of :data:`IntervalKind`.
        band: Draw intervals as a band along the series instead of a bar at each point.
    """

    panels: tuple[PointsPanel, ...]
    interval: IntervalKind = "t95"
    band: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for panel in self.panels:
            if panel.x is not None and panel.x.of == "row" and self.interval_of(panel) == "pooled95":
                raise ValueError(
                    "interval: pooled95 is of values, not of places; choose t95 where both axes are the row's"
                )

    def interval_of(self, panel: PointsPanel) -> IntervalKind:
        """A panel's own interval, else that of all."""
        return panel.interval or self.interval

    def panel_rows(self, panel: PointsPanel, runs: Runs) -> list[tuple[PointSeries, Run]]:
        """Rows of a panel with their series, those that a difference takes away included."""
        return [
            (series, run)
            for series in panel.series
            for run in (*self.pick(series.each, runs), *(self.pick(series.minus, runs) if series.minus else ()))
        ]

    def teachers(self, x: MeasuredX, run: Run, runs: Runs) -> list[Run]:
        """Rows that measure a row's teacher; a horizontal axis is made of one."""
        return self.pick({**(x.where or {}), "method": "teacher", "teacher": run.teacher}, runs)
