"""Builds a figure from files (``sida-eval figure``).

Figure kinds: of this package, and of a study's own file (``kind: FILE.py:CLASS``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from eval.figures import style
from eval.figures.layout import CurvesLayout, Drawing, FigureKind, Runs, SamplesLayout
from eval.figures.points_layout import PointsLayout
from eval.figures.sources import Sources
from eval.results.published import load_published
from eval.results.sheet import Needs, read_extended, read_runs
from eval.results.summary import Measurements, load_measurements, measurements_file
from sida.config.registry import Registry
from sida.config.resources import find, located_object
from sida.config.settings import from_mapping, load_spec, names_file_object
from sida.errors import UserError, suggestion
from sida.files.atomic import write_text


class CurvesFigure(CurvesLayout):
    """Curves of metrics or quantities of training logs against images seen, or of an analysis's columns."""

    def needs(self, runs: Runs) -> Needs:
        """Needs rows with a curve, and measured rows of reference lines."""
        panels = self.present(runs).panels
        curves, logged, analysed = set[str](), set[str](), dict[str, list[str]]()
        for panel in panels:
            rows = [run.run for series in panel.series for run in self.pick(series.each, runs)]
            curves.update(rows)
            if panel.of is None:
                logged.update(rows)
            else:
                analysed[panel.of] = list(dict.fromkeys([*analysed.get(panel.of, ()), *rows]))
        lines = {run.run for panel in panels for line in panel.lines for run in self.line_rows(line, runs)}
        return Needs((logged | lines) if self.final else lines, curves, analyses=analysed)

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
        analysed: dict[str, list[str]] = {}
        for panel in self.present(runs).panels:
            shown = self.panel_rows(panel, runs)
            for series, run in shown:
                settings.setdefault(run.run, set()).add(series.by or panel.by)
            measured |= {run.run for line in panel.lines for run in self.line_rows(line, runs)}
            if panel.of is None:
                (logged if panel.at == "end" else measured).update(run.run for _, run in shown)
            else:
                analysed[panel.of] = list(dict.fromkeys([*analysed.get(panel.of, ()), *(run.run for _, run in shown)]))
            if panel.x is not None and panel.x.of == "teacher":
                measured |= {run.run for _, row in shown for run in self.teachers(panel.x, row, runs)}
            elif panel.x is not None:
                measured |= {run.run for _, run in shown}
        return Needs(measured, logged, settings=settings, analyses=analysed)

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
FIGURE_KINDS: Registry[type[FigureKind]] = Registry(
    "figure kind",
    "eval.figures.layout:FigureKind",
    {"curves": CurvesFigure, "samples": SamplesFigure, "points": PointsFigure},
    files=True,
)


def load_figure_layout(path: str | Path) -> FigureKind:
    """Reads a figure's layout; its ``kind`` is one of :data:`FIGURE_KINDS`, or a class of the study's own.

    Raises:
        UserError: Missing file, unknown kind or key, wrong type (file and key are named), or code without permission.
    """
    path = Path(path)
    mapping = read_extended(path)
    kind = FIGURE_KINDS.check(mapping.pop("kind", None), f"{path}: kind")
    if names_file_object(kind):
        # Beside the layout, or in the folder above, which is the preset's.
        kind = located_object(kind, [path.parent, path.parent.parent])
    mapping["source"] = str(path)
    shown: FigureKind = from_mapping(FIGURE_KINDS.find(kind, f"{path}: kind"), mapping, f"{path}:")
    return shown


def build_figure(
    layout: str | Path,
    runs: str | Path,
    results: str | Path,
    out: str | Path,
    *,
    measurements: str | Path | None = None,
    spec: str | None = None,
    logs: Mapping[str, str] | None = None,
    published: str | Path | None = None,
    scope: Mapping[str, object] | None = None,
) -> tuple[list[Path], list[str]]:
    """Builds a figure as ``.pdf``, ``.png`` and ``.csv``; returns the paths and remarks for the user.

    Args:
        layout: A file, or a name in ``config/figures``.
        runs: Sample sheet.
        results: Results of the preset; ``students/<run>/`` holds the training logs.
        out: The ``.pdf``; the other files are written beside it.
        measurements: ``measurements.csv``, for reference lines; a file that does not exist yet counts as empty.
        spec: JSON text or a file with ``generators`` for grids of samples, and ``settings`` of rows for the axes of
            figures of points.
        logs: Official metric logs by run; they take precedence over the logs in ``results``.
        published: Folder of published numbers; by default ``results/published``.
        scope: Conditions on the sample sheet added to every run.

    Raises:
        UserError: A faulty layout, log or sheet, or an output name that is not ``*.pdf``.
    """
    out = Path(out)
    if out.suffix != ".pdf":
        raise UserError(f"--out {out}", "must end in .pdf", ".png and .csv are written beside it")
    shown = load_figure_layout(find("figures", str(layout), where="--layout"))
    shown = dataclasses.replace(shown, scope={**(shown.scope or {}), **(scope or {})})
    sheet = {run.run: run for run in read_runs(runs)}
    for name in logs or {}:
        if name not in sheet:
            raise UserError(f"--log {name}", f"give RUN=FILE with a run of the sample sheet{suggestion(name, sheet)}")
    there = measurements is not None and measurements_file(measurements).is_file()
    measured = load_measurements(measurements) if there and measurements else Measurements([], "no measurements")
    official = {name: Path(path) for name, path in (logs or {}).items()}
    given = load_spec(spec) if spec else None
    sources = Sources(
        measured,
        sheet,
        load_published(published),
        Path(results),
        official,
        settings=given.get("settings", {}) if given else {},
        generators=given.get("generators", False) if given is not None else None,
    )
    figure, data, missing, notes = shown.build(sources)
    write_text(out.with_suffix(".csv"), data)
    paths = [*style.save(figure, out, shown.title), out.with_suffix(".csv")]
    remarks = [f"not shown, no data yet: {name}" for name in missing]
    return paths, [*remarks, *dict.fromkeys(f"note: {note}" for note in notes)]
