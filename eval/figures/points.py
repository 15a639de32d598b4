"""Data of a figure of points: means over trainings with intervals, differences of pairs, missing rows, and the CSV."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.effects.contrast import CONFIDENCE, pooled_std, t_quantile
from eval.figures.curves import ReferenceLine, identities_on, reference_line
from eval.figures.points_layout import NUMBER_COLUMNS, TEACHER, MeasuredX, PointSeries, PointsLayout, PointsPanel
from eval.figures.sources import Sources
from eval.results.sheet import SheetRow
from eval.results.summary import require_comparable
from sida.errors import UserError, suggestion
from sida.files.content_hash import csv_text


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


#: Look of a difference, in place of a method.
DIFFERENCE = "difference"


@dataclass(frozen=True)
class Marks:
    """Data of one pair of axes, and the names of missing rows and series."""

    spec: PointsPanel
    curves: tuple[MarkSeries, ...]
    lines: tuple[ReferenceLine, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def differences(self) -> bool:
        """Whether the points are differences."""
        return any(series.minus is not None for series in self.spec.series)


def gather_points(layout: PointsLayout, sources: Sources) -> list[Marks]:
    """Collects the data of every panel.

    Raises:
        UserError: Rows that are not optional in the layout are missing or not measured; two rows of one point have the
            same teacher and seed; a value is not a number.
    """
    found = []
    for number, spec in enumerate(layout.panels):
        where = f"{layout.source}: panels[{number}]"
        panel = _Panel(layout, spec, sources, [], [])
        curves = [panel.series(series, f"{where}.series[{n}]") for n, series in enumerate(spec.series)]
        lines = [
            reference_line(layout, spec.metric, line, sources, f"{where}.lines[{n}]", panel.missing)
            for n, line in enumerate(spec.lines)
        ]
        kept = tuple(line for line in lines if line is not None)
        panel.require_comparable(kept, where)
        shown = tuple(series for series in curves if series is not None and (series.marks or series.lost))
        found.append(Marks(spec, shown, kept, tuple(panel.missing), tuple(dict.fromkeys(panel.notes))))
    return found


@dataclass
class _Panel:
    """Collects the data of a panel from its rows."""

    layout: PointsLayout
    spec: PointsPanel
    sources: Sources
    missing: list[str]
    notes: list[str]

    def __post_init__(self) -> None:
        self._lost: list[float] = []
        self._shown: set[str] = set()
        self._places: set[str] = set()

    def series(self, series: PointSeries, where: str) -> MarkSeries | None:
        """Points of a series; None if the series is optional and has no row."""
        self._lost.clear()
        rows = self._rows(series, series.each, f"{where}.each")
        if not rows:
            return None
        by = series.by or self.spec.by
        values = self._values(rows, by, series, where)
        if series.minus is not None:
            values = self._less(values, self._rows(series, series.minus, f"{where}.minus"), by, series, where)
        groups: dict[tuple[float | str, str | None], list[Single]] = {}
        for (key, teacher, _), single in values.items():
            pooled = self._group(single) if self.spec.pool_teachers else teacher
            groups.setdefault((pooled or "" if by == TEACHER else key, pooled), []).append(single)
        self._require_one_teacher(groups, where)
        marks = [
            Mark(key, tuple(singles), self.layout.interval_of(self.spec), self._scatter(groups.values()))
            for (key, _), singles in groups.items()
        ]
        # A path follows the order of ``by``; other points are ordered from left to right.
        along = self.spec.x is not None and self.spec.x.of == "row" and by != TEACHER
        marks.sort(key=lambda mark: (mark.by if along and not isinstance(mark.by, str) else mark.x, mark.x))
        method = rows[0].method if series.minus is None else DIFFERENCE
        alpha = rows[0].alpha if len({row.alpha for row in rows}) == 1 else None
        return MarkSeries(series.label or rows[0].label, tuple(marks), by, method, alpha, tuple(self._lost))

    def _scatter(self, points: Iterable[Sequence[Single]]) -> tuple[float, int] | None:
        values = [[single.value for single in singles] for singles in points]
        pooled = self.layout.interval_of(self.spec) == "pooled95" and any(len(cell) > 1 for cell in values)
        return pooled_std(values) if pooled else None

    def _rows(self, series: PointSeries, conditions: Mapping[str, Any], where: str) -> list[SheetRow]:
        rows = self.layout.pick(conditions, self.sources.runs)
        if rows:
            return rows
        if not series.optional and not self.spec.optional:
            raise UserError(where, f"no run of the sample sheet matches {dict(conditions)}", "change or remove it")
        if series.optional:
            self.missing.append(series.label or "no run with " + ", ".join(f"{k} {v}" for k, v in conditions.items()))
        return []

    def _values(self, rows: Sequence[SheetRow], by: str, series: PointSeries, where: str) -> dict[Any, Single]:
        """Trainings by point, teacher and seed."""
        found: dict[Any, Single] = {}
        for row in rows:
            if series.optional and (reason := self._reason_missing(row, where)):
                self.missing.append(f"{row.label} ({row.run}: {reason})")
                continue
            key = self._by(row, by, where)
            place = (key, row.teacher, self._settings(row).get("seed", row.seed))
            if place in found:
                raise UserError(
                    where,
                    f"runs '{found[place].runs[0]}' and '{row.run}' have the same {_place(by)}",
                    "narrow the conditions",
                )
            value = self._value(row, where)
            if not math.isfinite(value):
                end = "" if self.spec.of else " at its end"
                self.notes.append(f"{row.run}: {self.spec.metric} is not a finite number{end}; in no mean")
                self._lost.append(self._x(row, key, where))
                continue
            found[place] = Single((row.run,), row.teacher, self._x(row, key, where), value)
        return found

    def _less(
        self, values: Mapping[Any, Single], rows: Sequence[SheetRow], by: str, series: PointSeries, where: str
    ) -> dict[Any, Single]:
        others = self._values(rows, by, series, f"{where}.minus")
        for one, other, side in ((values, others, "minus"), (others, values, "each")):
            alone = [single.runs[0] for place, single in one.items() if place not in other]
            self.missing += [f"{run} (no row of {side} with the same {_place(by)})" for run in alone]
        pairs = {place: (single, others[place]) for place, single in values.items() if place in others}
        if not pairs and values and others and not series.optional:
            raise UserError(f"{where}.minus", f"none of its rows has {_place(by)} of a row of each", "change it")
        return {
            place: Single((*one.runs, *other.runs), one.teacher, one.x, difference_of(one, other, series.share, where))
            for place, (one, other) in pairs.items()
        }

    def _require_one_teacher(self, groups: Mapping[tuple[float | str, str | None], Any], where: str) -> None:
        teachers: dict[float | str, str | None] = {}
        for key, teacher in groups:
            if teachers.setdefault(key, teacher) != teacher:
                raise UserError(
                    where,
                    f"rows of teachers '{teachers[key]}' and '{teacher}' at {key}",
                    "add a teacher to the conditions, or set pool_teachers where they differ only in their seed",
                )

    # Numbers of a row.

    def _settings(self, row: SheetRow) -> Mapping[str, Any]:
        return self.sources.settings.get(row.run, {})

    def _group(self, single: Single) -> str | None:
        """The first teacher that differs from this training's teacher in the seed only."""
        group = self.sources.settings.get(single.runs[0], {}).get(TEACHER)
        if group is None and single.teacher is not None:
            raise UserError(
                self.layout.source,
                "pool_teachers: which teachers differ only in their seed stands in the preset "
                f"(run '{single.runs[0]}')",
                "give the figure's spec (--spec)",
            )
        return group

    def _by(self, row: SheetRow, by: str, where: str) -> float | str:
        if by == TEACHER:
            if row.teacher is None:
                raise UserError(where, f"run '{row.run}' has no teacher", "change the conditions")
            return row.teacher
        if by in NUMBER_COLUMNS:
            value = self._settings(row).get(by, getattr(row, by))
            what = f"an empty column {by}"
        else:
            if by not in self._settings(row):
                raise UserError(where, f"run '{row.run}': {by} stands in the preset", "give the figure's spec (--spec)")
            value, what = self._settings(row)[by], f"no number as {by}: {self._settings(row)[by]!r}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(where, f"run '{row.run}' has {what}", "change the conditions or by")
        return float(value)

    def _x(self, row: SheetRow, key: float | str, where: str) -> float:
        if self.spec.x is None:
            return float(key)
        source = self._x_row(row, self.spec.x, where)
        self._places.add(source.run)
        return self.sources.measurements.estimate(source.run, self.spec.x.metric, f"{where}: x").mean

    def _x_row(self, row: SheetRow, x: MeasuredX, where: str) -> SheetRow:
        if x.of == "row":
            return row
        found = self.layout.teachers(x, row, self.sources.runs)
        if len(found) != 1:
            names = f": {', '.join(run.run for run in found)}; pick one by x.where" if found else "; add it"
            raise UserError(where, f"x: {len(found)} rows of the sheet measure the teacher '{row.teacher}'{names}")
        return found[0]

    def _value(self, row: SheetRow, where: str) -> float:
        if self.spec.of is not None:
            return self._fact(self.spec.of, row, where)
        if self.spec.at == "end":
            return self.sources.end(row.run, self.spec.metric)
        self._shown.add(row.run)
        return self.sources.measurements.estimate(row.run, self.spec.metric, where).mean

    def _fact(self, analysis: str, row: SheetRow, where: str) -> float:
        found = self.sources.analyses(analysis, [row.run], where)
        if row.run not in found:
            raise UserError(where, f"analysis '{analysis}' of run '{row.run}' was not computed", "compute it")
        facts = found[row.run]["facts"]
        if self.spec.metric not in facts:
            fault = f"analysis '{analysis}' has no fact '{self.spec.metric}'{suggestion(self.spec.metric, facts)}"
            raise UserError(where, fault)
        value = facts[self.spec.metric]
        value = value[0] if isinstance(value, (list, tuple)) else value  # value, low, high
        return math.nan if value is None else float(value)

    def _reason_missing(self, row: SheetRow, where: str) -> str:
        measured = self.sources.measurements
        if self.spec.x is not None:
            source = self._x_row(row, self.spec.x, where)
            if not measured.has(source.run, self.spec.x.metric):
                return f"{self.spec.x.metric} of {source.run} was not measured"
        if self.spec.of is not None:
            computed = self.sources.analyses(self.spec.of, [row.run], where)
            return "" if computed else f"analysis {self.spec.of} was not computed"
        if self.spec.at == "end":
            return self.sources.end_missing(row.run, self.spec.metric)
        return "" if measured.has(row.run, self.spec.metric) else f"{self.spec.metric} was not measured"

    def require_comparable(self, lines: Sequence[ReferenceLine], where: str) -> None:
        """Refuses values of one protocol that are not comparable; notes values of several protocols on one axis."""
        x = self.spec.x.metric if self.spec.x is not None else ""
        runs = {*self._shown, *(line.run for line in lines if line.run is not None)}
        for named, metric, levels in ((runs, self.spec.metric, lines), (self._places, x, ())):
            rows = [row for run in sorted(named) for row in self.sources.measurements.lines(run, metric)]
            require_comparable(rows, where)
            self.notes += identities_on(rows, levels, self.sources.published)


