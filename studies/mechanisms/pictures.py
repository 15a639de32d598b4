"""Draws the study's pictures from its stored rows: ``python -m studies.mechanisms.pictures``.

Each is written as PDF, PNG and CSV to ``results/mechanisms/figures``, and its PNG beside the pages that show it. A cell
that was not trained is named as missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sida.config.lookup import ROOT
from sida.eval.figures import style
from sida.eval.report.page import reduced_png
from sida.eval.results.csv_files import csv_text
from sida.files.atomic import atomic_path
from studies.mechanisms.leads import DIGITS, FASHION, Cells, Data, Lead, cells_of, lead_of, shares_of, teacher_fd
from studies.mechanisms.tables import SHORT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colour and marker of each weight, of the palette of :mod:`sida.eval.figures.style`.
LOOKS = {0.0: ("#0072B2", "o"), 0.01: ("#E69F00", "v"), 0.3: ("#009E73", "^"), 3.0: ("#D55E00", "s")}
#: Meaning of the marks of the map, with their looks in its legend.
OF_MARKS: dict[str, dict[str, Any]] = {
    "kept networks": {}, "at the end": {"alpha": 0.35}, "two trainings on a side": {"markerfacecolor": "white"}
}  # fmt: skip
#: Where the PNG of each picture stands.
PLACES = {
    "curves": Path(__file__).with_name("curves.png"),
    "share": Path(__file__).with_name("share.png"),
    "map": Path(__file__).with_name("map.png"),
    # The site shows files of docs/ alone.
    "rows": ROOT / "docs/real-images.png",
}
Records = list[dict[str, Any]]
DataSets = list[tuple[Data, Cells]]


def curves(data_sets: DataSets) -> tuple[Figure, Records]:
    """FD against images: a panel a teacher, a colour a weight; bands from the lowest to the highest seed."""
    figure, records = style.new_figure(6.8, 4.2), Records()
    for axes, data, cells, teacher in _panels(figure, data_sets):
        for weight in data.weights:
            trainings = [*cells.get((teacher, weight), {}).values()]
            if not trainings:
                continue
            images = sorted(set.intersection(*({*curve} for curve in trainings)) - {0})
            values = [[curve[at] for curve in trainings] for at in images]
            means = [math.exp(fmean(map(math.log, of_one))) for of_one in values]
            colour, marker = LOOKS[weight]
            axes.plot(images, means, color=colour, marker=marker, label=_name(weight))
            low, high = [*map(min, values)], [*map(max, values)]
            axes.fill_between(images, low, high, color=colour, alpha=0.2, linewidth=0)
            records += [
                {"data": data.name, "teacher": teacher, "weight": weight, "images": at * 1000, "value": mean,
                 "low": one, "high": other, "trainings": len(trainings)}
                for at, mean, one, other in zip(images, means, low, high)
            ]  # fmt: skip
        _dress(axes, "thousand images", "FD")
        _log_ticks(axes.yaxis)
        _say_missing(axes, data, cells, teacher)
    _legend(figure)
    return figure, records


def share(data_sets: DataSets) -> tuple[Figure, Records]:
    """Share of the adversarial term against images: a panel a teacher, a line a training, means of five ticks."""
    figure, records = style.new_figure(6.8, 4.2), Records()
    for axes, data, cells, teacher in _panels(figure, data_sets):
        for weight in data.weights[1:]:
            for run in cells.get((teacher, weight), {}):
                ticks = sorted(shares_of(data, run).items())
                parts = [ticks[n : n + 5] for n in range(0, len(ticks) - 4, 5)]
                x, y = ([fmean(tick[place] for tick in part) for part in parts] for place in (0, 1))
                axes.plot(x, [100 * value for value in y], color=LOOKS[weight][0], label=_name(weight))
                about = {"data": data.name, "teacher": teacher, "weight": weight, "run": run}
                records += [about | {"images": 1000 * at, "value": value} for at, value in zip(x, y)]
        _dress(axes, "thousand images", "share in %")
        axes.set_yscale("log")
        axes.set_ylim(0.05, 100)
        axes.yaxis.set_major_formatter(_plain())
        _say_missing(axes, data, cells, teacher)
    _legend(figure)
    return figure, records


def _panels(figure: Figure, data_sets: DataSets) -> Iterator[tuple[Axes, Data, Cells, str]]:
    """Yields a panel for each teacher, a line of panels for each data set; places without a teacher stay empty."""
    for line, (data, cells) in zip(figure.subplots(2, 4, squeeze=False), data_sets):
        for axes, (teacher, grade) in zip(line, data.grades.items()):
            axes.set_title(f"{data.name.removeprefix('8×8 ')}, {grade}k", loc="left")
            yield axes, data, cells, teacher
        for axes in line[len(data.grades) :]:
            axes.set_axis_off()


def map_of_leads(data_sets: DataSets) -> tuple[Figure, Records]:
    """Lead of SiDA against the teacher's FD: of a cell's kept networks, pale beside it at the end of the trainings.

    A mark has its interval; open marks are those of cells with two trainings on a side. Where no teacher was measured,
    its images stand on the horizontal axis instead.
    """
    figure, records = style.new_figure(5.6, 3.1), Records()
    for axes, (data, cells) in zip(figure.subplots(1, len(data_sets), sharey=True), data_sets):
        missing = dict[float, list[str]]()
        fds = {teacher: teacher_fd(data, teacher) for teacher in data.grades}
        measured = any(fds.values())
        for number, weight in enumerate(data.weights[1:]):
            for teacher, grade in data.grades.items():
                place = fds[teacher] if measured else grade
                both = {end: lead_of(data, cells, teacher, weight, images=end) for end in (None, data.end)}
                if place is None or None in both.values():
                    missing.setdefault(weight, []).append(f"{grade}k")
                    continue
                x = place * 1.22 ** (number + 2 - len(data.weights))
                for end, one in both.items():
                    assert one is not None
                    at = x * 1.09 if end else x
                    _draw_lead(axes, at, one, weight, is_end=end is not None)
                    records.append({
                        "data": data.name, "teacher": teacher, "weight": weight,
                        "images": 1000 * end if end else "kept networks", "value": one.value, "low": one.low,
                        "high": one.high, "trainings": one.seeds, "teacher_fd": fds[teacher],
                    })  # fmt: skip
                    if end is None:
                        up = (-4, 4) if one.value < 0.9 else (-4, -9)
                        axes.annotate(
                            f"{grade}k", (at, 100 * one.value), up, textcoords="offset points", ha="right",
                            fontsize=6.5, color=LOOKS[weight][0],
                        )  # fmt: skip
        # A column of the legend has a weight above the meaning of a mark.
        for weight, (label, look) in zip(LOOKS, [("", {}), *OF_MARKS.items()]):
            if not weight:
                continue
            axes.plot([], [], LOOKS[weight][1], color=LOOKS[weight][0], markersize=4.5, label=_name(weight))
            axes.plot([], [], "s", color="#555555", markersize=4.5, label=label, **look)
        axes.axhline(0, color="#333333", linewidth=0.6)
        axes.set_title(f"{data.name}, {data.end}k images", loc="left")
        y_label = "lead of SiDA over SiD, %" if axes.get_subplotspec().is_first_col() else ""
        _dress(axes, "FD of the teacher" if measured else "thousand images of the teacher", y_label)
        axes.set_xscale("log")
        places = [*filter(None, fds.values())] if measured else [*data.grades.values()]
        axes.set_xlim(0.6 * min(places), 1.5 * max(places))
        _log_ticks(axes.xaxis, None if measured else [*data.grades.values()])
        axes.set_ylim(-25, 100)
        if missing:
            lines = [f"weight {weight:g}: {', '.join(grades)}" for weight, grades in missing.items()]
            text = "teachers not trained from, by weight:\n" + "\n".join(lines)
            axes.text(0.03, 0.97, text, transform=axes.transAxes, fontsize=5.5, color="#666666", va="top")
    _legend(figure)
    return figure, records


#: Leads of a line of :func:`rows_of_leads`: colour, marker, metric, and whether they are of the trainings' end.
OF_ROWS = {
    "to training images, kept networks": ("#009E73", "^", "fd", False),
    "to held-out images, kept networks": ("#0072B2", "o", "fd_heldout", False),
    "to training images, at the end": ("#999999", "s", "fd", True),
}


def rows_of_leads() -> tuple[Figure, Records]:
    """Leads of the short table, a line a row, each with its interval; an interval that leaves the axis ends there."""
    figure, records = style.new_figure(6.2, 0.8 + 0.42 * len(SHORT)), Records()
    axes, labels = figure.subplots(), list[str]()
    for line, (data, teacher, weight) in enumerate(SHORT):
        cells = cells_of(data)
        labels.append(f"{data.name}\nteacher of {data.grade_of(teacher)}, λ {weight:g}")
        for place, (label, (colour, marker, metric, at_end)) in enumerate(OF_ROWS.items()):
            images = data.end if at_end else None
            one = lead_of(data, cells, teacher, weight, metric, images)
            if one is None:
                continue
            value, low, high = (100 * part for part in (one.value, one.low, one.high))
            axes.errorbar(
                [value], [line + 0.24 * (place - 1)], xerr=[[value - low], [high - value]], fmt=marker, color=colour,
                markersize=3.5, capsize=2, linewidth=0.9, label=label,
            )  # fmt: skip
            records.append({
                "data": data.name, "teacher": teacher, "weight": weight, "metric": metric,
                "images": 1000 * images if images else "kept networks", "value": one.value, "low": one.low,
                "high": one.high, "trainings": one.seeds,
            })  # fmt: skip
    axes.axvline(0, color="#333333", linewidth=0.6)
    _dress(axes, "lead of SiDA over SiD, %", "")
    axes.set_xlim(-50, 100)
    axes.set_yticks(range(len(labels)), labels, fontsize=6)
    axes.invert_yaxis()
    _legend(figure)
    return figure, records


def _draw_lead(axes: Axes, x: float, one: Lead, weight: float, *, is_end: bool) -> None:
    """A mark with its interval, pale for the end of the trainings, open where a side has two trainings."""
    colour, marker = LOOKS[weight]
    value, low, high = (100 * part for part in (one.value, one.low, one.high))
    axes.errorbar(
        [x], [value], yerr=[[value - low], [high - value]], fmt=marker, color=colour, alpha=0.35 if is_end else 1.0,
        markersize=3 if is_end else 4.5, capsize=2 if is_end else 2.5, linewidth=0.8 if is_end else 1.0,
        markerfacecolor="white" if one.is_open else colour,
    )  # fmt: skip


def _name(weight: float) -> str:
    return f"SiDA, weight {weight:g}" if weight else "SiD"


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)


def _plain() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}")


def _log_ticks(axis: Any, ticks: list[int] | None = None) -> None:
    """A logarithmic axis with plain numbers: these, or few of its range."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    few = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]) if high / low < 4 else LogLocator(subs=(1, 3))
    axis.set_major_locator(FixedLocator(ticks) if ticks else few)
    axis.set_major_formatter(_plain())
    axis.set_minor_formatter(NullFormatter())


