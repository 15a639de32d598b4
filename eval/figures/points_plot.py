"""Draws figures of points: means with intervals, single trainings, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.figures.axes import Annotation, Spot, annotate, draw_lines, draw_panels, short_number
from eval.figures.points import Mark, Marks, MarkSeries, gather_points, points_csv
from eval.figures.points_layout import PointsLayout
from eval.figures.sources import Sources
from eval.figures.style import Look, literal, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Legend entry of each kind of interval.
INTERVALS = {
    "t95": "95 % interval of the mean",
    "pooled95": "95 % interval of the mean, pooled scatter",
    "std": "± standard deviation",
    "range": "lowest to highest",
    "none": "",
}
ONE_LABEL = "hollow: one training"
SINGLE_LABEL = "single trainings"
LOST_LABEL = "at the top: not a finite number, in no mean"
#: Distance between series at equal positions that are moved apart, in points of 1/72 inch.
_APART = 3.0


class PointsFigure(PointsLayout):
    """Points of measured generators against a column, a setting or another metric."""

    def gather(self, sources: Sources) -> list[Marks]:
        """Collects the data of every panel."""
        return gather_points(self, sources)

    def draw(self, panels: Sequence[Marks]) -> tuple[Figure, str]:
        """Draws points with their intervals."""
        return draw_points(self, panels), points_csv(panels)


def draw_points(layout: PointsLayout, panels: Sequence[Marks]) -> Figure:
    """Draws the figure of a layout; looks are those of :mod:`eval.figures.style`.

    A point of several trainings is filled and has an interval and small dots for its trainings; a point of one training
    is hollow.
    """
    looks = looks_of([panel.curves for panel in panels], one_legend=layout.legend == "below")

    def draw(axes: Axes, panel: Marks) -> str:
        spec = panel.spec
        if panel.differences:
            axes.axhline(0, color="#222222", linewidth=0.8, zorder=1)
        places = [{mark.x for mark in series.marks} for series in panel.curves]
        shared = any(one & other for n, one in enumerate(places) for other in places[:n])
        for number, series in enumerate(panel.curves):
            apart = _APART * (number - (len(panel.curves) - 1) / 2) if shared else 0.0
            _draw_series(layout, axes, panel, series, looks[series.label, series.method, series.alpha], apart)
        draw_lines(axes, panel.lines, layout.legend == "panels")
        if spec.diagonal is not None and panel.curves:
            _diagonal(axes, spec.diagonal)
        return spec.x.metric if spec.x is not None else spec.by

    figure, grid = draw_panels(layout, panels, draw, lambda shown: _entries(layout, shown))
    for axes, panel in zip(grid, panels):
        if panel.spec.name_points:
            annotate(axes, [_name(mark, looks[s.label, s.method, s.alpha]) for s in panel.curves for mark in s.marks])
    return figure


def _entries(layout: PointsLayout, panels: Sequence[Marks]) -> dict[str, Any]:
    """Legend entries of intervals, single trainings and lost trainings."""
    from matplotlib.lines import Line2D

    marks = [mark for panel in panels for series in panel.curves for mark in series.marks]
    grey: dict[str, Any] = {"color": "#555555", "linestyle": "none"}
    found: dict[str, Any] = {}
    if any(len(mark.singles) > 1 for mark in marks):
        found[SINGLE_LABEL] = Line2D([], [], marker=".", markersize=5, markeredgewidth=0, **grey)
    for words in _intervals(panels):
        if layout.band:
            found[words] = Line2D([], [], color="#555555", linewidth=6.0, alpha=0.25)
        else:
            found[words] = Line2D([], [], marker="|", markersize=8, **grey)
    if any(len(mark.singles) == 1 for mark in marks):
        found[ONE_LABEL] = Line2D([], [], marker="o", markersize=4.5, markerfacecolor="white", **grey)
    if any(series.lost for panel in panels for series in panel.curves):
        found[LOST_LABEL] = Line2D([], [], marker="x", markersize=5, **grey)
    return found


def _intervals(panels: Sequence[Marks]) -> list[str]:
    """Descriptions of the drawn kinds of intervals, with panel numbers if the kinds differ."""
    kinds: dict[str, list[str]] = {}
    for panel in panels:
        for kind in {mark.interval for series in panel.curves for mark in series.marks if mark.ends}:
            kinds.setdefault(kind, []).append(panel.spec.title)
    return [INTERVALS[kind] if len(kinds) == 1 else f"{', '.join(t)}: {INTERVALS[kind]}" for kind, t in kinds.items()]


def _draw_series(layout: PointsLayout, axes: Axes, panel: Marks, series: MarkSeries, look: Look, apart: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    spec = panel.spec
    moved: Any = axes.transData + ScaledTranslation(apart / 72, 0, axes.figure.dpi_scale_trans)
    common: dict[str, Any] = {"color": look.colour, "transform": moved}
    x, y = [mark.x for mark in series.marks], [mark.value for mark in series.marks]
    # Matplotlib ignores points that are moved aside when it sets the limits of axes.
    axes.update_datalim(_extent(panel, series))
    axes.update_datalim([(place, 1.0) for place in series.lost], updatey=False)
    axes.autoscale_view()
    style: Any = (0, look.dashes) if look.dashes is not None else "-"
    axes.plot(x, y, linestyle=style if spec.connect else "none", linewidth=1.0, alpha=0.75, zorder=2.5, **common)
    for mark in series.marks:
        several = len(mark.singles) > 1
        if several:
            singles = [(single.x, single.value) for single in mark.singles]
            axes.plot(
                *zip(*singles), ".", markersize=5, markeredgewidth=0.5, markeredgecolor="white", zorder=3.5, **common
            )
        if mark.ends is not None and not layout.band:
            _bar(axes, [mark.x] * 2, _seen(mark.ends, mark.value, spec.y_scale), common)
        if mark.x_ends is not None and spec.x is not None and spec.x.of == "row":
            _bar(axes, _seen(mark.x_ends, mark.x, spec.x_scale), [mark.value] * 2, common)
        face = look.colour if several else "white"
        axes.plot([mark.x], [mark.value], look.marker, markersize=_size(look), markerfacecolor=face, zorder=4, **common)
    for place in series.lost:
        aside: Any = axes.get_xaxis_transform() + ScaledTranslation(apart / 72, 0, axes.figure.dpi_scale_trans)
        axes.plot([place], [0.98], "x", markersize=5, color=look.colour, transform=aside, zorder=4)
    if layout.band:
        _band(axes, series, look, spec.y_scale)
    # One legend entry with line and marker for a series that was drawn in parts.
    axes.plot(
        [],
        [],
        color=look.colour,
        marker=look.marker,
        markersize=_size(look),
        linestyle=style,
        label=literal(series.label),
    )


def _extent(panel: Marks, series: MarkSeries) -> list[tuple[float, float]]:
    """Positions of a series that the axes must include: points, trainings and ends of intervals."""
    spec, found = panel.spec, []
    for mark in series.marks:
        found += [(mark.x, mark.value), *((single.x, single.value) for single in mark.singles)]
        found += [(mark.x, end) for end in _seen(mark.ends or (mark.value, mark.value), mark.value, spec.y_scale)]
        if spec.x is not None and spec.x.of == "row":
            found += [(end, mark.value) for end in _seen(mark.x_ends or (mark.x, mark.x), mark.x, spec.x_scale)]
    return found


def _diagonal(axes: Axes, name: str) -> None:
    """Draws the line of equal values on both axes without changing the limits."""
    limits = axes.get_xlim(), axes.get_ylim()
    ends = [max(limits[0][0], limits[1][0]), min(limits[0][1], limits[1][1])]
    if ends[0] < ends[1]:
        axes.plot(ends, ends, color="#333333", linewidth=0.9, linestyle=(0, (3.0, 2.0)), zorder=1, label=name)
        axes.set(xlim=limits[0], ylim=limits[1])


def _size(look: Look) -> float:
    return 6.5 if look.marker == "*" else 4.5


def _bar(axes: Axes, x: Sequence[float], y: Sequence[float], common: dict[str, Any]) -> None:
    axes.plot(x, y, linestyle="-", linewidth=1.0, alpha=0.8, solid_capstyle="butt", zorder=3, **common)


def _seen(ends: tuple[float, float], value: float, scale: str) -> list[float]:
    """Ends of an interval that an axis can show; a logarithmic axis cannot show values up to zero."""
    return [max(ends[0], 0.2 * value) if scale == "log" else ends[0], ends[1]]


def _band(axes: Axes, series: MarkSeries, look: Look, scale: str) -> None:
    """Draws intervals as an area, which narrows to the point of a single training."""
    ends = [_seen(mark.ends or (mark.value, mark.value), mark.value, scale) for mark in series.marks]
    low, high = zip(*ends)
    x = [mark.x for mark in series.marks]
    axes.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0, zorder=1.5)


def _name(mark: Mark, look: Look) -> Annotation:
    """Text with the value of ``by`` at a corner of a point."""
    corners = [(4, 3), (4, -3), (-4, 3), (-4, -3), (9, 0), (-9, 0), (0, 8), (0, -8)]
    spots = [
        Spot((mark.x, mark.value), (x, y), "left" if x > 0 else "right" if x < 0 else "center",
             "bottom" if y > 0 else "top" if y < 0 else "center")
        for x, y in corners
    ]  # fmt: skip
    return Annotation(mark.by if isinstance(mark.by, str) else short_number(mark.by), spots, look.colour, 6.2)
