"""The figure of ranks: methods in the order of their mean with intervals over training seeds, a panel for a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.effects.contrast import Estimated, mean_interval
from eval.figures import style
from eval.figures.layout import Drawing, FigureKind, Inches, Runs, check_pick
from eval.figures.sources import Sources
from eval.results.sheet import Needs
from sida.config.settings import Name
from sida.files.content_hash import csv_text

_COLUMNS = ("teacher", "rank", "method", "metric", "value", "low", "high", "seeds")


@dataclass(frozen=True, kw_only=True)
class RanksFigure(FigureKind):
    """Methods ranked by a metric, lowest first, with 95 % intervals (Student's t) over training seeds.

    Attributes:
        each: Conditions on the sample sheet.
        teachers: Teachers, a panel for each.
        metric: Key of the metric; lower is better.
        x_label: Label of the horizontal axes.
    """

    each: Mapping[str, Any]
    teachers: tuple[Name, ...]
    metric: str = "fd"
    x_label: str = "FD ↓"
    height: Inches = 3.0

    def __post_init__(self) -> None:
        check_pick(self, ("each",), "give conditions")

    def needs(self, runs: Runs) -> Needs:
        """Needs the measurements of the rows."""
        rows = [run.run for teacher in self.teachers for run in self.pick({**self.each, "teacher": teacher}, runs)]
        return Needs(rows, [])

    def check(self, sources: Sources) -> None:
        """Refuses rows without the metric."""
        for teacher in self.teachers:
            self._ranked(teacher, sources)

    def _ranked(self, teacher: str, sources: Sources) -> tuple[list[tuple[str, Estimated, int]], list[str]]:
        """Labels with intervals and numbers of seeds from the lowest mean up, and rows that are not measured."""
        values: dict[str, dict[str, list[float]]] = {}
        missing = []
        for run in self.pick({**self.each, "teacher": teacher}, sources.runs):
            if not sources.measurements.has(run.run, self.metric):
                missing.append(run.run)
                continue
            mean = sources.measurements.estimate(run.run, self.metric, self.source).mean
            values.setdefault(run.label, {"": []})[""].append(mean)
        found = [(label, mean_interval(seeds), len(seeds[""])) for label, seeds in values.items() if len(seeds[""]) > 1]
        return sorted(found, key=lambda one: one[1].value), missing

    def build(self, sources: Sources) -> Drawing:
        """Draws a dot with its interval for each method."""
        figure, lines, absent = style.new_figure(self.width, self.height), [], []
        for number, teacher in enumerate(self.teachers):
            ranked, missing = self._ranked(teacher, sources)
            absent += missing
            axes = figure.add_subplot(1, len(self.teachers), number + 1)
            for rank, (label, found, seeds) in enumerate(ranked, 1):
                axes.errorbar(found.value, rank, xerr=found.half_width, marker="o", color="#1f4e79", capsize=2)
                numbers = (teacher, rank, label, self.metric, found.value, found.low, found.high, seeds)
                lines.append(dict(zip(_COLUMNS, numbers)))
            axes.set_yticks(range(1, len(ranked) + 1), [style.literal(label) for label, _, _ in ranked])
            axes.invert_yaxis()
            axes.set_title(f"teacher {style.literal(teacher)}", loc="left", fontweight="bold")
            axes.set_xlabel(self.x_label)
            axes.grid(True, axis="x", linewidth=0.4, color="#dddddd")
        return Drawing(figure, csv_text(_COLUMNS, lines), absent)
