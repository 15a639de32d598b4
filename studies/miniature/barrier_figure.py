"""The figure of losses on the line between the weights of teachers and students, with one curve per method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.kind import Drawing, FigureKind, Inches, Runs, check_pick
from eval.figures.sources import Sources
from eval.results.selection import Needs
from eval.results.sheet import Run
from sida.errors import UserError
from sida.files.content_hash import csv_text

from .barrier import LOSSES, chord, line_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, Sequence[float]]
#: Name of the analysis in the preset.
ANALYSIS = "barriers"
_TITLES = {"denoising": "a  denoising loss", "fd": "b  FD in one step"}
_UNITS = {"denoising": "loss per pixel ↓", "fd": "FD ↓"}
_COLUMNS = ("loss", "label", "run", "t", "value")


@dataclass(frozen=True)
class MethodCurves:
    """Curves of the training seeds of one method.

    Attributes:
        label: Label in the sheet.
        method: Method, which determines the look.
        curves: Values by name of the loss, by run.
        alpha: None: curves do not differ by α.
    """

    label: str
    method: str
    curves: Mapping[str, Curves]
    alpha: None = None


@dataclass(frozen=True, kw_only=True)
class BarriersFigure(FigureKind):
    """Losses on the line between the weights of teachers and students (analysis ``barriers``).

    Attributes:
        each: Conditions on the sample sheet; rows of one label are training seeds of one curve.
    """

    each: Mapping[str, Any]
    height: Inches = 2.9

    def __post_init__(self) -> None:
        check_pick(self, ("each",), "give conditions")

    def needs(self, runs: Runs) -> Needs:
        """Needs the networks of the rows and their analysis."""
        rows = [run.run for run in self.pick(self.each, runs)]
        return Needs([], rows, analyses={ANALYSIS: rows})

    def check(self, sources: Sources) -> None:
        """Refuses rows whose analysis the preset does not compute."""
        self._curves(sources)

    def build(self, sources: Sources) -> Drawing:
        """Draws two panels: denoising loss and FD in one step."""
        rows, there = self.pick(self.each, sources.runs), self._curves(sources)
        if len({len(values) for curves in there.values() for values in curves.values()}) > 1:
            raise UserError(f"{self.source}: each: barriers of unequally many points; make them with the same settings")
        by_label: dict[str, list[Run]] = {}
        for run in rows:
            if run.run in there:
                by_label.setdefault(run.label, []).append(run)
        groups = [
            MethodCurves(k, runs[0].method, {run.run: there[run.run] for run in runs}) for k, runs in by_label.items()
        ]
        absent = dict.fromkeys(run.label for run in rows if run.run not in there)
        return Drawing(_draw(self, groups), _csv(groups), list(absent))

    def _curves(self, sources: Sources) -> dict[str, Curves]:
        rows = [run.run for run in self.pick(self.each, sources.runs)]
        found = sources.analyses(ANALYSIS, rows, f"{self.source}: each")
        return {run: record["curves"] for run, record in found.items()}


def _draw(layout: BarriersFigure, groups: list[MethodCurves]) -> Figure:
    """Draws two panels: the mean of each method over training seeds, single seeds as thin lines, chords dotted.

    Both axes are linear, so that chords are straight.
    """
    figure = style.new_figure(layout.width, layout.height)
    looks = style.looks_of([groups])
    for axes, loss in zip(figure.subplots(1, 2), LOSSES):
        for group in groups:
            _draw_group(axes, group, loss, looks[group.label, group.method, None])
        axes.set_title(_TITLES[loss], loc="left", fontweight="bold")
        axes.set_xlabel("teacher  ←  t  →  student")
        axes.set_ylabel(_UNITS[loss])
        axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
        axes.set_axisbelow(True)
    if groups:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _draw_group(axes: Axes, group: MethodCurves, loss: str, look: style.Look) -> None:
    seeds = [curves[loss] for curves in group.curves.values()]
    means = [statistics.fmean(values) for values in zip(*seeds)]
    at = line_points(len(means))
    for values in seeds if len(seeds) > 1 else ():
        axes.plot(at, values, color=look.colour, linewidth=0.5, alpha=0.6)
    axes.plot(at, chord(means), color=look.colour, linewidth=0.7, linestyle=":")
    axes.plot(at, means, color=look.colour, marker=look.marker, label=style.literal(group.label))


def _csv(groups: list[MethodCurves]) -> str:
    """CSV of the figure: one line per loss, run and point."""
    rows = [
        (loss, group.label, run, t, value)
        for loss in LOSSES
        for group in groups
        for run, curves in group.curves.items()
        for t, value in zip(line_points(len(curves[loss])), curves[loss])
    ]
    return csv_text(_COLUMNS, (dict(zip(_COLUMNS, row, strict=True)) for row in rows))
