"""Draws figures of curves: panels, curves with their spread, reference lines, and one legend below all panels."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sida.eval.figures import style
from sida.eval.figures.curves import CurvesLayout, Panel, PanelSpec, ReferenceLine, curves_csv
from sida.eval.figures.layout import Drawing, Sources
from sida.eval.figures.style import METHOD_LOOKS, Look, literal, looks_of
from sida.eval.results.logs import Curve, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_DATA, NO_CURVES = "no data here yet", "curves: printed without numbers"
#: Letters of a label in the legend that fit side by side into an inch of the figure's width, beside their marker.
_LETTERS_PER_INCH = 16
KEPT_LABEL = "hollow: kept generator, measured again"
_EDGE_LABEL = "\n(on the left edge: its start)"
_KEPT_LOOK: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "color": "#555555"}
#: Tick labels of a logarithmic axis within a power of ten, from few to many.
_MULTIPLES = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


class CurvesFigure(CurvesLayout):
    """Curves of metrics during training against images seen."""

    def build(self, sources: Sources) -> Drawing:
        """Draws the panels whose series match a row."""
        panels = self.gather(sources)
        missing, notes = ([text for panel in panels for text in getattr(panel, name)] for name in ("missing", "notes"))
        return Drawing(draw_curves(self, panels), curves_csv(self, panels), missing, notes)


def draw_curves(layout: CurvesLayout, panels: Sequence[Panel]) -> Figure:
    """Draws the figure of a layout (looks: :mod:`sida.eval.figures.style`). A panel without data has a text instead."""
    looks = looks_of([panel.curves for panel in panels], layout.colours == "alpha")
    figure = style.new_figure(layout.width, layout.height)
    across = min(layout.columns, len(panels))
    share_y: Any = "row" if layout.share_y else False
    # Without the panels that are left out the others are equally wide.
    widths = layout.widths if len(panels) == len(layout.panels) else None
    grid = figure.subplots(-(-len(panels) // across), across, squeeze=False, width_ratios=widths, sharey=share_y).flat
    for axes, panel in itertools.zip_longest(grid, panels):
        if panel is None:
            axes.set_axis_off()
            continue
        axes.set_xscale("log")
        axes.set_yscale(panel.spec.y_scale)
        for curve in panel.curves:
            _draw_curve(layout, axes, panel, curve, looks[curve.label, curve.method, curve.alpha])
        _draw_lines(axes, panel.lines, layout.colours == "method")
        if not panel.curves and panel.spec.x_min and panel.spec.x_max:
            axes.set_xlim(panel.spec.x_min, panel.spec.x_max)
        _dress(axes, panel.spec, "iterations" if layout.batch else "training images")
    for axes, panel in zip(figure.axes, panels):
        if not panel.curves:
            _write_between(axes, panel.lines, NO_DATA if panel.missing else NO_CURVES)
    _legend_below(figure, _kept_entry(panels))
    return figure


def _kept_entry(panels: Sequence[Panel]) -> dict[str, Any]:
    """Entry of the legend for hollow markers."""
    from matplotlib.lines import Line2D

    if not any(panel.finals for panel in panels):
        return {}
    edge = any(curve.best.nimg == 0 for panel in panels for curve in panel.curves if panel.final(curve))
    return {KEPT_LABEL + _EDGE_LABEL * edge: Line2D([], [], linestyle="none", **_KEPT_LOOK)}


def _draw_curve(layout: CurvesLayout, axes: Axes, panel: Panel, curve: Curve, look: Look) -> None:
    from matplotlib import patheffects

    unit = layout.batch or 1
    # The CSV has the others as well.
    points = [p for p in curve.points if panel.spec.shows(p.nimg / unit, p.value)]
    x = [p.nimg / unit for p in points]
    # A white rim separates a curve from the lines that it crosses.
    rim = [patheffects.Stroke(linewidth=2.6, foreground="white"), patheffects.Normal()]
    (line,) = axes.plot(
        x,
        [p.value for p in points],
        marker=look.marker,
        label=literal(curve.label),
        path_effects=rim,
        zorder=3,
        color=look.colour,
    )
    if len(points) > 25:
        line.set_markevery(0.09)
    if look.dashes is not None:
        line.set_dashes(look.dashes)
    if any(point.std for point in points):
        _draw_spread(axes, panel, x, points, look.colour)
    final = panel.final(curve)
    if final is not None:
        anchor: dict[str, Any] = {}
        if curve.best.nimg == 0:  # the start, which a logarithmic axis shows at its left edge
            anchor = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.errorbar(
            [curve.best.nimg / unit], [final.mean], yerr=[final.std or 0], fmt=look.marker, markersize=6.5,
            markerfacecolor="white", markeredgewidth=1.1, color=look.colour, capsize=2.5, linewidth=1.0, zorder=4,
            **anchor,
        )  # fmt: skip


def _draw_spread(axes: Axes, panel: Panel, x: list[float], points: list[Point], colour: str) -> None:
    """Draws the spread of a curve's evaluations as a band."""
    low = [point.value - (point.std or 0) for point in points]
    if panel.spec.y_scale == "log":
        low = [max(bottom, 0.2 * point.value) for bottom, point in zip(low, points)]
    high = [point.value + (point.std or 0) for point in points]
    # Overlapping bands turn grey, so more bands are drawn fainter; their edges stay.
    crowd = max(2, len(panel.curves))
    axes.fill_between(x, low, high, alpha=0.34 / crowd, linewidth=0, zorder=1.5, color=colour)
    for edge in (low, high):
        axes.plot(x, edge, linewidth=0.5, alpha=max(0.3, 1.2 / crowd), zorder=1.6, color=colour)


