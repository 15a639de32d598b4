"""Draws curves and reference lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.curves import Curve
from eval.figures.gather import Line, Panel
from eval.figures.layout import CurvesLayout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_curves(layout: CurvesLayout, panels: list[Panel]) -> Figure:
    """The figure of a layout; every label has one colour, marker and dash pattern in all panels.

    A panel whose optional runs have no log yet says so.
    """
    figure = style.new_figure(layout.width, layout.height)
    columns = min(layout.columns, len(panels))
    rows = -(-len(panels) // columns)
    ratios = list(layout.widths) if layout.widths and len(layout.widths) == columns else None
    grid = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios, sharey="row" if layout.share_y else False)
    order = {name: i for i, name in enumerate(dict.fromkeys(c.label for panel in panels for c in panel.curves))}
    for axes, panel in zip(grid.flat, panels):
        _draw_panel(layout, axes, panel, order)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    if layout.legend == "below":
        _legend_below(figure)
    return figure


def _legend_below(figure: Figure) -> None:
    """One legend for all panels, each label once, in as many columns as the figure's width holds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for across in range(min(6, len(found)), 0, -1):
        legend = figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=across, frameon=False, handlelength=2.4
        )
        if legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def _draw_panel(layout: CurvesLayout, axes: Axes, panel: Panel, order: dict[str, int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    spec = panel.spec
    axes.set_xscale(spec.x_scale)
    axes.set_yscale(spec.y_scale)
    for curve in panel.curves:
        _draw_curve(layout, axes, panel, curve, order[curve.label])
    _draw_lines(axes, panel.lines, written=layout.legend == "panels")
    if panel.missing and not panel.curves:
        place: Any = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "not trained here yet", style="italic", color="#666666", **place)
    axes.set_title(spec.title, loc="left", fontweight="bold")
    axes.set_xlabel(spec.x_label or {"images": "training images", "iterations": "iterations"}[layout.x])
    axes.set_ylabel(spec.y_label)
    if not panel.curves and spec.x_min and spec.x_max:
        axes.set_xlim(spec.x_min, spec.x_max)
    axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    for axis, scale in ((axes.xaxis, spec.x_scale), (axes.yaxis, spec.y_scale)):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        if scale == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=_labelled(high / low)))
            axis.set_minor_formatter(NullFormatter())
    if panel.curves and layout.legend == "panels":
        _legend(axes, panel)


def _labelled(ratio: float) -> tuple[float, ...]:
    """Multiples of each power of ten that get a number, denser on short axes."""
    for limit, multiples in ((6, (1, 1.5, 2, 3, 4, 5, 6, 8)), (30, (1, 2, 3, 5)), (300, (1, 2, 5))):
        if ratio < limit:
            return multiples
    return (1,)


def _legend(axes: Axes, panel: Panel) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any]
    handles, labels = axes.get_legend_handles_labels()
    if panel.finals:
        open_marker: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "color": "#555555"}
        handles.append(Line2D([], [], linestyle="none", **open_marker))
        labels.append("kept generator, re-measured")
    look: dict[str, Any] = {"framealpha": 0.9, "edgecolor": "none", "borderpad": 0.3, "handlelength": 2.4}
    place: Any = panel.spec.legend
    axes.legend(handles, labels, loc=place, **look)


def _draw_curve(layout: CurvesLayout, axes: Axes, panel: Panel, curve: Curve, number: int) -> None:
    unit = layout.batch if layout.x == "iterations" and layout.batch else 1
    # A logarithmic axis has no place for the evaluation before training; the CSV keeps it.
    points = [p for p in curve.points if p.nimg > 0 or panel.spec.x_scale == "linear"]
    if panel.spec.x_max is not None:
        points = [p for p in points if p.nimg / unit <= panel.spec.x_max]
    x = [p.nimg / unit for p in points]
    y = [p.value for p in points]
    colour = style.COLOURS[number % len(style.COLOURS)]
    dash: Any = style.DASHES[number % len(style.DASHES)]
    (drawn,) = axes.plot(x, y, color=colour, marker=style.MARKERS[number % len(style.MARKERS)], label=curve.label)
    if len(points) > 25:
        drawn.set_markevery(0.09)
    if dash[0] is not None:
        drawn.set_dashes(dash)
    if any(p.std for p in points):
        low = [p.value - (p.std or 0) for p in points]
        if panel.spec.y_scale == "log":
            low = [max(bottom, 0.2 * p.value) for bottom, p in zip(low, points)]
        high = [p.value + (p.std or 0) for p in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    final = panel.finals.get(curve.run)
    if final is not None:
        axes.errorbar(
            [curve.best.nimg / unit],
            [final.mean],
            yerr=[final.std or 0],
            fmt=style.MARKERS[number % len(style.MARKERS)],
            markersize=6.5,
            markerfacecolor="white",
            markeredgewidth=1.1,
            color=colour,
            capsize=2.5,
            linewidth=1.0,
            zorder=4,
        )


def _draw_lines(axes: Axes, lines: tuple[Line, ...], written: bool) -> None:
    """Horizontal lines with their names written on them, or left to the legend."""
    names = list(style.LINE_COLOURS)
    by_height = sorted(lines, key=lambda line: line.value)
    for number, line in enumerate(lines):
        name = line.colour or names[number % len(names)]
        dashes = (6, 2) if names.index(name) % 2 == 0 else (2, 1.5)
        label = "_nolegend_" if written else line.label
        colour = style.LINE_COLOURS[name]
        axes.axhline(line.value, color=colour, linewidth=0.9, dashes=dashes, zorder=1, label=label)
        if not written:
            continue
        # Names alternate between the ends by height, so that those of close lines do not touch.
        right = by_height.index(line) % 2 == 0
        axes.annotate(
            line.label,
            (0.985 if right else 0.015, line.value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1.5),
            textcoords="offset points",
            fontsize=6.5,
            color=colour,
            va="bottom",
            ha="right" if right else "left",
        )


def short_number(value: float) -> str:
    """Axis label: ``500``, ``10k``, ``2.5M``, ``0.2``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"