def _place(by: str) -> str:
    """Name of the key that identifies a training: unique in a series, equal in a pair."""
    return "teacher and seed" if by == TEACHER else f"{by}, teacher and seed"


def difference_of(one: Single, other: Single, share: bool, where: str) -> float:
    """Difference of one training's value from another's; with ``share`` as a share of its own value.

    Raises:
        UserError: A share of a value that is not positive.
    """
    if not share:
        return one.value - other.value
    if one.value <= 0:
        raise UserError(
            f"{where}.share", f"'{one.runs[0]}' is {one.value:g}, of which there are no shares", "remove share"
        )
    return 1 - other.value / one.value


_COLUMNS = (
    "panel", "kind", "series", "runs", "metric", "at", "by", "by_value", "x", "value", "low", "high", "x_low", "x_high",
    "interval", "count", "teachers", "source", "shown",
)  # fmt: skip


def points_csv(panels: Sequence[Marks]) -> str:
    """CSV of the figure: one line per point (kind ``mean``), training (``single``), line, and missing row or series."""
    records: list[dict[str, Any]] = []
    for panel in panels:
        common: dict[str, Any] = {"panel": panel.spec.title, "metric": panel.spec.metric, "at": panel.spec.at}
        origin = "measurement" if panel.spec.at == "kept" else "last evaluation during training"
        common["source"] = f"analysis {panel.spec.of}" if panel.spec.of else origin
        for series in panel.curves:
            own = {"series": series.label, "by": series.by, "shown": True}
            for mark in series.marks:
                records += [common | own | record for record in _records(mark)]
        records += [common | line.record for line in panel.lines]
        records += [common | {"kind": "not finite", "series": note, "shown": True} for note in panel.notes]
        records += [common | {"kind": "missing", "series": name, "shown": False} for name in panel.missing]
    return csv_text(_COLUMNS, records)


def _records(mark: Mark) -> Iterator[dict[str, Any]]:
    low, high = mark.ends or ("", "")
    x_low, x_high = mark.x_ends or ("", "")
    yield {
        "kind": "mean",
        "runs": " ".join(run for single in mark.singles for run in single.runs[:1]),
        "by_value": mark.by,
        "x": repr(mark.x),
        "value": repr(mark.value),
        "low": low,
        "high": high,
        "x_low": x_low,
        "x_high": x_high,
        "interval": mark.interval if mark.ends else "",
        "count": len(mark.singles),
        "teachers": len({single.teacher for single in mark.singles}),
    }
    for single in mark.singles:
        place = {"by_value": mark.by, "x": repr(single.x), "value": repr(single.value), "count": 1}
        yield {"kind": "single", "runs": " minus ".join(single.runs), **place}
