"""Common parts of figures of curves and of points: panels, axes, legends, horizontal lines, notes on missing data.

Annotations are placed where they cover the least of the drawing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from eval.figures import style
from eval.figures.curves import ReferenceLine
from eval.figures.layout import AxesSpec, PanelsFigure
from eval.figures.style import METHOD_LOOKS, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Distance in pixels between the points that represent a drawn line.
_STEP = 2.0


@dataclass(frozen=True)
class Spot:
    """A possible position of a text: a point of the axes, and the offset of the text in points of 1/72 inch."""

    xy: tuple[float, float]
    offset: tuple[float, float]
    ha: str
    va: str
    xycoords: Any = "data"


@dataclass(frozen=True)
class Annotation:
    """A text of one colour with its possible positions, the best first."""

    text: str
    spots: Sequence[Spot]
    colour: str
    size: float


def annotate(axes: Axes, words: Sequence[Annotation]) -> None:
    """Writes each text at the spot where it covers the least; call it when the drawing and its limits are final."""
    from matplotlib import patheffects
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if not words:
        return
    figure: Any = axes.figure
    figure.draw_without_rendering()  # computes the positions
    renderer = FigureCanvasAgg(figure).get_renderer()
    drawn = np.concatenate([np.empty((0, 2)), *map(_pixels, axes.get_lines())])
    legend = axes.get_legend()
    taken = [legend.get_window_extent(renderer)] if legend else []
    rim = [patheffects.withStroke(linewidth=1.8, foreground="white")]
    for one in words:
        found: list[tuple[float, int, Any, Any]] = []
        for spot in one.spots:
            text = axes.annotate(
                literal(one.text), spot.xy, xycoords=spot.xycoords, xytext=spot.offset, textcoords="offset points",
                ha=spot.ha, va=spot.va, fontsize=one.size, color=one.colour, path_effects=rim, zorder=5,
            )  # fmt: skip
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            inside = ((drawn > box.min) & (drawn < box.max)).all(1).sum()
            out = max(0.0, box.x1 - axes.bbox.x1) + max(0.0, axes.bbox.x0 - box.x0)
            # Other words below the text, or an end beyond the axes, count like a line through the text.
            found.append((inside + 100 * sum(box.overlaps(other) for other in taken) + out, len(found), text, box))
        *others, best = sorted(found, key=lambda place: place[:2], reverse=True)
        for _, _, text, _ in others:
            text.remove()
        taken.append(best[3])


def _pixels(line: Any) -> np.ndarray:
    """Dense points of a drawn line, ``(N, 2)`` in pixels."""
    points = line.get_transform().transform(line.get_xydata())
    points = points[np.isfinite(points).all(1)]
    if len(points) < 2 or line.get_linestyle() == "None":
        return points
    steps = np.ceil(np.abs(np.diff(points, axis=0)).max(1) / _STEP).astype(int).clip(1, 5000)
    parts = [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(points, points[1:], steps)]
    return np.concatenate([*parts, points[-1:]])


NO_DATA = "no data here yet"
#: Tick labels of a logarithmic axis within a power of ten, from few to many.
_MULTIPLES = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


class PanelData(Protocol):
    """Data of one pair of axes."""

    @property
    def spec(self) -> AxesSpec:
        """Layout of the panel."""

    @property
    def curves(self) -> Sequence[Any]:
        """Curves, or series of points."""

    @property
    def lines(self) -> Sequence[ReferenceLine]:
        """Horizontal lines."""

    @property
    def missing(self) -> Sequence[str]:
        """Names of series without data."""


_P = TypeVar("_P", bound=PanelData)


def draw_panels(
    layout: PanelsFigure,
    panels: Sequence[_P],
    draw: Callable[[Axes, _P], str],
    entries: Callable[[Sequence[_P]], Mapping[str, Any]],
    by_method: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure with a pair of axes for each panel, in the layout's columns; a panel without data says so.

    Args:
        layout: Size, columns and legend.
        panels: Data of each panel.
        draw: Draws the data of a panel with its lines; returns the default label of the horizontal axis.
        entries: Further entries of a legend of panels.
        by_method: Whether colours distinguish methods.
    """
    figure = style.new_figure(layout.width, layout.height)
    columns = min(layout.columns, len(panels))
    rows = -(-len(panels) // columns)
    grid = list(
        figure.subplots(
            rows, columns, squeeze=False, width_ratios=layout.widths, sharey="row" if layout.share_y else False
        ).flat
    )
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    inside = layout.legend == "panels"
    for axes, panel in zip(grid, panels):
        axes.set_xscale(panel.spec.x_scale)
        axes.set_yscale(panel.spec.y_scale)
        dress(axes, panel.spec, draw(axes, panel))
        if panel.curves and inside:
            legend_inside(axes, panel.spec.legend, entries([panel]))
    for axes, panel in zip(grid, panels):
        if panel.missing and not panel.curves:
            write_no_data(axes, panel.lines)
    if not inside:
        legend_below(figure, entries(panels))
    for axes, panel in zip(grid, panels):
        if inside:
            name_lines(axes, panel.lines, by_method)
    return figure, grid[: len(panels)]


def dress(axes: Axes, spec: AxesSpec, x_label: str) -> None:
    """Sets title, labels, grid and ticks of a pair of axes; call it when the limits are final."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_title(literal(spec.title), loc="left", fontweight="bold")
    axes.set_xlabel(literal(spec.x_label or x_label))
    axes.set_ylabel(literal(spec.y_label))
    axes.grid(True, which="major", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    for axis, scale in ((axes.xaxis, spec.x_scale), (axes.yaxis, spec.y_scale)):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        if scale == "log":
            low, high = axis.get_view_interval()
            # Numbers below the axis stand side by side and need more room.
            multiples = _labelled(low, high, 3 if axis is axes.xaxis else 4)
            axis.set_major_locator(
                LogLocator(subs=multiples) if multiples else MaxNLocator(7, steps=[1, 2, 2.5, 5, 10])
            )
            axis.set_minor_formatter(NullFormatter())


def _labelled(low: float, high: float, least: int) -> tuple[float, ...]:
    """Fewest multiples of each power of ten that give an axis ``least`` numbers; empty if all give too few."""
    powers = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for multiples in _MULTIPLES:
        if sum(low <= power * multiple <= high for power in powers for multiple in multiples) >= least:
            return multiples
    return ()


def legend_below(figure: Figure, more: Mapping[str, Any]) -> None:
    """Draws one legend for all panels, each label once, in as many columns as fit into the figure's width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    found |= more
    renderer = FigureCanvasAgg(figure).get_renderer()
    for most in range(min(6, len(found)), 0, -1):
        # Rows of nearly equal length.
        across = -(-len(found) // -(-len(found) // most))
        legend = figure.legend(
            found.values(), found.keys(), loc="outside lower center", ncols=across, frameon=False, handlelength=2.4
        )
        if legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def legend_inside(axes: Axes, place: Any, more: Mapping[str, Any]) -> None:
    """Draws a legend in a panel, with further entries."""
    handles: list[Any]
    handles, labels = axes.get_legend_handles_labels()
    look: dict[str, Any] = {"framealpha": 0.9, "edgecolor": "none", "borderpad": 0.3, "handlelength": 2.4}
    axes.legend([*handles, *more.values()], [*labels, *more], loc=place, **look)


def _line_colour(line: ReferenceLine, by_method: bool) -> str:
    """Colour of a reference line: that of the layout, else of the measured generator's method."""
    if line.colour is not None:
        return style.LINE_COLOURS[line.colour]
    if line.method == "teacher":
        return style.LINE_COLOURS["purple"]
    if by_method and line.method in METHOD_LOOKS:
        return METHOD_LOOKS[line.method][0]
    return style.LINE_COLOURS["grey"]


def draw_lines(axes: Axes, lines: Sequence[ReferenceLine], written: bool, by_method: bool = True) -> None:
    """Draws horizontal lines without their names (see :func:`name_lines`)."""
    by_height = sorted(lines, key=lambda line: line.value)
    for line in lines:
        colour = _line_colour(line, by_method)
        # Dashes and gaps of one length, shifted by turns: two lines at one level are both visible.
        dashes = (5.0 * (by_height.index(line) % 2), (5.0, 5.0))
        axes.axhline(line.value, color=colour, linewidth=1.0, linestyle=dashes, zorder=1)
        if not written:
            axes.plot([], [], color=colour, linewidth=1.0, linestyle=(0, (5.0, 5.0)), label=literal(line.label))


def name_lines(axes: Axes, lines: Sequence[ReferenceLine], by_method: bool = True) -> None:
    """Writes the names of horizontal lines where no curve is; close lines have their names at different ends."""
    words = []
    for number, line in enumerate(sorted(lines, key=lambda line: line.value)):
        ends = [(0.985, "right"), (0.015, "left")]
        spots = [
            Spot((x, line.value), (0, 1.5 if va == "bottom" else -1.5), ha, va, ("axes fraction", "data"))
            for va in ("bottom", "top")
            for x, ha in (ends if number % 2 == 0 else ends[::-1])
        ]
        words.append(Annotation(line.label, spots, _line_colour(line, by_method), 6.5))
    annotate(axes, words)


def write_no_data(axes: Axes, lines: Sequence[ReferenceLine]) -> None:
    """Writes 'no data' into the largest gap between the horizontal lines."""
    to_axes = axes.transData + axes.transAxes.inverted()
    low, _ = axes.get_xlim()
    heights = sorted(float(to_axes.transform((low, line.value))[1]) for line in lines)
    bounds = [0.0, *heights, 1.0]
    size, start = max((upper - lower, lower) for lower, upper in itertools.pairwise(bounds))
    place: Any = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # hides the grid behind it
    axes.text(0.5, start + size / 2, NO_DATA, style="italic", color="#666666", **place)


def short_number(value: float) -> str:
    """A number as axis label: ``500``, ``10k``, ``2.5M``, ``0.2``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}".replace("-", "−")
    return f"{value:g}".replace("-", "−")
