"""Figure kinds of this package; a new kind is a class with its layout's keys, and a line in :data:`FIGURE_KINDS`."""

from __future__ import annotations

from pathlib import Path

from eval.figures.analytic import AnalyticFigure
from eval.figures.barriers import BarriersFigure
from eval.figures.kind import Drawing, FigureKind, Runs
from eval.figures.layers import LayersFigure
from eval.figures.layout import CurvesLayout, SamplesLayout
from eval.figures.points_layout import PointsLayout
from eval.figures.sources import Sources
from eval.results.selection import Needs, read_extended
from sida.config.mapping import from_mapping
from sida.errors import UserError


class CurvesFigure(CurvesLayout):
    """Curves of metrics, or of quantities of training logs, against images seen."""

    def needs(self, runs: Runs) -> Needs:
        """Needs rows with a curve, and measured rows of reference lines."""
        panels = self.present(runs).panels
        curves = {run.run for panel in panels for series in panel.series for run in self.pick(series.each, runs)}
        lines = {run.run for panel in panels for line in panel.lines for run in self.line_rows(line, runs)}
        return Needs((curves | lines) if self.final else lines, curves)

    def check(self, sources: Sources) -> None:
        """Refuses rows without a curve, and lines without a level."""
        from eval.figures.gather import gather

        gather(self.present(sources.runs), sources)

    def build(self, sources: Sources) -> Drawing:
        """Draws curves and lines."""
        from eval.figures.gather import curves_csv, gather
        from eval.figures.plot import draw_curves

        layout = self.present(sources.runs)
        panels = gather(layout, sources)
        missing, notes = zip(*((panel.missing, panel.notes) for panel in panels))
        return Drawing(draw_curves(layout, panels), curves_csv(layout, panels), sum(missing, ()), sum(notes, ()))


class PointsFigure(PointsLayout):
    """Points of measured generators against a column, a setting or another metric."""

    def needs(self, runs: Runs) -> Needs:
        """Needs rows with a point, their teachers and measured lines, and settings of the horizontal axis."""
        measured, logged, settings = set[str](), set[str](), dict[str, set[str]]()
        for panel in self.present(runs).panels:
            shown = self.panel_rows(panel, runs)
            for series, run in shown:
                settings.setdefault(run.run, set()).add(series.by or panel.by)
            measured |= {run.run for line in panel.lines for run in self.line_rows(line, runs)}
            (logged if panel.at == "end" else measured).update(run.run for _, run in shown)
            if panel.x is not None and panel.x.of == "teacher":
                measured |= {run.run for _, row in shown for run in self.teachers(panel.x, row, runs)}
            elif panel.x is not None:
                measured |= {run.run for _, run in shown}
        return Needs(measured, logged, settings=settings)

    def check(self, sources: Sources) -> None:
        """Refuses rows without a point."""
        from eval.figures.points import gather_points

        gather_points(self.present(sources.runs), sources)

    def build(self, sources: Sources) -> Drawing:
        """Draws points with their intervals."""
        from eval.figures.points import gather_points, points_csv
        from eval.figures.points_plot import draw_points

        layout = self.present(sources.runs)
        panels = gather_points(layout, sources)
        missing, notes = zip(*((panel.missing, panel.notes) for panel in panels))
        return Drawing(draw_points(layout, panels), points_csv(panels), sum(missing, ()), sum(notes, ()))


class SamplesFigure(SamplesLayout):
    """Images of the same seeds; with ``neighbours`` also their nearest real images."""

    def needs(self, runs: Runs) -> Needs:
        """Needs the networks to sample."""
        rows = {run.run for panel in self.panels for run in self.panel_rows(panel, runs)}
        return Needs([], rows, sampled=True)

    def check(self, sources: Sources) -> None:
        """Refuses panels without exactly one row."""
        self.grids(sources.runs)

    def build(self, sources: Sources) -> Drawing:
        """Samples and draws."""
        from eval.figures.samples import build_samples

        return build_samples(self, sources)


#: Figure kinds by the ``kind`` of a layout.
FIGURE_KINDS: dict[str, type[FigureKind]] = {
    "curves": CurvesFigure,
    "samples": SamplesFigure,
    "points": PointsFigure,
    "analytic": AnalyticFigure,
    "barriers": BarriersFigure,
    "layers": LayersFigure,
}


def load_figure_layout(path: str | Path) -> FigureKind:
    """Reads a figure's layout; its ``kind`` is one of :data:`FIGURE_KINDS`.

    Raises:
        UserError: Missing file, unknown kind or key, wrong type (file and key are named).
    """
    mapping = read_extended(Path(path))
    kind = mapping.pop("kind", None)
    if kind not in FIGURE_KINDS:
        raise UserError(f"{path}: kind: must be one of {', '.join(FIGURE_KINDS)}, got {kind!r}")
    mapping["source"] = str(path)
    return from_mapping(FIGURE_KINDS[kind], mapping, f"{path}:")
