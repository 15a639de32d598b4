"""Places annotations on axes where they cover the least of the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.figures.style import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
