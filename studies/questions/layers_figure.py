"""The figure of profiles: how much a network's output changes without each of its blocks, by noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.effects.contrast import Estimated, mean_interval
from eval.figures import style
from eval.figures.layout import Drawing, FigureKind, Inches, Runs, check_pick
from eval.figures.sources import Sources
from eval.results.sheet import Needs
from sida.files.content_hash import csv_text

from .layers import SIGMA, profiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Name of the analysis in the preset.
ANALYSIS = "layers"
_COLUMNS = ("run", "block", SIGMA, "change", "low", "high")


@dataclass(frozen=True, kw_only=True)
class LayersFigure(FigureKind):
    """Changes of a network's output without each of its blocks (analysis ``layers``), with a panel for each row.

    Attributes:
        each: Conditions on the sample sheet.
    """

    each: Mapping[str, Any]
    height: Inches = 5.0

    def __post_init__(self) -> None:
        check_pick(self, ("each",), "give conditions")

    def needs(self, runs: Runs) -> Needs:
        """Needs the networks of the rows and their analysis."""
        rows = [run.run for run in self.pick(self.each, runs)]
        return Needs([], rows, analyses={ANALYSIS: rows})

    def check(self, sources: Sources) -> None:
        """Refuses rows whose analysis the preset does not compute."""
        self._curves(sources)

    def _curves(self, sources: Sources) -> dict[str, Any]:
        rows = [run.run for run in self.pick(self.each, sources.runs)]
        found = sources.analyses(ANALYSIS, rows, f"{self.source}: each")
        return {run: record["curves"] for run, record in found.items()}

    def build(self, sources: Sources) -> Drawing:
        """Draws curves on logarithmic axes with 95 % intervals over repeats; a row with one noise level as points."""
        rows, there = self.pick(self.each, sources.runs), self._curves(sources)
        figure, lines = style.new_figure(self.width, self.height), []
        shown = [run for run in rows if run.run in there]
        first: Axes | None = None
        for number, run in enumerate(shown):
            axes = figure.add_subplot((len(shown) + 1) // 2, 2, number + 1, sharex=first, sharey=first)
            first = first or axes
            found = {
                block: {sigma: mean_interval({"": changes}) for sigma, changes in levels.items()}
                for block, levels in profiles(there[run.run]).items()
            }
            _draw(axes, found)
            axes.set_title(f"{chr(ord('a') + number)}  {style.literal(run.label)}", loc="left", fontweight="bold")
            lines += [
                dict(zip(_COLUMNS, (run.run, block, sigma, change.value, change.low, change.high)))
                for block, levels in found.items()
                for sigma, change in levels.items()
            ]
        if first is not None:
            handles, names = first.get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
        return Drawing(figure, csv_text(_COLUMNS, lines), [run.label for run in rows if run not in shown])


def _draw(axes: Axes, found: dict[str, dict[float, Estimated]]) -> None:
    import matplotlib

    for number, (block, levels) in enumerate(found.items()):
        colour = matplotlib.colormaps["viridis"](0.92 * number / max(1, len(found) - 1))
        dashes = "--" if " dec." in block else "-"
        values, errors = zip(*((change.value, change.half_width) for change in levels.values()))
        axes.errorbar([*levels], values, errors, color=colour, linestyle=dashes, marker="o", label=block)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlabel="noise level σ", ylabel="relative change of F")
    axes.grid(True, linewidth=0.4, color="#dddddd")