def _draw_lines(axes: Axes, lines: Sequence[ReferenceLine], by_method: bool) -> None:
    """Draws horizontal lines."""
    by_height = sorted(lines, key=lambda line: line.value)
    for line in lines:
        # Dashes and gaps of one length, shifted by turns: two lines at one level are both visible.
        look: dict[str, Any] = {"color": _line_colour(line, by_method), "linewidth": 1.0}
        axes.axhline(line.value, linestyle=(5.0 * (by_height.index(line) % 2), (5.0, 5.0)), zorder=1, **look)
        axes.plot([], [], linestyle=(0, (5.0, 5.0)), label=literal(line.label), **look)


def _line_colour(line: ReferenceLine, by_method: bool) -> str:
    """Colour of a reference line: the layout's, else the colour of the measured generator's method."""
    if line.colour is not None:
        return style.LINE_COLOURS[line.colour]
    if line.method == "teacher":
        return style.LINE_COLOURS["purple"]
    if by_method and line.method in METHOD_LOOKS:
        return METHOD_LOOKS[line.method][0]
    return style.LINE_COLOURS["grey"]


def _dress(axes: Axes, spec: PanelSpec, x_label: str) -> None:
    """Sets title, labels, grid and ticks of a pair of axes; call it when the limits are final."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_title(literal(spec.title), loc="left", fontweight="bold")
    axes.set_xlabel(literal(spec.x_label or x_label))
    axes.set_ylabel(literal(spec.y_label))
    axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    for axis, scale in ((axes.xaxis, "log"), (axes.yaxis, spec.y_scale)):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        if scale == "log":
            low, high = axis.get_view_interval()
            # Numbers below the axis stand side by side and need more room.
            multiples = _tick_multiples(low, high, 3 if axis is axes.xaxis else 4)
            axis.set_major_locator(
                LogLocator(subs=multiples) if multiples else MaxNLocator(7, steps=[1, 2, 2.5, 5, 10])
            )
            axis.set_minor_formatter(NullFormatter())


def _tick_multiples(low: float, high: float, least: int) -> tuple[float, ...]:
    """Fewest multiples of each power of ten that give an axis ``least`` numbers, one of them in its upper quarter.

    Empty if no multiples do.
    """
    powers = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for multiples in _MULTIPLES:
        ticks = [tick for power in powers for multiple in multiples if low <= (tick := power * multiple) <= high]
        if len(ticks) >= least and ticks[-1] >= low**0.25 * high**0.75:
            return multiples
    return ()


def _legend_below(figure: Figure, more: Mapping[str, Any]) -> None:
    """Draws one legend for all panels, each label once, in as many columns as fit into the figure's width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    handles |= more
    renderer = FigureCanvasAgg(figure).get_renderer()
    line = int(_LETTERS_PER_INCH * figure.get_figwidth())
    labels = ["\n".join(textwrap.fill(part, line) for part in label.split("\n")) for label in handles]
    for most in range(min(6, len(handles)), 0, -1):
        # Rows of nearly equal length.
        across = -(-len(handles) // -(-len(handles) // most))
        legend = figure.legend(
            handles.values(), labels, loc="outside lower center", ncols=across, frameon=False, handlelength=2.4
        )
        if most == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def _write_between(axes: Axes, lines: Sequence[ReferenceLine], text: str) -> None:
    """Writes a text into the largest gap between the horizontal lines."""
    to_axes = axes.transData + axes.transAxes.inverted()
    low, _ = axes.get_xlim()
    heights = sorted(float(to_axes.transform((low, line.value))[1]) for line in lines)
    bounds = [0.0, *heights, 1.0]
    size, start = max((upper - lower, lower) for lower, upper in itertools.pairwise(bounds))
    style: Any = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # hides the grid behind it
    axes.text(0.5, start + size / 2, text, style="italic", color="#666666", **style)


def short_number(value: float) -> str:
    """A number as axis label: ``500``, ``10k``, ``2.5M``, ``0.2``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}".replace("-", "−")
    return f"{value:g}".replace("-", "−")
