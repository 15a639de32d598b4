"""A figure from its files to its files: what ``sida-eval figure`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.figures.layout import AnalyticLayout, BarriersLayout, CurvesLayout, SamplesLayout, load_figure_layout
from eval.figures.points_layout import PointsLayout
from eval.figures.select import present
from eval.results.published import load_published
from eval.results.sheet import read_runs
from eval.results.summary import Measurements, load_measurements
from sida.config.mapping import load_spec
from sida.config.resources import find
from sida.errors import UserError, suggestion
from sida.files.atomic import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eval.figures.gather import Panel, Sources
    from eval.figures.points import Marks


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
    """Writes ``.pdf``, ``.png`` and ``.csv``; returns their paths and remarks for the user.

    Args:
        layout: A file, or a name in ``config/figures``.
        runs: Sample sheet.
        results: Results of the preset; ``students/<run>/`` holds the training logs.
        out: The ``.pdf``; the others lie beside it.
        measurements: ``measurements.csv``, for reference lines; a file that does not exist yet counts as empty.
        spec: JSON text or a file with the ``generators`` that grids of samples are drawn from, and the ``settings`` of
            rows that figures of points stand against.
        logs: Official metric logs by run; they take precedence over ours.
        published: Folder of published numbers; by default ``results/published``.
        scope: Conditions on the sample sheet added to every run.

    Raises:
        UserError: A faulty layout, log or sheet, or an output name that is not ``*.pdf``.
    """
    out = Path(out)
    if out.suffix != ".pdf":
        raise UserError(f"--out {out}: must end in .pdf; .png and .csv are written beside it")
    shown = load_figure_layout(find("figures", str(layout), where="--layout"))
    shown = dataclasses.replace(shown, scope={**(shown.scope or {}), **(scope or {})})
    sheet = {run.run: run for run in read_runs(runs)}
    if isinstance(shown, AnalyticLayout):
        from eval.figures.analytic import build_analytic

        return build_analytic(shown, Path(results) / "analytic.json", out), []
    if isinstance(shown, BarriersLayout):
        from eval.figures.barriers import build_barriers

        paths, absent = build_barriers(shown, sheet, Path(results) / "barriers", out)
        return paths, [f"not shown, no data yet: {name}" for name in absent]
    if isinstance(shown, SamplesLayout):
        from eval.figures.samples import build_samples

        paths, absent = build_samples(shown, sheet, spec, out)
        return paths, [f"not shown, no data yet: {name}" for name in absent]
    from eval.figures import style
    from eval.figures.gather import Sources

    for name in logs or {}:
        if name not in sheet:
            raise UserError(f"--log {name}: give RUN=FILE with a run of the sample sheet{suggestion(name, sheet)}")
    there = measurements is not None and Path(measurements).is_file()
    measured = load_measurements(measurements) if there and measurements else Measurements([], "no measurements")
    official = {name: Path(path) for name, path in (logs or {}).items()}
    settings = load_spec(spec).get("settings", {}) if spec else {}
    students = Path(results) / "students"
    sources = Sources(measured, sheet, load_published(published), students, official, settings=settings)
    figure, data, panels = _points(shown, sources) if isinstance(shown, PointsLayout) else _curves(shown, sources)
    write_text(out.with_suffix(".csv"), data)
    paths = [*style.save(figure, out, shown.title), out.with_suffix(".csv")]
    missing = [f"not shown, no data yet: {name}" for panel in panels for name in panel.missing]
    return paths, [*missing, *dict.fromkeys(f"note: {note}" for panel in panels for note in panel.notes)]


def _curves(layout: CurvesLayout, sources: Sources) -> tuple[Figure, str, Sequence[Panel]]:
    from eval.figures.gather import curves_csv, gather
    from eval.figures.plot import draw_curves

    layout = present(layout, sources.runs)
    panels = gather(layout, sources)
    return draw_curves(layout, panels), curves_csv(layout, panels), panels


def _points(layout: PointsLayout, sources: Sources) -> tuple[Figure, str, Sequence[Marks]]:
    from eval.figures.points import gather_points
    from eval.figures.points_csv import points_csv
    from eval.figures.points_plot import draw_points

    layout = present(layout, sources.runs)
    panels = gather_points(layout, sources)
    return draw_points(layout, panels), points_csv(panels), panels
