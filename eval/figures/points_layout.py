"""Layout of a figure of points: measured generators against a column, a setting or another metric."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from eval.figures.layout import AxesSpec, AxisScale, PanelsFigure, Runs, check_pick
from eval.results.sheet import SELECTABLE, Needs, SheetRow
from sida.errors import SettingError, suggestion

#: Numeric columns of the sample sheet.
NUMBER_COLUMNS = ("alpha", "seed", "nfe")
#: Value of ``by`` for points by teacher; a panel may pool teachers that differ in the seed only.
TEACHER = "teacher"
#: Intervals over the trainings of a point: ``t95`` (95 % interval of their mean by Student's t), ``pooled95`` (the same
#: with one standard deviation for all points of a series: for points of two or three trainings that scatter alike),
#: ``std`` (their sample standard deviation), ``range`` (lowest to highest) or ``none``. One training has none of them.
IntervalKind = Literal["t95", "pooled95", "std", "range", "none"]


@functools.cache
def settings_of(group: str) -> tuple[str, ...]:
    """Settings of a group (``recipe``, ``sampler`` or ``teacher``) that points may be drawn against."""
    from sida.config.recipe import Recipe, TeacherTraining
    from sida.config.samplers import Sampler

    classes: dict[str, type] = {"recipe": Recipe, "sampler": Sampler, "teacher": TeacherTraining}
    return tuple(field.name for field in fields(classes[group])) if group in classes else ()


def check_by(key: str | None) -> None:
    """Requires a valid key ``by``: a numeric column, a setting or ``teacher``.

    Raises:
        ValueError: There is no such key.
    """
    if key is None or key == TEACHER or key in NUMBER_COLUMNS:
        return
    group, _, name = key.partition(".")
    if known := settings_of(group):
        if name not in known:
            raise SettingError("by", f"a {group} has no setting '{name}'{suggestion(name, known)}")
        return
    ways = (TEACHER, *NUMBER_COLUMNS, "recipe.<setting>", "sampler.<setting>", "teacher.<setting>")
    raise SettingError("by", f"must be one of {', '.join(ways)}, got '{key}'")


@dataclass(frozen=True)
class MeasuredX:
    """A metric on the horizontal axis.

    Attributes:
        metric: Key of the metric in the protocol.
        of: The row itself (``row``), or the row of the sheet with method ``teacher`` and the same teacher
            (``teacher``).
        where: Conditions that pick one of several rows of the teacher.
    """

    metric: str
    of: Literal["row", "teacher"] = "row"
    where: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in self.where or {}:
            if key not in SELECTABLE:
                raise SettingError("where", f"the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")
        if self.where and self.of == "row":
            raise SettingError("where", "picks a teacher's row", "remove it, or set of to teacher")


@dataclass(frozen=True)
class PointSeries:
    """Points of one look, one for each value of ``by``; rows that differ only in their seed are one point.

    Attributes:
        each: Conditions on the sample sheet.
        minus: Conditions on other rows. The points are then differences: the value of a row minus the value of the row
            with the same ``by``, teacher and seed.
        share: Whether differences are shares of the value of ``each``: 0.1 if ``minus`` is a tenth lower.
        by: Key that distinguishes points (default: that of the panel).
        label: Name in the legend (default: the label of the first row).
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
            raise SettingError("share", "is of differences", "give minus, or remove it")
        check_by(self.by)


