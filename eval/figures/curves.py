"""Data of figures of curves: their layout, curves, reference lines, kept generators, missing series, and the CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sida.config.settings import Count, Positive
from sida.errors import SettingError, UserError
from sida.eval.figures.layout import FigureKind, Inches, Runs, Sources, check_pick
from sida.eval.results.conditions import Needs, Planned, check_columns, matching
from sida.eval.results.csv_files import csv_text
from sida.eval.results.identity import comparable, require_comparable
from sida.eval.results.logs import Curve, Point, pool
from sida.eval.results.measurements import Estimate, Measurement
from sida.eval.results.published import load_published, published_number
from sida.eval.results.sheet import SheetRow


@dataclass(frozen=True)
class SeriesSpec:
    """Curves of training runs.

    Attributes:
        each: Conditions on the sample sheet; one curve per matching run.
        pool_seeds: Whether the matching runs with one label become one curve with a band over them: other training
            seeds, and other teachers where no label names them. A table pools training seeds only.
        label: Name in the legend (default: the sheet's); ``{alpha}`` stands for the run's α.
        optional: Whether no match is allowed; the series is then reported as missing.
    """

    each: Mapping[str, Any]
    pool_seeds: bool = False
    label: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        check_columns("each", self.each)


@dataclass(frozen=True)
class LineSpec:
    """A horizontal reference line: a measured run, or a published number by its id.

    Attributes:
        where: Conditions on the sample sheet that pick one run.
        first: Conditions; the first match in the sheet is taken, and without a match there is no line.
        start_of: Conditions like ``first``; the line is the run from which the match starts (column ``init``).
        published: Id in ``results/published``.
    """

    where: Mapping[str, Any] | None = None
    first: Mapping[str, Any] | None = None
    start_of: Mapping[str, Any] | None = None
    published: str | None = None
    label: str | None = None
    colour: Literal["grey", "purple", "green", "red", "cyan"] | None = None

    def __post_init__(self) -> None:
        fields = ("where", "first", "start_of", "published")
        check_pick(self, fields, "name a run (where, first or start_of) or a published number, one of them")


@dataclass(frozen=True, kw_only=True)
class PanelSpec:
    """One pair of axes.

    Attributes:
        lines: Horizontal lines.
        title: Heading of the panel.
        metric: Key of the metric in the protocol, in ``evaluations.jsonl`` (with ``<metric>_std``) and in measurements.
        x_min: Left end of the axis if there is no curve yet.
        x_max: Right end of the curves (images, or iterations if the figure counts iterations).
        optional: Whether the panel is left out if no row matches its series.
    """

    series: tuple[SeriesSpec, ...]
    lines: tuple[LineSpec, ...] = ()
    title: str = ""
    metric: str = "fd"
    x_label: str = ""
    y_label: str = ""
    y_scale: Literal["log", "linear"] = "log"
    x_min: Positive | None = None
    x_max: Positive | None = None
    optional: bool = False

    def shows(self, x: float, value: float) -> bool:
        """Whether the axes show a point; the logarithmic one has no place for the evaluation before training."""
        return 0 < x <= (math.inf if self.x_max is None else self.x_max) and self.has_level(value)

    def has_level(self, value: float) -> bool:
        """Whether the vertical axis has a place for a value: a logarithmic one has none up to 0."""
        return value > 0 or self.y_scale == "linear"


@dataclass(frozen=True, kw_only=True)
class CurvesLayout(FigureKind):
    """Curves of metrics during training against images seen.

    Attributes:
        panels: The pairs of axes, row by row.
        height: Height in inches.
        columns: Number of panels side by side.
        widths: Relative widths of the panels of a row; equal if optional panels are left out.
        share_y: Whether panels of a row have one vertical scale.
        batch: Batch size: the horizontal axis then counts iterations instead of images.
        colours: Whether colour and marker distinguish methods or values of α (see :mod:`sida.eval.figures.style`).
        final: Whether the independent measurement of the kept generator is marked.
    """

    panels: tuple[PanelSpec, ...]
    height: Inches = 3.0
    columns: Count = 3
    widths: tuple[float, ...] | None = None
    share_y: bool = False
    batch: Count | None = None
    colours: Literal["method", "alpha"] = "method"
    final: bool = True

    def __post_init__(self) -> None:
        if self.widths is not None and (len(self.widths) != self.across or any(width <= 0 for width in self.widths)):
            raise SettingError("widths", f"must be {self.across} positive numbers, one for each panel of a row")

    @property
    def across(self) -> int:
        """Number of panels in a full row."""
        return min(self.columns, len(self.panels))

    def shown(self, runs: Runs) -> dict[int, PanelSpec]:
        """Panels by their number in the layout, without optional ones whose series match no run.

        Raises:
            UserError: No panel is left.
        """
        panels = enumerate(self.panels)
        shown = {n: p for n, p in panels if not p.optional or any(matching(runs, s.each) for s in p.series)}
        if not shown:
            fault = "has no panels, or no run of the sample sheet matches any"
            raise UserError(self.source, fault, "remove the figure")
        return shown

    def line_rows(self, line: LineSpec, runs: Runs) -> list[SheetRow]:
        """Rows that a reference line names; a line needs exactly one."""
        if line.start_of is not None:
            first = matching(runs, line.start_of)[:1]
            return [runs[run.init] for run in first if run.init and run.init in runs]
        if line.first is not None:
            return matching(runs, line.first)[:1]
        return [] if line.where is None else matching(runs, line.where)

    def needs(self, runs: Runs) -> Needs:
        """Needs rows with a curve, and measured rows of reference lines."""
        panels = self.shown(runs).values()
        curves = {run.run for panel in panels for series in panel.series for run in matching(runs, series.each)}
        lines = {run.run for panel in panels for line in panel.lines for run in self.line_rows(line, runs)}
        return Needs((curves | lines) if self.final else lines, curves)

    def gather(self, sources: Sources) -> list[Panel]:
        """Collects the data of every panel that is shown.

        Raises:
            UserError: Data that are not optional in the layout are missing or faulty.
        """
        panels = self.shown(sources.runs).items()
        return [_panel(self, spec, sources, f"{self.source}: panels[{number}]") for number, spec in panels]

    def data(self, sources: Sources) -> str:
        """The CSV of the figure."""
        return curves_csv(self, self.gather(sources))

    def check(self, planned: Planned) -> None:
        """Refuses series and lines without data."""
        for number, panel in self.shown(planned.runs).items():
            _check_panel(self, panel, planned, f"{self.source}: panels[{number}]")


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal reference line: its label, value, origin, and the run or the published number that it shows."""

    label: str
    value: float
    std: float | None
    source: str
    colour: str | None = None
    run: str | None = None
    method: str = "published"
    published: str | None = None


@dataclass(frozen=True)
class Panel:
    """Data of one pair of axes, and the names of missing series.

    Attributes:
        spec: Its part of the layout.
        curves: Curves of single runs and of pooled ones.
        lines: Horizontal lines.
        finals: Measurements of the kept generators of single runs; see :meth:`final`.
        missing: Names of missing series.
        notes: Notes for readers.
    """

    spec: PanelSpec
    curves: tuple[Curve, ...]
    lines: tuple[ReferenceLine, ...]
    finals: Mapping[str, Estimate]
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def final(self, curve: Curve) -> Estimate | None:
        """Measurement of a curve's kept generator; None if there is none, or for a pooled curve, which has several."""
        return self.finals.get(curve.run) if curve.over == "trials" else None


def _panel(layout: CurvesLayout, spec: PanelSpec, sources: Sources, where: str) -> Panel:
    curves: list[Curve] = []
    missing: list[str] = []
    for number, series in enumerate(spec.series):
        curves += _series(spec, series, sources, f"{where}.series[{number}].each", missing)
    optional_lines = (_line(layout, spec, line, sources, f"{where}.lines[{n}]") for n, line in enumerate(spec.lines))
    lines = tuple(line for line in optional_lines if line is not None)
    finals = {
        curve.run: sources.measurements.estimate(curve.run, spec.metric)
        for curve in curves
        if layout.final and curve.over == "trials" and sources.measurements.has(curve.run, spec.metric)
    }
    runs = [*finals, *(line.run for line in lines if line.run is not None)]
    rows = [row for run in runs for row in sources.measurements.lines(run, spec.metric)]
    require_comparable(((row.run, row.metric, row.identity) for row in rows), where)
    # With an empty sheet the figure shows published numbers only, and no curve is missing.
    return Panel(spec, tuple(curves), lines, finals, tuple(missing) if sources.runs else (), identities_on(rows, lines))


def _check_panel(layout: CurvesLayout, spec: PanelSpec, planned: Planned, where: str) -> None:
    """Refuses series of no row or of rows without a curve, and lines of no, of several or of other rows."""
    shown: list[str] = []
    for number, series in enumerate(spec.series):
        for run in _series_rows(spec, series, planned.runs, f"{where}.series[{number}].each"):
            fault = planned.curve_fault(run.run, spec.metric)
            if fault and not series.optional:
                raise UserError(planned.source, f"run '{run.run}': a figure shows its curve, but {fault}")
            has_mark = layout.final and not series.pool_seeds and spec.metric in planned.identities.get(run.run, {})
            shown += [run.run] if has_mark and not fault else []
    for number, line in enumerate(spec.lines):
        if line.published is not None:
            published_number(line.published, f"{where}.lines[{number}].published")
        elif row := _line_row(layout, line, planned.runs, f"{where}.lines[{number}]"):
            planned.require(row.run, spec.metric, f"{where}.lines[{number}].where")
            shown.append(row.run)
    require_comparable(((run, spec.metric, planned.identities[run][spec.metric]) for run in shown), where)


def identities_on(rows: Iterable[Measurement], lines: Iterable[ReferenceLine]) -> tuple[str, ...]:
    """Note that names the protocols of an axis if its measured values are not all comparable, also with its lines."""
    names = {row.identity: row.run for row in rows}
    if names:
        numbers = [(line.label, load_published()[line.published]) for line in lines if line.published]
        names |= {number.identity: label for label, number in numbers}
    identities = list(names)
    reasons = [reason for other in identities[1:] if (reason := comparable(identities[0], other))]
    identities_text = "; ".join(f"{name}: {identity}" for identity, name in names.items())
    return (f"not comparable with each other: {identities_text} ({reasons[0]})",) if reasons else ()


def _series(spec: PanelSpec, series: SeriesSpec, sources: Sources, where: str, missing: list[str]) -> list[Curve]:
    rows = _series_rows(spec, series, sources.runs, where)
    if not rows:
        name = series.label or f"no run with {', '.join(f'{k} {v}' for k, v in series.each.items())}"
        missing += [] if spec.optional else [name]
        return []
    run_names = series.each.get("run")
    for name in run_names if isinstance(run_names, list) else []:
        missing += [] if name in sources.runs else [f"{name} (not in the sample sheet)"]
    groups: dict[str, list[Curve]] = {}
    for run in rows:
        if series.optional and (reason := sources.reason_missing(run.run, spec.metric)):
            missing.append(f"{run.label} ({run.run}: {reason})")
            continue
        points = sources.points(run.run, spec.metric)
        label = (series.label or run.label).replace("{alpha}", f"{run.alpha or 0:g}".replace("-", "−"))
        curve = Curve(run.run, label, points, "trials", (run.run,), sources.kept_at(run.run), run.method, run.alpha)
        groups.setdefault(label if series.pool_seeds else run.run, []).append(curve)
    return [pool(group, group[0].label) for group in groups.values()]


def _series_rows(spec: PanelSpec, series: SeriesSpec, runs: Runs, where: str) -> list[SheetRow]:
    """Rows of a series; none only where the series or its panel is optional."""
    rows = matching(runs, series.each)
    if not rows and not spec.optional and not series.optional:
        raise UserError(where, f"no run of the sample sheet matches {dict(series.each)}", "change or remove it")
    return rows


def _line(layout: CurvesLayout, spec: PanelSpec, line: LineSpec, sources: Sources, where: str) -> ReferenceLine | None:
    """A horizontal line at a metric's level; None if ``first`` or ``start_of`` match no row."""
    if line.published is not None:
        number = published_number(line.published, f"{where}.published")
        std = float(number.std) if number.std else None
        label = line.label or f"{number.row_label} {number.text}"
        return ReferenceLine(label, number.value, std, f"published: {number.id}", line.colour, published=number.id)
    run = _line_row(layout, line, sources.runs, where)
    if run is None:
        return None
    estimate = sources.measurements.estimate(run.run, spec.metric, f"{where}.where")
    nfe = sources.measurements.nfe(run.run)
    start = "its start, " if line.start_of is not None else ""
    label = line.label or start + run.label + (f", NFE {nfe}" if nfe and not start else "")
    return ReferenceLine(label, estimate.mean, estimate.std, f"measured: {run.run}", line.colour, run.run, run.method)


def _line_row(layout: CurvesLayout, line: LineSpec, runs: Runs, where: str) -> SheetRow | None:
    """The row of a line; None if ``first`` or ``start_of`` match no row."""
    rows = layout.line_rows(line, runs)
    if line.where is None and not rows:
        return None
    if len(rows) != 1:
        fault = f"{len(rows)} runs match {dict(line.where or {})}"
        raise UserError(f"{where}.where", fault, "it must pick exactly one")
    return rows[0]


_COLUMNS = (
    "panel", "kind", "series", "run", "metric", "images", "iterations", "value", "std", "over", "count", "num_samples",
    "source", "shown",
)  # fmt: skip


def curves_csv(layout: CurvesLayout, panels: Sequence[Panel]) -> str:
    """CSV of the figure: one line per evaluation, kept generator, reference line and missing series.

    ``iterations`` has values only where the layout has a batch size.
    """
    records: list[dict[str, Any]] = []
    for panel in panels:
        batch, own = layout.batch or 1, list[dict[str, Any]]()
        for curve in panel.curves:
            about = {"kind": "curve", "series": curve.label, "run": " ".join(curve.runs), "over": curve.over}
            own += [
                {
                    **about, **_progress(layout, point), "value": point.value, "std": point.std, "count": point.trials,
                    "num_samples": point.num_samples, "source": "evaluations during training",
                    "shown": panel.spec.shows(point.nimg / batch, point.value),
                }
                for point in curve.points
            ]  # fmt: skip
            if final := panel.final(curve):
                own.append({
                    "kind": "kept generator", "series": curve.label, "run": curve.run,
                    **_progress(layout, curve.best), "value": final.mean, "std": final.std, "over": "trials",
                    "count": final.trials, "source": "independent measurement",
                    "shown": panel.spec.has_level(final.mean),
                })  # fmt: skip
        for line in panel.lines:
            level = {"kind": "line", "series": line.label, "value": line.value, "std": line.std}
            own.append({**level, "source": line.source, "shown": panel.spec.has_level(line.value)})
        own += [{"kind": "missing", "series": name, "shown": False} for name in panel.missing]
        records += [{"panel": panel.spec.title, "metric": panel.spec.metric, **record} for record in own]
    return csv_text(_COLUMNS, records)


def _progress(layout: CurvesLayout, point: Point) -> dict[str, Any]:
    """Columns that tell how far a training was at an evaluation."""
    return {"images": point.nimg, "iterations": f"{point.nimg / layout.batch:g}" if layout.batch else ""}
