"""The figure of losses on the line between teachers' weights and their students': a curve per method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.figures import style
from eval.figures.layout import BarriersLayout
from eval.figures.select import barrier_rows
from eval.results.barriers import LOSSES, chord, places, read_barrier
from eval.results.sheet import Run
from sida.errors import UserError
from sida.files.atomic import write_text
from sida.files.content_hash import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {"denoising": "a  denoising loss", "fd": "b  FD in one step"}
_UNITS = {"denoising": "loss per pixel ↓", "fd": "FD ↓"}
_COLUMNS = ("loss", "label", "run", "t", "value")


@dataclass(frozen=True)
class Group:
    """Curves of the training seeds of one method.

    Attributes:
        label: As in the sheet.
        method: Decides the look.
        curves: By run, values by name of the loss.
        alpha: None: α tells nothing apart here.
    """

    label: str
    method: str
    curves: Mapping[str, Mapping[str, list[float]]]
    alpha: None = None


def build_barriers(
    layout: BarriersLayout, runs: Mapping[str, Run], folder: Path, out: Path
) -> tuple[list[Path], list[str]]:
    """Writes ``.pdf``, ``.png`` and ``.csv``; returns their paths, and rows whose barrier is not there yet.

    Args:
        layout: Which rows.
        runs: The sample sheet.
        folder: ``barriers`` of the results.
        out: The ``.pdf``.

    Raises:
        UserError: A faulty file, or curves of unequally many points.
    """
    rows = barrier_rows(layout, runs)
    there = {run.run: read_barrier(path)["curves"] for run in rows if (path := folder / f"{run.run}.json").is_file()}
    if len({len(values) for curves in there.values() for values in curves.values()}) > 1:
        raise UserError(f"{folder}: barriers of unequally many points; make them again with the same settings")
    first = {run.label: run for run in reversed(rows) if run.run in there}
    labels = dict.fromkeys(run.label for run in rows if run.run in there)
    groups = [
        Group(label, first[label].method, {r.run: there[r.run] for r in rows if r.label == label and r.run in there})
        for label in labels
    ]
    paths = style.save(draw_barriers(layout, groups), out, layout.title)
    write_text(out.with_suffix(".csv"), barriers_csv(groups))
    absent = dict.fromkeys(run.label for run in rows if run.run not in there)
    return [*paths, out.with_suffix(".csv")], list(absent)


def draw_barriers(layout: BarriersLayout, groups: list[Group]) -> Figure:
    """Two panels: the mean over training seeds of each method, single seeds as thin lines, chords dotted.

    Both axes are linear, so that chords are straight.
    """
    figure = style.new_figure(layout.width, layout.height)
    looks = style.looks_of([groups])
    for axes, loss in zip(figure.subplots(1, 2), LOSSES):
        for group in groups:
            _draw(axes, group, loss, looks[group.label, group.method, None])
        axes.set_title(_TITLES[loss], loc="left", fontweight="bold")
        axes.set_xlabel("teacher  ←  t  →  student")
        axes.set_ylabel(_UNITS[loss])
        axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
        axes.set_axisbelow(True)
    if groups:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _draw(axes: Axes, group: Group, loss: str, look: style.Look) -> None:
    seeds = [curves[loss] for curves in group.curves.values()]
    means = [statistics.fmean(values) for values in zip(*seeds)]
    at = places(len(means))
    for values in seeds if len(seeds) > 1 else ():
        axes.plot(at, values, color=look.colour, linewidth=0.5, alpha=0.6)
    axes.plot(at, chord(means), color=look.colour, linewidth=0.7, linestyle=":")
    axes.plot(at, means, color=look.colour, marker=look.marker, label=style.literal(group.label))


def barriers_csv(groups: list[Group]) -> str:
    """One line per loss, run and point."""
    rows = [
        (loss, group.label, run, t, value)
        for loss in LOSSES
        for group in groups
        for run, curves in group.curves.items()
        for t, value in zip(places(len(curves[loss])), curves[loss])
    ]
    return csv_text(_COLUMNS, (dict(zip(_COLUMNS, row, strict=True)) for row in rows))