def _say_missing(axes: Axes, data: Data, cells: Cells, teacher: str) -> None:
    """Names the weights without a training in the corner of a panel, and in its middle if it has none."""
    missing = [f"{weight:g}" for weight in data.weights if (teacher, weight) not in cells]
    if len(missing) == len(data.weights):
        axes.set_xlim(0, data.images[-1])
        place, text = (0.5, 0.5, "center", "center"), "not trained"
    else:
        # The lower left corner is free of curves and shares.
        place, text = (0.04, 0.04, "left", "bottom"), f"not trained: {', '.join(missing)}"
    if missing:
        x, y, ha, va = place
        axes.text(x, y, text, transform=axes.transAxes, ha=ha, va=va, fontsize=6, style="italic", color="#666666")


def _legend(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    columns = len(handles) if len(handles) < 6 else 3
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)


def main() -> None:
    """Draws all pictures."""
    older = [(data, cells_of(data)) for data in (DIGITS, FASHION)]
    drawn = {"curves": curves(older), "share": share(older), "map": map_of_leads(older), "rows": rows_of_leads()}
    for name, (figure, records) in drawn.items():
        out = ROOT / "results/mechanisms/figures" / f"{name}.pdf"
        columns = [*dict.fromkeys(key for record in records for key in record)]
        style.save(figure, out, f"When do real images help: {name}", csv_text(columns, records))
        with atomic_path(PLACES[name]) as part:
            part.write_bytes(reduced_png(out.with_suffix(".png")))
        print(PLACES[name].relative_to(ROOT))


if __name__ == "__main__":
    main()
