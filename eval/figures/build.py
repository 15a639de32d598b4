"""Builds a figure from files (``sida figure``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from eval.figures import style
from eval.figures.layout import load_figure_layout
from eval.figures.sources import Sources
from eval.results.published import load_published
from eval.results.sheet import read_runs
from eval.results.summary import Measurements, load_measurements, measurements_file
from sida.config.resources import find
from sida.config.settings import load_spec
from sida.errors import UserError, suggestion
from sida.files.atomic import write_text


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
    measured = Measurements([], "no measurements")
    if measurements is not None and measurements_file(measurements).is_file():
        measured = load_measurements(measurements)
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
