"""A figure from its files to its files: what ``sida-eval figure`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from eval.figures.layout import CurvesLayout, load_figure_layout
from eval.results.published import load_published
from eval.results.summary import Measurements, load_measurements
from sida.errors import UserError, suggestion
from sida.io import write_text
from sida.resources import find
from sida.sheet import read_runs


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
        spec: Generators that grids of samples are drawn from: JSON text or a file.
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
    if not isinstance(shown, CurvesLayout):
        from eval.figures.samples import build_samples

        paths, absent = build_samples(shown, sheet, spec, out)
        return paths, [f"not shown, no data yet: {name}" for name in absent]
    from eval.figures import style
    from eval.figures.gather import Sources, curves_csv, gather
    from eval.figures.plot import draw_curves
    from eval.figures.select import present

    for name in logs or {}:
        if name not in sheet:
            raise UserError(f"--log {name}: give RUN=FILE with a run of the sample sheet{suggestion(name, sheet)}")
    there = measurements is not None and Path(measurements).is_file()
    measured = load_measurements(measurements) if there and measurements else Measurements([], "no measurements")
    official = {name: Path(path) for name, path in (logs or {}).items()}
    sources = Sources(measured, sheet, load_published(published), Path(results) / "students", official)
    shown = present(shown, sheet)
    panels = gather(shown, sources)
    figure = draw_curves(shown, panels)
    write_text(out.with_suffix(".csv"), curves_csv(shown, panels))
    paths = [*style.save(figure, out, shown.title), out.with_suffix(".csv")]
    missing = [f"not shown, no data yet: {name}" for panel in panels for name in panel.missing]
    return paths, [*missing, *dict.fromkeys(f"note: {note}" for panel in panels for note in panel.notes)]
