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
from studies.mechanisms.leads import DIGITS, FASHION, Cells, Data, cells_of, lead_of, shares_of, teacher_fd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colour and marker of each weight, of the palette of :mod:`sida.eval.figures.style`.
LOOKS = {0.0: ("#0072B2", "o"), 0.01: ("#E69F00", "v"), 0.3: ("#009E73", "^"), 3.0: ("#D55E00", "s")}
#: Where the PNG of each picture stands.
PLACES = {
    "curves": Path(__file__).with_name("curves.png"),
    "share": Path(__file__).with_name("share.png"),
    # The site shows files of docs/ alone.
    "map": ROOT / "docs/real-images.png",
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
    """Lead of SiDA at the end against the teacher's FD: a point a cell with its interval, a dot a training.

    Where no teacher was measured, its images stand on the horizontal axis instead.
    """
    figure, records = style.new_figure(5.2, 2.7), Records()
    for axes, (data, cells) in zip(figure.subplots(1, len(data_sets), sharey=True), data_sets):
        end, missing = data.images[-1], dict[float, list[str]]()
        fds = {teacher: teacher_fd(data, teacher) for teacher in data.grades}
        measured = any(fds.values())
        for number, weight in enumerate(data.weights[1:]):
            colour, marker = LOOKS[weight]
            for teacher, grade in data.grades.items():
                one, place = lead_of(cells, teacher, weight, end), fds[teacher] if measured else grade
                if one is None or place is None:
                    missing.setdefault(weight, []).append(f"{grade}k")
                    continue
                x = place * 1.06 ** (number + 2 - len(data.weights))
                sid = math.exp(fmean(math.log(curve[end]) for curve in cells[teacher, 0.0].values()))
                dots = [100 * (1 - curve[end] / sid) for curve in cells[teacher, weight].values()]
                value, low, high = (100 * part for part in (one.value, one.low, one.high))
                axes.errorbar(
                    [x], [value], yerr=[[value - low], [high - value]], fmt=marker, color=colour, markersize=4.5,
                    capsize=2.5, linewidth=1.0, label=_name(weight),
                )  # fmt: skip
                axes.plot([x * 0.97] * len(dots), dots, ".", color=colour, markersize=3, alpha=0.7)
                axes.annotate(f"{grade}k", (x, value), (5, 3), textcoords="offset points", fontsize=6.5, color=colour)
                records.append({
                    "data": data.name, "teacher": teacher, "weight": weight, "images": 1000 * end, "value": one.value,
                    "low": one.low, "high": one.high, "teacher_fd": fds[teacher], "trainings": len(dots),
                })  # fmt: skip
        axes.axhline(0, color="#333333", linewidth=0.6)
        axes.set_title(f"{data.name}, {end}k images", loc="left")
        y_label = "lead of SiDA over SiD, %" if axes.get_subplotspec().is_first_col() else ""
        _dress(axes, "FD of the teacher" if measured else "thousand images of the teacher", y_label)
        axes.set_xscale("log")
        places = [*filter(None, fds.values())] if measured else [*data.grades.values()]
        axes.set_xlim(0.7 * min(places), 1.4 * max(places))
        _log_ticks(axes.xaxis, None if measured else [*data.grades.values()])
        axes.set_ylim(-50, 100)
        if missing:
            lines = [f"weight {weight:g}: {', '.join(grades)}" for weight, grades in missing.items()]
            text = "teachers not trained from, by weight:\n" + "\n".join(lines)
            axes.text(0.03, 0.97, text, transform=axes.transAxes, fontsize=5.5, color="#666666", va="top")
    _legend(figure)
    return figure, records


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
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)


def main() -> None:
    """Draws all pictures."""
    data_sets = [(data, cells_of(data)) for data in (DIGITS, FASHION)]
    for name, draw in (("curves", curves), ("share", share), ("map", map_of_leads)):
        figure, records = draw(data_sets)
        out = ROOT / "results/mechanisms/figures" / f"{name}.pdf"
        columns = [*dict.fromkeys(key for record in records for key in record)]
        style.save(figure, out, f"When do real images help: {name}", csv_text(columns, records))
        with atomic_path(PLACES[name]) as part:
            part.write_bytes(reduced_png(out.with_suffix(".png")))
        print(PLACES[name].relative_to(ROOT))


if __name__ == "__main__":
    main()
