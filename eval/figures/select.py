"""Which runs of the sample sheet the parts of a figure name; the builder, its inputs and the checks ask here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from eval.figures.layout import CurvesLayout, LineSpec, SamplesLayout, SamplesPanel, SeriesSpec
from eval.results.selection import matching
from sida.errors import UserError
from sida.sheet import Run

Runs = Mapping[str, Run]


def present(layout: CurvesLayout, runs: Runs) -> CurvesLayout:
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
    return dataclasses.replace(layout, panels=panels)


def series_runs(layout: CurvesLayout, series: SeriesSpec, runs: Runs) -> list[Run]:
    """Runs of a series, in the sheet's order."""
    return _matching(layout, series.each, runs)


def line_runs(layout: CurvesLayout, line: LineSpec, runs: Runs) -> list[Run]:
    """Runs that a reference line names; a line is drawn for one."""
    if line.start_of is not None:
        return [runs[run.init] for run in _matching(layout, line.start_of, runs)[:1] if run.init and run.init in runs]
    if line.first is not None:
        return _matching(layout, line.first, runs)[:1]
    return [] if line.where is None else _matching(layout, line.where, runs)


def panel_runs(layout: SamplesLayout, panel: SamplesPanel, runs: Runs) -> list[Run]:
    """Runs of a panel of samples; ``where`` must find one."""
    if panel.where is not None:
        return _matching(layout, panel.where, runs)
    if panel.each is not None:
        return _matching(layout, panel.each, runs)
    return _matching(layout, panel.first or {}, runs)[:1]


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


def _matching(layout: CurvesLayout | SamplesLayout, conditions: Mapping[str, Any], runs: Runs) -> list[Run]:
    return matching(runs, {**(layout.scope or {}), **conditions})
