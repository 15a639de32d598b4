"""Which runs of the sample sheet the parts of a figure name; the builder, its inputs and the checks ask here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from eval.figures.layout import BarriersLayout, CurvesLayout, Layout, SamplesLayout, SamplesPanel, SeriesSpec
from eval.figures.picks import LineSpec
from eval.figures.points_layout import MeasuredX, PointSeries, PointsLayout
from eval.results.selection import matching
from eval.results.sheet import Run
from sida.errors import UserError

Runs = Mapping[str, Run]
WithSeries = TypeVar("WithSeries", CurvesLayout, PointsLayout)


def present(layout: WithSeries, runs: Runs) -> WithSeries:
    """The layout without optional panels whose series match no run.

    Raises:
        UserError: No panel is left.
    """
    panels = tuple(
        panel
        for panel in layout.panels
        if not panel.optional or any(series_runs(layout, s, runs) for s in panel.series)
    )
    if not panels:
        raise UserError(f"{layout.source}: no run of the sample sheet matches any of its panels; remove the figure")
    return layout.of(panels)


def series_runs(layout: Layout, series: SeriesSpec | PointSeries, runs: Runs) -> list[Run]:
    """Runs of a series, in the sheet's order."""
    return matching_rows(layout, series.each, runs)


def barrier_rows(layout: BarriersLayout, runs: Runs) -> list[Run]:
    """Rows of a figure of barriers, in the sheet's order."""
    return matching_rows(layout, layout.each, runs)


def subtracted_runs(layout: PointsLayout, series: PointSeries, runs: Runs) -> list[Run]:
    """Rows that a series of differences takes away."""
    return [] if series.minus is None else matching_rows(layout, series.minus, runs)


def points_teachers(layout: PointsLayout, x: MeasuredX, run: Run, runs: Runs) -> list[Run]:
    """Rows that measure a row's teacher; a horizontal axis is made of one."""
    return matching_rows(layout, {**(x.where or {}), "method": "teacher", "teacher": run.teacher}, runs)


def points_settings(layout: PointsLayout, runs: Runs) -> dict[str, set[str]]:
    """By row the names of what its points are told apart by."""
    wanted: dict[str, set[str]] = {}
    for panel in present(layout, runs).panels:
        for series in panel.series:
            for run in (*series_runs(layout, series, runs), *subtracted_runs(layout, series, runs)):
                wanted.setdefault(run.run, set()).add(series.by or panel.by)
    return wanted


def line_runs(layout: Layout, line: LineSpec, runs: Runs) -> list[Run]:
    """Runs that a reference line names; a line is drawn for one."""
    if line.start_of is not None:
        first = matching_rows(layout, line.start_of, runs)[:1]
        return [runs[run.init] for run in first if run.init and run.init in runs]
    if line.first is not None:
        return matching_rows(layout, line.first, runs)[:1]
    return [] if line.where is None else matching_rows(layout, line.where, runs)


def panel_runs(layout: SamplesLayout, panel: SamplesPanel, runs: Runs) -> list[Run]:
    """Runs of a panel of samples; ``where`` must find one."""
    if panel.where is not None:
        return matching_rows(layout, panel.where, runs)
    if panel.each is not None:
        return matching_rows(layout, panel.each, runs)
    return matching_rows(layout, panel.first or {}, runs)[:1]


def sample_panels(layout: SamplesLayout, runs: Runs) -> tuple[list[tuple[SamplesPanel, Run]], list[str]]:
    """Each grid to draw with its run, and the names of optional panels without one.

    Raises:
        UserError: ``where`` does not pick exactly one run, or nothing is left to draw.
    """
    shown: list[tuple[SamplesPanel, Run]] = []
    missing = []
    for number, panel in enumerate(layout.panels):
        where, found = f"{layout.source}: panels[{number}].where", panel_runs(layout, panel, runs)
        if panel.where is not None and len(found) != 1:
            if found or not panel.optional:
                raise UserError(f"{where}: {len(found)} runs match {dict(panel.where)}; it must pick exactly one")
            missing.append(panel.title or f"{where} {dict(panel.where)}")
        shown += [(panel, run) for run in found]
    if not shown:
        raise UserError(f"{layout.source}: nothing to draw: none of its runs is in the sample sheet")
    return shown, missing


def matching_rows(layout: Layout, conditions: Mapping[str, Any], runs: Runs) -> list[Run]:
    """Rows of the sheet that meet conditions, in its order, within the layout's scope."""
    return matching(runs, {**(layout.scope or {}), **conditions})