@dataclass(frozen=True, kw_only=True)
class PointsPanel(AxesSpec):
    """One pair of axes.

    Attributes:
        metric: Metric on the vertical axis: a key of the protocol; with ``of`` a fact of the analysis.
        of: Analysis of the preset whose fact ``metric`` is drawn.
        at: Measurement of the kept generator (``kept``), or last evaluation of the training (``end``).
        by: Key that distinguishes the points of a series, and without ``x`` the horizontal axis: a numeric column
            (:data:`NUMBER_COLUMNS`), a setting (``recipe.lambda_d``, ``sampler.guidance``, ``teacher.total_kimg``) or
            ``teacher``.
        x: Metric on the horizontal axis.
        pool_teachers: Whether rows whose teachers differ only in their seed are one point.
        diagonal: Name of the line on which both axes have the same value; null draws no line.
        name_points: Whether the value of ``by`` is written beside each point.
        connect: Whether the points of a series are joined.
        interval: Interval of the panel (default: that of the layout), one of :data:`IntervalKind`.
    """

    series: tuple[PointSeries, ...]
    by: str
    at: Literal["kept", "end"] = "kept"
    x: MeasuredX | None = None
    pool_teachers: bool = False
    x_scale: AxisScale = "linear"
    y_scale: AxisScale = "linear"
    diagonal: str | None = None
    name_points: bool = False
    connect: bool = True
    interval: IntervalKind | None = None

    def __post_init__(self) -> None:
        if not self.series:
            raise SettingError("series", "must not be empty")
        if self.of is not None and (self.lines or self.at == "end"):
            raise SettingError("lines" if self.lines else "at", "is of measurements", "remove it, or of")
        check_by(self.by)
        if self.x is None and TEACHER in (self.by, *(series.by for series in self.series)):
            raise SettingError(
                "x", "teachers have no place on an axis", "give a metric, e.g. {metric: fd, of: teacher}"
            )
        if self.diagonal is not None and self.x is None:
            raise SettingError("diagonal", "needs a metric on both axes", "give x")
        differences = [series.minus is not None for series in self.series]
        if any(differences) and not all(differences):
            raise SettingError("series", "differences have a panel of their own", "give all of them minus, or none")
        if any(differences) and (self.y_scale == "log" or (self.x is not None and self.x.of == "row")):
            key = "y_scale" if self.y_scale == "log" else "x"
            raise SettingError(key, "differences may be negative and are of two rows", f"choose another {key}")


@dataclass(frozen=True, kw_only=True)
class PointsLayout(PanelsFigure):
    """Points of measured generators against a column, a setting or another metric.

    Attributes:
        interval: Interval over the trainings of a point, one of :data:`IntervalKind`.
        band: Whether intervals are a band along the series instead of bars.
    """

    panels: tuple[PointsPanel, ...]
    interval: IntervalKind = "t95"
    band: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for panel in self.panels:
            if panel.x is not None and panel.x.of == "row" and self.interval_of(panel) == "pooled95":
                raise SettingError(
                    "interval", "pooled95 is of values, not of places", "choose t95 where both axes are the row's"
                )

    def interval_of(self, panel: PointsPanel) -> IntervalKind:
        """Interval of a panel: its own, else that of the figure."""
        return panel.interval or self.interval

    def panel_rows(self, panel: PointsPanel, runs: Runs) -> list[tuple[PointSeries, SheetRow]]:
        """Rows of a panel with their series, including rows that differences subtract."""
        return [
            (series, run)
            for series in panel.series
            for run in (*self.pick(series.each, runs), *(self.pick(series.minus, runs) if series.minus else ()))
        ]

    def teachers(self, x: MeasuredX, run: SheetRow, runs: Runs) -> list[SheetRow]:
        """Rows that measure the teacher of a row; a horizontal axis needs exactly one."""
        return self.pick({**(x.where or {}), "method": "teacher", "teacher": run.teacher}, runs)

    def needs(self, runs: Runs) -> Needs:
        """Needs rows with a point, their teachers and measured lines, and settings of the horizontal axis."""
        measured, logged, settings = set[str](), set[str](), dict[str, set[str]]()
        analysed: dict[str, dict[str, None]] = {}
        for panel in self.present(runs).panels:
            shown = self.panel_rows(panel, runs)
            for series, run in shown:
                settings.setdefault(run.run, set()).add(series.by or panel.by)
            measured |= {run.run for line in panel.lines for run in self.line_rows(line, runs)}
            if panel.of is None:
                (logged if panel.at == "end" else measured).update(run.run for _, run in shown)
            else:
                analysed.setdefault(panel.of, {}).update(dict.fromkeys(run.run for _, run in shown))
            if panel.x is not None and panel.x.of == "teacher":
                measured |= {run.run for _, row in shown for run in self.teachers(panel.x, row, runs)}
            elif panel.x is not None:
                measured |= {run.run for _, run in shown}
        analyses = {name: list(rows) for name, rows in analysed.items()}
        return Needs(measured, logged, settings=settings, analyses=analyses)
