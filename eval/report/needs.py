"""Which rows of a sample sheet a table or figure shows, so that it can be made without all the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.figures.layout import KINDS, AnalyticLayout, BarriersLayout, SamplesLayout, load_figure_layout
from eval.figures.points_layout import PointsLayout
from eval.figures.select import (
    barrier_rows,
    line_runs,
    panel_runs,
    points_teachers,
    present,
    series_runs,
    subtracted_runs,
)
from eval.results.selection import read_extended
from eval.results.sheet import Run
from eval.tables.hyperparameters import load_hyper_layout
from eval.tables.layout import TableLayout, expand, load_layout, read_layout
from sida.errors import UserError


@dataclass(frozen=True)
class Needs:
    """Rows of the sheet, in its order.

    Attributes:
        measured: Rows whose measurements are shown.
        networks: Rows whose network or training log is read.
        analytic: Whether the analytic study is shown.
        barriers: Whether what lies between these networks and their teachers' is shown.
    """

    measured: list[str]
    networks: list[str]
    analytic: bool = False
    barriers: bool = False


def find_needs(path: str | Path, runs: Mapping[str, Run]) -> Needs:
    """What a layout of ``config/tables`` or ``config/figures`` needs; rows that the sheet lacks are left out.

    A layout that cannot be resolved (it is the builder's to say why) needs every row.

    Args:
        path: The layout.
        runs: The sample sheet.
    """
    everything = list(runs)
    try:
        kind = read_extended(Path(path)).get("kind")
        if kind == "analytic":
            return Needs([], [], analytic=True)
        if kind in KINDS:
            measured, networks = _figure(path, runs)
        elif (mapping := read_layout(path)).pop("kind", "results") == "hyperparameters":
            measured, networks = set[str](), _hyperparameters(mapping, path)
        else:
            measured = networks = _table(load_layout(path), runs)
    except UserError:
        return Needs(everything, everything)
    # Figures draw lines at measured levels beside curves of training logs: both kinds are kept apart.
    return Needs(_in_order(measured, runs), _in_order(networks, runs), barriers=kind == "barriers")


def _in_order(names: Iterable[str], runs: Mapping[str, Run]) -> list[str]:
    wanted = set(names)
    return [name for name in runs if name in wanted]


def _figure(path: str | Path, runs: Mapping[str, Run]) -> tuple[set[str], set[str]]:
    layout = load_figure_layout(path)
    if isinstance(layout, SamplesLayout):
        return set(), {run.run for panel in layout.panels for run in panel_runs(layout, panel, runs)}
    if isinstance(layout, PointsLayout):
        return _points(layout, runs)
    if isinstance(layout, BarriersLayout):
        return set(), {run.run for run in barrier_rows(layout, runs)}
    assert not isinstance(layout, AnalyticLayout)  # it has no rows
    panels = present(layout, runs).panels
    curves = {run.run for panel in panels for series in panel.series for run in series_runs(layout, series, runs)}
    lines = {run.run for panel in panels for line in panel.lines for run in line_runs(layout, line, runs)}
    return (curves | lines) if layout.final else lines, curves


def _points(layout: PointsLayout, runs: Mapping[str, Run]) -> tuple[set[str], set[str]]:
    measured, logged = set[str](), set[str]()
    for panel in present(layout, runs).panels:
        shown = [r for s in panel.series for r in (*series_runs(layout, s, runs), *subtracted_runs(layout, s, runs))]
        measured |= {run.run for line in panel.lines for run in line_runs(layout, line, runs)}
        (logged if panel.at == "end" else measured).update(run.run for run in shown)
        if panel.x is not None and panel.x.of == "teacher":
            measured |= {run.run for row in shown for run in points_teachers(layout, panel.x, row, runs)}
        elif panel.x is not None:
            measured |= {run.run for run in shown}
    return measured, logged


def _hyperparameters(mapping: dict[str, Any], path: str | Path) -> set[str]:
    return {run for column in load_hyper_layout(mapping, path).columns for run in (column.sid, column.sida)}


def _table(layout: TableLayout, runs: Mapping[str, Run]) -> set[str]:
    names: set[str] = set()
    for _, row in expand(layout, runs):
        for column in layout.columns:
            name = (row.run or "").replace("{column}", column.key)
            for key, value in layout.vars.items():
                name = name.replace("{" + key + "}", str(value))
            names |= {column.run_of(run) for run in (name, *row.pool)}
    return names
