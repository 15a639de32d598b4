"""Figures of curves: their layout, and the data of a figure.

The data are curves, reference lines, kept generators, missing series, and the CSV.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.figures.layout import AxesSpec, LineSpec, PanelsFigure, Runs, check_pick
from eval.figures.sources import Sources
from eval.results.identity import comparable
from eval.results.logs import Curve, Point, pool
from eval.results.published import Published, published_number
from eval.results.sheet import Needs
from eval.results.summary import Estimate, Measurement, require_comparable
from sida.errors import SettingError, UserError, suggestion
from sida.files.content_hash import csv_text


@dataclass(frozen=True)
class SeriesSpec:
    """Curves of training runs.

    Attributes:
        each: Conditions on the sample sheet; one curve per matching run.
        pool_seeds: Whether the matching runs with one label become one curve with a band over them: other training
            seeds, and other teachers where no label names them. A table pools training seeds only.
        label: Name in the legend (default: that of the sheet); ``{alpha}`` stands for the run's α.
        optional: Whether no match is allowed; the series is then reported as missing.
    """

    each: Mapping[str, Any]
    pool_seeds: bool = False
    label: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        check_pick(self, ("each",), "give conditions")


#: Quantities of ``train.jsonl`` that can be drawn, and whether each has values for several networks or losses.
LOGGED = {"losses": True, "grad_norm": True, "weight_rms": True, "nan_count": False, "bad_steps": False,
          "img_per_s": False, "memory_mb": False, "seconds": False}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PanelSpec(AxesSpec):
    """One pair of axes.

    Attributes:
        metric: Key of the metric in the protocol, in ``evaluations.jsonl`` (with ``<metric>_std``) and in measurements.
        log: Quantity of ``train.jsonl`` instead of the metric, one of :data:`LOGGED`; for several networks or losses
            with the name of one, e.g. ``weight_rms.generator``.
        of: Analysis of the preset whose columns ``x`` and ``y`` are drawn instead of the metric.
        x: Column of the analysis on the horizontal axis.
        y: Column of the analysis on the vertical axis.
        chord: Whether a dotted straight line joins the ends of each curve.
        log_metric: Name of the metric in official logs, e.g. ``fid50k_full``.
        x_min: Left end of the axis if there is no curve yet.
        x_max: Right end of the curves (images, or iterations if the figure counts iterations).
    """

    series: tuple[SeriesSpec, ...]
    log: str | None = None
    x: str = ""
    y: str = ""
    chord: bool = False
    log_metric: str | None = None
    x_min: float | None = None
    x_max: float | None = None

    def __post_init__(self) -> None:
        if self.of is None and (self.x or self.y):
            raise SettingError("of", "name the analysis that has the columns x and y, or remove them")
        if self.of is not None and not (self.x and self.y):
            raise SettingError("of", "name the analysis's columns, x and y")
        if self.of is not None and (self.lines or self.log):
            raise SettingError("of", "a panel of an analysis has neither log nor lines", "remove them")
        if self.log is None:
            return
        group, dot, name = self.log.partition(".")
        if group not in LOGGED:
            raise SettingError("log", f"a training log has no '{group}'{suggestion(group, LOGGED)}")
        if LOGGED[group] != bool(name) or bool(dot) != bool(name):
            names = f"'{group}.generator', say" if LOGGED[group] else f"'{group}' alone"
            raise SettingError(f"log: '{self.log}'", f"give {names}")
        if self.lines:
            raise SettingError("lines", "are of measured metrics", "a panel of a training log has none")


@dataclass(frozen=True, kw_only=True)
class CurvesLayout(PanelsFigure):
    """Curves of metrics or quantities of training logs against images seen, or of an analysis's columns.

    Attributes:
        x: Unit of the horizontal axis; iterations are images divided by ``batch``, seconds by a run's images per second
            of training, evaluations apart.
        colours: Whether colour and marker distinguish methods or values of α (see :mod:`eval.figures.style`).
        final: Whether the independent measurement of the kept generator is marked.
    """

    panels: tuple[PanelSpec, ...]
    share_y: bool = True
    legend: Literal["panels", "below"] = "panels"
    x: Literal["images", "iterations", "seconds"] = "images"
    batch: int | None = None
    colours: Literal["method", "alpha"] = "method"
    final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.x == "iterations" and not self.batch:
            raise SettingError("batch", "is needed to count iterations", "give the batch size")

    def unit(self, curve: Curve) -> float:
        """Images of one unit of the horizontal axis."""
        return {"images": 1.0, "iterations": self.batch or 1.0, "seconds": curve.rate or 1.0}[self.x]

    def needs(self, runs: Runs) -> Needs:
        """Needs rows with a curve, and measured rows of reference lines."""
        panels = self.present(runs).panels
        curves, logged, analysed = set[str](), set[str](), dict[str, dict[str, None]]()
        for panel in panels:
            rows = [run.run for series in panel.series for run in self.pick(series.each, runs)]
            curves.update(rows)
            if panel.of is None:
                logged.update(rows)
            else:
                analysed.setdefault(panel.of, {}).update(dict.fromkeys(rows))
        lines = {run.run for panel in panels for line in panel.lines for run in self.line_rows(line, runs)}
        analyses = {name: list(rows) for name, rows in analysed.items()}
        return Needs((logged | lines) if self.final else lines, curves, analyses=analyses)

    def gather(self, sources: Sources) -> list[Panel]:
        """Collects the data of every panel."""
        return [
            _panel(self, spec, sources, f"{self.source}: panels[{number}]") for number, spec in enumerate(self.panels)
        ]


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

    @property
    def record(self) -> dict[str, Any]:
        """Its line of the CSV."""
        return {"kind": "line", "series": self.label, "value": repr(self.value), "source": self.source, "shown": True}


@dataclass(frozen=True)
class Panel:
    """Data of one pair of axes, and the names of missing series."""

    spec: PanelSpec
    curves: tuple[Curve, ...]
    lines: tuple[ReferenceLine, ...]
    finals: Mapping[str, Estimate]
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _panel(layout: CurvesLayout, spec: PanelSpec, sources: Sources, where: str) -> Panel:
    curves: list[Curve] = []
    lines: list[ReferenceLine] = []
    missing: list[str] = []
    for number, series in enumerate(spec.series):
        curves += _series(layout, spec, series, sources, f"{where}.series[{number}].each", missing)
    for number, line in enumerate(spec.lines):
        found = reference_line(layout, spec.metric, line, sources, f"{where}.lines[{number}]", missing)
        lines += [found] if found else []
    finals = {
        curve.run: sources.measurements.estimate(curve.run, spec.metric)
        for curve in curves
        if layout.final and curve.over == "trials" and spec.log is None and spec.of is None
        if sources.measurements.has(curve.run, spec.metric)
    }
    shown = [*finals, *(line.run for line in lines if line.run is not None)]
    rows = [row for run in shown for row in sources.measurements.lines(run, spec.metric)]
    require_comparable(rows, where)
    notes = (*_sizes(spec, curves, finals, sources), *identities_on(rows, lines, sources.published))
    # With an empty sheet the figure shows published numbers only, and no curve is missing.
    return Panel(spec, tuple(curves), tuple(lines), finals, tuple(missing) if sources.runs else (), notes)


def identities_on(
    rows: Iterable[Measurement], lines: Iterable[ReferenceLine], published: Mapping[str, Published]
) -> tuple[str, ...]:
    """Note that names the protocols of an axis if its measured values are not all comparable, also with its lines."""
    named = {row.identity: row.run for row in rows}
    if named:
        numbers = [(line.label, published[line.published]) for line in lines if line.published]
        named |= {number.identity: label for label, number in numbers}
    found = list(named)
    reasons = [reason for other in found[1:] if (reason := comparable(found[0], other))]
    shown = "; ".join(f"{name}: {identity}" for identity, name in named.items())
    return (f"not comparable with each other: {shown} ({reasons[0]})",) if reasons else ()


def _sizes(spec: PanelSpec, curves: list[Curve], finals: Mapping[str, Estimate], sources: Sources) -> tuple[str, ...]:
    """Note if curves and measurements use different numbers of images, since distances fall with that number."""
    during = {point.num_samples for curve in curves for point in curve.points} - {None}
    after = {sources.measurements.lines(run, spec.metric)[0].n for run in finals}
    if not during or not after or during == after:
        return ()
    one, other = (", ".join(f"{size:,}" for size in sorted(filter(None, sizes))) for sizes in (during, after))
    return (f"evaluations during training use {one} images, measurements {other}; their levels are not comparable",)


def _series(
    layout: CurvesLayout, spec: PanelSpec, series: SeriesSpec, sources: Sources, where: str, missing: list[str]
) -> list[Curve]:
    found = layout.pick(series.each, sources.runs)
    if not found and spec.optional:
        return []
    if not found:
        if not series.optional:
            raise UserError(where, f"no run of the sample sheet matches {dict(series.each)}", "change or remove it")
        missing.append(series.label or f"no run with {_describe(series.each)}")
        return []
    named = series.each.get("run")
    for name in named if isinstance(named, list) else []:
        if name not in sources.runs:
            missing.append(f"{name} (not in the sample sheet)")
    groups: dict[str, list[Curve]] = {}
    for run in found:
        if series.optional and (reason := sources.reason_missing(run.run, spec.metric, spec.log)):
            missing.append(f"{run.label} ({run.run}: {reason})")
            continue
        if spec.of is not None and (columns := sources.analyses(spec.of, [run.run], where)):
            points = _columns(spec, columns[run.run]["curves"], f"{where}: {run.run}")
        elif spec.of is not None:
            missing.append(run.label)
            continue
        else:
            points = sources.points(run.run, spec.metric, spec.log, spec.log_metric)
        label = (series.label or run.label).replace("{alpha}", f"{run.alpha or 0:g}".replace("-", "−"))
        kept = None if spec.log or spec.of else sources.kept(run.run)
        rate = sources.rate(run.run) if layout.x == "seconds" else None
        curve = Curve(run.run, label, points, "trials", (run.run,), kept, run.method, run.alpha, rate)
        groups.setdefault(label if series.pool_seeds else run.run, []).append(curve)
    return [pool(group, group[0].label) for group in groups.values()]


def _columns(spec: PanelSpec, columns: Mapping[str, Sequence[float]], where: str) -> tuple[Point, ...]:
    """Points of the columns that a panel draws."""
    for name in (spec.x, spec.y):
        if name not in columns:
            raise UserError(where, f"analysis '{spec.of}' has no column '{name}'{suggestion(name, columns)}")
    places: Any = columns[spec.x]  # numbers of any kind, where training logs have images
    return tuple(Point(*place) for place in zip(places, columns[spec.y], strict=True))


def reference_line(
    layout: PanelsFigure, metric: str, line: LineSpec, sources: Sources, where: str, missing: list[str]
) -> ReferenceLine | None:
    """A horizontal line of a figure at a metric's level; without data None, with its name added to ``missing``."""
    if line.published is not None:
        number = published_number(sources.published, line.published, f"{where}.published")
        std = float(number.std) if number.std else None
        label = line.label or f"{number.row_label} {number.text}"
        origin = f"published: {number.id}"
        return ReferenceLine(label, number.value, std, origin, line.colour, published=number.id)
    found = layout.line_rows(line, sources.runs)
    if line.where is None and not found:
        return None
    if line.optional and (not found or (len(found) == 1 and not sources.measurements.has(found[0].run, metric))):
        missing.append(line.label or f"line for {_describe(line.where or {})}")
        return None
    if len(found) != 1:
        raise UserError(
            f"{where}.where", f"{len(found)} runs match {dict(line.where or {})}", "it must pick exactly one"
        )
    run = found[0]
    estimate = sources.measurements.estimate(run.run, metric, f"{where}.where")
    nfe = sources.measurements.nfe(run.run)
    start = "its start, " if line.start_of is not None else ""
    label = line.label or start + run.label + (f", NFE {nfe}" if nfe and not start else "")
    return ReferenceLine(label, estimate.mean, estimate.std, f"measured: {run.run}", line.colour, run.run, run.method)


