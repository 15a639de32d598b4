"""Draws curves and reference lines."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.gather import Line, Panel
from eval.figures.layout import CurvesLayout
from eval.figures.style import METHODS, Look, looks_of
from eval.results.training_logs import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_DATA = "no data here yet"
KEPT = "hollow: kept generator, measured again"
_KEPT_LOOK: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "color": "#555555"}


def draw_curves(layout: CurvesLayout, panels: list[Panel]) -> Figure:
    """The figure of a layout; looks are those of :mod:`eval.figures.style`.

    A panel whose optional runs have no log yet, or logs without its metric, says so.
    """
    figure = style.new_figure(layout.width, layout.height)
    columns = min(layout.columns, len(panels))
    rows = -(-len(panels) // columns)
    ratios = list(layout.widths) if layout.widths and len(layout.widths) == columns else None
    grid = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios, sharey="row" if layout.share_y else False)
    looks = looks_of(layout, panels)
    for axes, panel in zip(grid.flat, panels):
        _draw_panel(layout, axes, panel, looks)
    for axes, panel in zip(grid.flat, panels):
        if panel.missing and not panel.curves:
            _say_no_data(axes, panel)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    if layout.legend == "below":
        _legend_below(figure, any(panel.finals for panel in panels))
    return figure


def _legend_below(figure: Figure, finals: bool) -> None:
    """One legend for all panels, each label once, in as many columns as the figure's width holds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    if finals:
        found[KEPT] = _kept_handle()
    renderer = FigureCanvasAgg(figure).get_renderer()
    for across in range(min(6, len(found)), 0, -1):
        legend = figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=across, frameon=False, handlelength=2.4
        )
        if legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def _kept_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", **_KEPT_LOOK)


def _draw_panel(layout: CurvesLayout, axes: Axes, panel: Panel, looks: dict[Any, Look]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    spec = panel.spec
    axes.set_xscale(spec.x_scale)
    axes.set_yscale(spec.y_scale)
    for curve in panel.curves:
        _draw_curve(layout, axes, panel, curve, looks[curve.label, curve.method, curve.alpha])
    _draw_lines(axes, panel.lines, layout)
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
    handles: list[Any]
    handles, labels = axes.get_legend_handles_labels()
    if panel.finals:
        handles.append(_kept_handle())
        labels.append(KEPT)
    look: dict[str, Any] = {"framealpha": 0.9, "edgecolor": "none", "borderpad": 0.3, "handlelength": 2.4}
    place: Any = panel.spec.legend
    axes.legend(handles, labels, loc=place, **look)


def _draw_curve(layout: CurvesLayout, axes: Axes, panel: Panel, curve: Curve, look: Look) -> None:
    from matplotlib import patheffects

    unit = layout.batch if layout.x == "iterations" and layout.batch else 1
    # A logarithmic axis has no place for the evaluation before training; the CSV keeps it.
    points = [p for p in curve.points if p.nimg > 0 or panel.spec.x_scale == "linear"]
    if panel.spec.x_max is not None:
        points = [p for p in points if p.nimg / unit <= panel.spec.x_max]
    x = [p.nimg / unit for p in points]
    y = [p.value for p in points]
    # A white rim keeps a curve apart from what it crosses.
    rim = [patheffects.Stroke(linewidth=2.6, foreground="white"), patheffects.Normal()]
    (drawn,) = axes.plot(x, y, color=look.colour, marker=look.marker, label=curve.label, path_effects=rim, zorder=3)
    if len(points) > 25:
        drawn.set_markevery(0.09)
    if look.dashes is not None:
        drawn.set_dashes(look.dashes)
    if any(p.std for p in points):
        low = [p.value - (p.std or 0) for p in points]
        if panel.spec.y_scale == "log":
            low = [max(bottom, 0.2 * p.value) for bottom, p in zip(low, points)]
        high = [p.value + (p.std or 0) for p in points]
        # Several bands over each other turn grey: the more there are, the fainter; their edges stay.
        crowd = max(2, len(panel.curves))
        axes.fill_between(x, low, high, color=look.colour, alpha=0.34 / crowd, linewidth=0, zorder=1.5)
        for edge in (low, high):
            axes.plot(x, edge, color=look.colour, linewidth=0.5, alpha=max(0.3, 1.2 / crowd), zorder=1.6)
    final = panel.finals.get(curve.run)
    if final is not None:
        axes.errorbar(
            [curve.best.nimg / unit],
            [final.mean],
            yerr=[final.std or 0],
            fmt=look.marker,
            markersize=6.5,
            markerfacecolor="white",
            markeredgewidth=1.1,
            color=look.colour,
            capsize=2.5,
            linewidth=1.0,
            zorder=4,
        )


def _line_colour(line: Line, layout: CurvesLayout) -> str:
    """The layout's choice; else a measured generator has the colour of its method."""
    if line.colour is not None:
        return style.LINE_COLOURS[line.colour]
    if line.method == "teacher":
        return style.LINE_COLOURS["purple"]
    if layout.colours == "method" and line.method in METHODS:
        return METHODS[line.method][0]
    return style.LINE_COLOURS["grey"]


def _draw_lines(axes: Axes, lines: tuple[Line, ...], layout: CurvesLayout) -> None:
    """Horizontal lines with their names written on them, or left to the legend."""
    written = layout.legend == "panels"
    by_height = sorted(lines, key=lambda line: line.value)
    for line in lines:
        colour = _line_colour(line, layout)
        # Dashes and gaps of one length, in turn by height: of two lines at one level both are seen.
        dashes = (5.0 * (by_height.index(line) % 2), (5.0, 5.0))
        axes.axhline(line.value, color=colour, linewidth=1.0, linestyle=dashes, zorder=1)
        if not written:
            axes.plot([], [], color=colour, linewidth=1.0, linestyle=(0, (5.0, 5.0)), label=line.label)
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


def _say_no_data(axes: Axes, panel: Panel) -> None:
    """Writes between the lines: in the middle of the largest gap that they leave."""
    to_axes = axes.transData + axes.transAxes.inverted()
    low, _ = axes.get_xlim()
    heights = sorted(float(to_axes.transform((low, line.value))[1]) for line in panel.lines)
    bounds = [0.0, *heights, 1.0]
    size, start = max((upper - lower, lower) for lower, upper in itertools.pairwise(bounds))
    place: Any = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # hides the grid behind it
    axes.text(0.5, start + size / 2, NO_DATA, style="italic", color="#666666", **place)


def short_number(value: float) -> str:
    """Axis label: ``500``, ``10k``, ``2.5M``, ``0.2``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"
