"""Draws figures of curves with reference lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.figures.axes import draw_lines, draw_panels
from eval.figures.curves import CurvesLayout, Panel, curves_csv
from eval.figures.style import Look, literal, looks_of
from eval.results.logs import Curve, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT_LABEL = "hollow: kept generator, measured again"
_EDGE_LABEL = "\n(on the left edge: its start)"
#: Most bands, and most bars, that remain distinguishable in a panel.
_MOST_BANDS, _MOST_BARS = 5, 25
#: Distance between neighbouring curves that are moved apart, in points of 1/72 inch.
_APART = 1.6
_KEPT_LOOK: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "color": "#555555"}


class CurvesFigure(CurvesLayout):
    """Curves of metrics or quantities of training logs against images seen, or of an analysis's columns."""

    def draw(self, panels: Sequence[Panel]) -> tuple[Figure, str]:
        """Draws curves and lines."""
        return draw_curves(self, panels), curves_csv(self, panels)


def draw_curves(layout: CurvesLayout, panels: Sequence[Panel]) -> Figure:
    """Draws the figure of a layout; looks are those of :mod:`eval.figures.style`."""
    looks = looks_of([panel.curves for panel in panels], layout.colours == "alpha", layout.legend == "below")
    by_method = layout.colours == "method"

    def draw(axes: Axes, panel: Panel) -> str:
        for number, curve in enumerate(panel.curves):
            apart = _APART * (number - (len(panel.curves) - 1) / 2) if _crowded(panel) else 0.0
            _draw_curve(layout, axes, panel, curve, looks[curve.label, curve.method, curve.alpha], apart)
        draw_lines(axes, panel.lines, layout.legend == "panels", by_method)
        if not panel.curves and panel.spec.x_min and panel.spec.x_max:
            axes.set_xlim(panel.spec.x_min, panel.spec.x_max)
        return {"images": "training images", "seconds": "seconds of training"}.get(layout.x, layout.x)

    return draw_panels(layout, panels, draw, _kept_entry, by_method)[0]


def _kept_entry(panels: Sequence[Panel]) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    if not any(panel.finals for panel in panels):
        return {}
    edge = any(_on_edge(panel, curve) for panel in panels for curve in panel.curves if curve.run in panel.finals)
    return {KEPT_LABEL + _EDGE_LABEL * edge: Line2D([], [], linestyle="none", **_KEPT_LOOK)}


def _on_edge(panel: Panel, curve: Curve) -> bool:
    """Whether the kept generator is the start, which a logarithmic axis shows at its left edge."""
    return panel.spec.x_scale == "log" and curve.best.nimg == 0


def _crowded(panel: Panel) -> bool:
    """Whether bands would overlap too much; evaluations then get bars, and curves are moved apart a little."""
    banded = [curve for curve in panel.curves if any(point.std for point in curve.points)]
    return len(banded) > _MOST_BANDS and all(len(curve.points) <= _MOST_BARS for curve in banded)


def _draw_curve(layout: CurvesLayout, axes: Axes, panel: Panel, curve: Curve, look: Look, apart: float) -> None:
    from matplotlib import patheffects
    from matplotlib.transforms import ScaledTranslation

    unit = layout.unit(curve)
    # A logarithmic axis cannot show the evaluation before training; the CSV has it.
    points = [p for p in curve.points if p.nimg > 0 or panel.spec.x_scale == "linear"]
    if panel.spec.x_max is not None:
        points = [p for p in points if p.nimg / unit <= panel.spec.x_max]
    x = [p.nimg / unit for p in points]
    y = [p.value for p in points]
    # A white rim separates a curve from the lines that it crosses.
    rim = [patheffects.Stroke(linewidth=2.6, foreground="white"), patheffects.Normal()]
    common: dict[str, Any] = {"color": look.colour}
    if apart:
        common["transform"] = axes.transData + ScaledTranslation(apart / 72, 0, axes.figure.dpi_scale_trans)
    (drawn,) = axes.plot(x, y, marker=look.marker, label=literal(curve.label), path_effects=rim, zorder=3, **common)
    if len(points) > 25:
        drawn.set_markevery(0.09)
    if look.dashes is not None:
        drawn.set_dashes(look.dashes)
    if any(point.std for point in points):
        _draw_spread(axes, panel, x, points, common)
    if panel.spec.chord and points:
        axes.plot([x[0], x[-1]], [y[0], y[-1]], color=look.colour, linewidth=0.7, linestyle=":", zorder=2)
    final = panel.finals.get(curve.run)
    if final is not None:
        place: dict[str, Any] = {}
        if _on_edge(panel, curve):
            place = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.errorbar(
            [curve.best.nimg / unit],
            [final.mean],
            **place,
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


def _draw_spread(axes: Axes, panel: Panel, x: list[float], points: list[Point], common: dict[str, Any]) -> None:
    """Draws the spread of a curve's evaluations as a band or as bars."""
    low = [point.value - (point.std or 0) for point in points]
    if panel.spec.y_scale == "log":
        low = [max(bottom, 0.2 * point.value) for bottom, point in zip(low, points)]
    high = [point.value + (point.std or 0) for point in points]
    if _crowded(panel):
        # Matplotlib ignores bars that are moved aside when it sets the limits of axes.
        axes.margins(x=0.08)
        axes.update_datalim([*zip(x, low), *zip(x, high)])
        axes.autoscale_view()
        for place, *ends in zip(x, low, high):
            axes.plot([place] * 2, ends, linestyle="-", linewidth=0.8, alpha=0.8, zorder=2.5, **common)
        return
    # Overlapping bands turn grey, so more bands are drawn fainter; their edges stay.
    crowd = max(2, len(panel.curves))
    axes.fill_between(x, low, high, alpha=0.34 / crowd, linewidth=0, zorder=1.5, **common)
    for edge in (low, high):
        axes.plot(x, edge, linewidth=0.5, alpha=max(0.3, 1.2 / crowd), zorder=1.6, **common)