def _describe(conditions: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in conditions.items())


_COLUMNS = (
    "panel", "kind", "series", "run", "metric", "images", "iterations", "seconds", "value", "std", "over",
    "count", "num_samples", "source", "shown",
)  # fmt: skip


def curves_csv(layout: CurvesLayout, panels: Sequence[Panel]) -> str:
    """CSV of the figure: one line per evaluation, kept generator, reference line and missing series."""
    records: list[dict[str, Any]] = []
    for panel in panels:
        of, metric = panel.spec.of, panel.spec.y or panel.spec.log or panel.spec.metric
        common: dict[str, Any] = {"panel": panel.spec.title, "metric": metric}
        batch, limit = layout.batch or 0, panel.spec.x_max or float("inf")
        for curve in panel.curves:
            for point in curve.points:
                records.append(
                    common
                    | {
                        "kind": "curve",
                        "series": curve.label,
                        "run": " ".join(curve.runs),
                        panel.spec.x if of else "images": point.nimg,
                        "iterations": f"{point.nimg / batch:g}" if batch else "",
                        "seconds": f"{point.nimg / curve.rate:.1f}" if curve.rate else "",
                        "value": repr(point.value),
                        "std": "" if point.std is None else repr(point.std),
                        "over": curve.over,
                        "count": point.trials,
                        "num_samples": point.num_samples or "",
                        "source": _origin(panel.spec),
                        "shown": point.nimg / layout.unit(curve) <= limit
                        and (point.nimg > 0 or panel.spec.x_scale == "linear"),
                    }
                )
            final = panel.finals.get(curve.run)
            if final is not None:
                records.append(
                    common
                    | {
                        "kind": "kept generator",
                        "series": curve.label,
                        "run": curve.run,
                        "images": curve.best.nimg,
                        "value": repr(final.mean),
                        "std": "" if final.std is None else repr(final.std),
                        "over": "trials",
                        "count": final.trials,
                        "source": "independent measurement",
                        "shown": True,
                    }
                )
        for line in panel.lines:
            records.append(common | line.record | {"std": "" if line.std is None else repr(line.std)})
        records += [common | {"kind": "missing", "series": name, "shown": False} for name in panel.missing]
    more = dict.fromkeys(panel.spec.x for panel in panels if panel.spec.of)
    return csv_text((*_COLUMNS, *more), records)


def _origin(spec: PanelSpec) -> str:
    if spec.of is not None:
        return f"analysis {spec.of}"
    return "training log" if spec.log else "evaluations during training"
